"""The one door from the command line: `python -m utils train experiment_5`, `search`, `publish`, `report`, ..."""

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module

from utils.errors import TOO_LITTLE, ProjectError, lacks_memory, printable


def whole_number(low: int, high: float = math.inf) -> Callable[[str], int]:
    """A reader of whole numbers within these limits."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not low <= int(text) <= high:
            limits = f"from {low} on" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text[:50]!r} is not a whole number {limits}")
        return int(text)

    return read


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m utils", description="Train, publish and report the experiments.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, experiment: str | None = None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        if experiment:
            added.add_argument("experiment", help=experiment)
        return added

    network = "a network of utils/models.py, such as experiment_5"
    train = command("train", "train a network, or go on where its last run stopped", network)
    floats = ("float32", "bfloat16", "float16")
    train.add_argument("--precision", choices=floats, help="default: the recipe's, or what suits the machine")
    train.add_argument("--device", choices=("cuda", "mps", "cpu"), help="default: a GPU if there is one")
    or_table = f"{network}, or ablation, benchmark, search"
    publish = command("publish", "copy a finished run on CIFAR-10 from runs/ into results/", or_table)
    search = command("search", "train with something changed and judge it on held-out images", network)
    search.add_argument("changes", nargs="*", help="NAME=VALUE: of the recipe, or an argument of the network")
    judged = "on 45,000 images, judged on the other 5,000 training images"
    for added in (train, publish):
        added.add_argument("--epochs", type=whole_number(1), help="other than the recipe's")
        added.add_argument("--validation", action="store_true", help=judged)
    for added in (train, publish, search):
        added.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=1, help="default: 1")
    command("ablate", "train one change at a time, three seeds each, as far as it is missing")
    predict = command("predict", "what a published network says of your pictures")
    predict.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG or another common kind of picture")
    predict.add_argument("--network", default="experiment_5", help="default: experiment_5")
    predict.add_argument("--figure", metavar="OUT.png", help="draw what the network saw and where it looked")
    command("calibrate", "fit the temperature of a published run on the test images", network)
    export = command("export", "write a published network as ONNX", network)
    export.add_argument("--output", metavar="FILE", help="default: NAME.onnx in runs/")
    app = command("app", "predict in the browser, on this machine only")
    app.add_argument("--port", type=whole_number(1, 65535), default=7860, help="default: 7860")
    command("runs", "list every finished run in runs/")
    command("report", "results/ -> the README's tables and figures")
    bench = command("bench", "the plain training loop and ours in turn on the same images")
    other = bench.add_mutually_exclusive_group()
    other.add_argument("--rounds", type=whole_number(1), help="default: 5")
    for option, what, text in (
        ("--accuracy", "compare_accuracy", "what they reach on the held-out images"),
        ("--minutes", "compare_minutes", "the quickest whole training and the usual one"),
        ("--growth", "grow", "time and memory against size"),
    ):
        other.add_argument(option, dest="what", action="store_const", const=what, help=f"instead, {text}")
    links = command("links", "point every badge and bootstrap cell at your copy on GitHub")
    links.add_argument("repository", nargs="?", default="", help="owner/name")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------- the commands; each imports what it needs, for speed


def train(arguments: argparse.Namespace) -> None:
    from copy import deepcopy
    from dataclasses import replace

    from torchsummary import summary

    from utils import architecture, plotting, runs
    from utils.data import load_cifar10
    from utils.engine import distributed
    from utils.engine.records import images_of, path_of, read_metrics
    from utils.engine.steps import device_to_use
    from utils.study import layers
    from utils.study.baselines import chosen

    name, (network, row) = arguments.experiment, chosen(arguments.experiment)
    published = [name] if (path_of(name) / "metrics.json").exists() and read_metrics(name) else []  # not after training
    epochs = arguments.epochs or row.recipe.epochs
    recipe = replace(row.recipe, epochs=epochs, precision=arguments.precision or row.recipe.precision)
    with distributed.process_group(arguments.device):
        device = device_to_use(arguments.device)
        data = load_cifar10()
        model = runs.build(network)
        try:
            with redirect_stdout(io.StringIO()) as said:
                summary(deepcopy(model), (3, 32, 32), device="cpu")  # where it fails, it leaves its hooks
            print(said.getvalue())
        except Exception:  # of networks it was not made for, such as an LSTM
            print("torchsummary cannot read this network; here are its layers.")
        else:
            if f"Total params: {(count := sum(p.numel() for p in model.parameters())):,}\n" not in said.getvalue():
                print(f"torchsummary miscounts this network, which has {count:,} parameters.\n")
        print(layers.table(model).to_string(), "\n")
        architecture.check_rules(model)
        known = dict(data_source=data.source, run=dict(data=dict(digest=data.digest)))
        print(f"\nTraining {name}; images: {images_of(known)}.")
        run = runs.train(
            network, recipe, data, name=name, seed=arguments.seed, test=not arguments.validation, device=device
        )
        print(f"\n{runs.compare(run, *published, row.prior).to_string()}")
        if run.folder and distributed.rank() == 0:
            plotting.save(plotting.curves(run, row.prior), run.folder / "curves.png")
            print(f"\nThe run and its graphs are in {runs.title_of(run.folder)}.")


def search(arguments: argparse.Namespace) -> None:
    import utils
    from utils.data import load_cifar10
    from utils.study import search

    search.parse(arguments.experiment, arguments.changes)  # before any image is loaded
    table = search.attempt(arguments.experiment, arguments.changes, load_cifar10(), arguments.seed)
    table = search.tried(arguments.experiment, table)
    always = ("epochs", "parameters", "validation_accuracy")
    shown = [column for column in table if column in always or table[column].nunique(dropna=False) > 1]
    place = "not kept, as FAST_RUN is set" if utils.FAST_RUN else "in runs/search"
    print(f"\nAll tries of {arguments.experiment}, {place}:\n{table[shown].to_string()}")


def publish(arguments: argparse.Namespace) -> None:
    import utils
    from utils.errors import RunError
    from utils.experiments import EXPERIMENTS
    from utils.report.publish import publish_run, publish_tables

    name = arguments.experiment
    if name in ("ablation", "benchmark", "search"):
        if arguments.validation or arguments.epochs or arguments.seed != 1:
            raise RunError(f"{name} is published whole; leave --seed, --epochs and --validation out.")
        target = publish_tables(name)
    else:
        target = publish_run(name, arguments.seed, arguments.validation, arguments.epochs)
    of_no_page = arguments.validation or arguments.epochs or "/" in name
    shown = of_no_page or name in [*EXPERIMENTS, "ablation", "benchmark", "search"]
    add = "" if shown else f"add {name} to RECORDS in utils/experiments.py, and "
    print(f"Published into {target.relative_to(utils.ROOT)}; {add}`make report` brings it into the README and images/.")
    if (target / "weights.pt").exists():
        print(f"`python -m utils calibrate {name}` fits its temperature, which `predict` needs.")


def predict(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from utils import plotting
    from utils.errors import DataError
    from utils.serve.predict import Predictor, open_picture, sentence

    files = [Path(os.path.expanduser(name)) for name in arguments.files]
    drawn = Path(os.path.expanduser(arguments.figure)) if arguments.figure is not None else None
    if drawn and drawn.exists() and any(drawn.samefile(file) for file in files if file.exists()):
        raise DataError(f"{arguments.figure} is one of the pictures; give the figure another name.")
    if drawn and drawn.suffix.lower() != ".png":
        raise DataError(f"{arguments.figure!r} does not end in .png; name the figure so.")
    if drawn and len(files) > 100:
        raise DataError(f"A figure holds at most 100 pictures, not {len(files)}; name fewer.")
    predictor, answered = Predictor(arguments.network), []
    for file in files:
        try:
            answered.append(predictor(open_picture(file)))
            print(sentence(file, answered[-1]), flush=True)
        except DataError as error:
            print(f"Error: {error}", file=sys.stderr)
    if drawn and answered:
        best = [dict(list(p.probabilities.items())[:3]) for p in answered]
        figure = plotting.predictions([p.pixels for p in answered], map(predictor.grad_cam, answered), best)
        plotting.save(figure, drawn)
        print(f"What the network saw is in {printable(arguments.figure)}.")
    return 0 if len(answered) == len(arguments.files) else 2


def runs(_: argparse.Namespace) -> None:
    from utils.study import search

    table = search.tries()
    print(table.to_string() if len(table) else "runs/ holds no finished run yet.")


def bench(arguments: argparse.Namespace) -> None:
    benchmark = import_module("utils.study.benchmark")
    getattr(benchmark, arguments.what)() if arguments.what else benchmark.compare(arguments.rounds or 5)


COMMANDS = {
    "train": train,
    "search": search,
    "ablate": lambda _: import_module("utils.study.ablation").ablate(import_module("utils.data").load_cifar10()),
    "publish": publish,
    "predict": predict,
    "runs": runs,
    "bench": bench,
    "calibrate": lambda a: import_module("utils.report.publish").calibrate(a.experiment),
    "report": lambda _: import_module("utils.report.readme").write(),
    "links": lambda a: import_module("utils.report.readme").set_links(a.repository),
    "export": lambda a: import_module("utils.serve.export").write(a.experiment, a.output),
    "app": lambda a: import_module("utils.serve.app").serve(a.port),
}


def main(arguments: list[str] | None = None) -> int:
    parsed = None
    try:
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no terminal's end
            if signal.getsignal(number) != signal.SIG_IGN:  # which nohup asks for
                signal.signal(number, signal.default_int_handler)  # ends like Ctrl-C
        parsed = parse(arguments)
        code = COMMANDS[parsed.command](parsed) or 0
        sys.stdout.flush()  # a full disk is said here, and not after the end
        return code
    except ProjectError as error:
        why = str(error)
    except OSError as error:  # a full disk among them
        unnamed = "The output" if isinstance(error, BrokenPipeError) else "A file"
        name = printable(str(error.filename2 or error.filename or unnamed))
        why = f"{name} cannot be written or read: {error.strerror or error}."
    except ModuleNotFoundError as error:
        if (error.name or "utils").split(".")[0] == "utils":
            raise
        how = "call make, or use an environment that has what requirements.txt and requirements-tools.txt name"
        why = f"the package {error.name} is missing; {how}."
    except (MemoryError, RuntimeError, ImportError) as error:  # where PyTorch cannot even be loaded
        if not lacks_memory(error):
            raise
        why = TOO_LITTLE
    except KeyboardInterrupt:
        trains = parsed and parsed.command in ("train", "search", "ablate")
        goes_on = " The same command goes on after the last finished epoch." if trains else ""
        print(f"\nStopped.{goes_on}", file=sys.stderr)
        return 130
    print(f"Error: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook hands its own backend down to its commands
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may have letters that the console lacks
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is impatient presses Ctrl-C again
    sys.exit(code)
