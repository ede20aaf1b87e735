"""The one door from the command line: `python -m utils train experiment_5`, `search`, `publish`, `report`, ..."""

import argparse
import sys

from utils.errors import ProjectError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m utils", description="Train, publish and report the experiments.")
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train an experiment, or go on where its last run stopped")
    train.add_argument("--epochs", type=positive, help="other than the recipe's; kept in a folder of its own")
    train.add_argument("--precision", choices=["float32", "bfloat16", "float16"], help="default: measured")

    publish = commands.add_parser("publish", help="copy a finished run on CIFAR-10 from runs/ into results/")
    for command in (train, publish):
        command.add_argument("experiment", help="such as experiment_5; publish also takes benchmark and search")
        command.add_argument("--seed", type=seed, default=1, help="default: 1")
        command.add_argument(
            "--validation",
            action="store_true",
            help="train on 45,000 images, evaluate on the other 5,000 training images",
        )
    search = commands.add_parser("search", help="train with something changed and judge it on held-out images")
    search.add_argument("experiment", help="such as experiment_5")
    search.add_argument("changes", nargs="*", help="NAME=VALUE: a field of the recipe or an argument of the network")
    search.add_argument("--seed", type=seed, default=1, help="default: 1")
    predict = commands.add_parser("predict", help="what a published network says of your pictures")
    predict.add_argument("files", nargs="+", metavar="FILE", help="JPEG, PNG or anything else that Pillow reads")
    predict.add_argument("--network", default="experiment_5", help="default: experiment_5")
    predict.add_argument(
        "--figure", metavar="OUT.png", type=picture, help="draw what the network saw and where it looked"
    )
    calibrate = commands.add_parser("calibrate", help="fit the temperature of a published run on the test images")
    calibrate.add_argument("experiment", help="such as experiment_5")
    export = commands.add_parser("export", help="write a published network as ONNX")
    export.add_argument("experiment", help="such as experiment_5")
    export.add_argument("--output", metavar="FILE", help="default: NAME.onnx in runs/")
    app = commands.add_parser("app", help="the same in the browser, on this machine only")
    app.add_argument("--port", type=port, default=7860, help="default: 7860")
    commands.add_parser("report", help="results/ -> the README's tables and figures")
    bench = commands.add_parser("bench", help="the plain training loop and ours in turn on the same images")
    bench.add_argument("--rounds", type=positive, default=5, help="default: 5")
    other = bench.add_mutually_exclusive_group()
    other.add_argument("--accuracy", action="store_true", help="instead, what they reach on the validation split")
    other.add_argument("--growth", action="store_true", help="instead, time and memory against size")
    links = commands.add_parser("links", help="point every badge and bootstrap cell at your copy on GitHub")
    links.add_argument("repository", nargs="?", default="", help="owner/name")
    return parser.parse_args(arguments)


def seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def picture(text: str) -> str:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    return text


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def train(arguments: argparse.Namespace) -> None:
    from utils import distributed

    with distributed.process_group():
        _train(arguments)


def _train(arguments: argparse.Namespace) -> None:
    from torchsummary import summary

    import utils
    from utils import architecture, charts, distributed, experiments, plotting, tables
    from utils.data import load_cifar10
    from utils.models import build_model

    name = arguments.experiment
    reference = experiments.experiment(name).reference
    with distributed.first_process_first():
        data = load_cifar10()
    model = build_model(name)
    summary(model, (3, 32, 32), device="cpu")
    table = architecture.main_layers(architecture.layer_table(model))
    print(table.drop(columns=["padding", "in_channels", "in_size", "jump"]).to_string(), "\n")
    architecture.check_rules(model)
    print(f"\nTraining {name}; images: {data.source}.")
    options = dict(epochs=arguments.epochs, seed=arguments.seed, validation=arguments.validation)
    run = experiments.train(name, data, precision=arguments.precision, **options)
    print(f"\n{tables.comparison(name, run).to_string()}")
    if not utils.FAST_RUN and distributed.rank() == 0:
        folder = experiments.run_folder(name, data.source, **options)
        plotting.save(charts.curves(run.history, run.metrics, reference), folder / "curves.png")
        print(f"\nThe run and its graphs are in {folder.relative_to(experiments.ROOT)}.")


def search(arguments: argparse.Namespace) -> None:
    from utils import search
    from utils.data import load_cifar10

    changes = search.parse(arguments.experiment, arguments.changes)
    table = search.attempt(arguments.experiment, changes, load_cifar10(), arguments.seed)
    always = ("epochs", "parameters", "validation_accuracy")
    shown = [column for column in table if column in always or table[column].nunique(dropna=False) > 1]
    print(f"\nAll tries of {arguments.experiment}, in runs/search:\n{table[shown].to_string()}")


def publish(arguments: argparse.Namespace) -> None:
    from utils import experiments
    from utils.publish import publish_run, publish_tables

    if arguments.experiment in ("benchmark", "search"):
        target = publish_tables(arguments.experiment)
    else:
        target = publish_run(arguments.experiment, arguments.seed, arguments.validation)
    print(
        f"Published into {target.relative_to(experiments.ROOT)}; `make report` brings it into the README and images/."
    )
    if (target / "weights.pt").exists():
        print(f"`python -m utils calibrate {arguments.experiment}` fits its temperature, which `predict` needs.")


def predict(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from utils.predict import PictureError, Predictor, open_picture, sentence

    predictor, answered, failed = Predictor(arguments.network), [], False
    for file in map(Path, arguments.files):
        try:
            answered.append(predictor(open_picture(file)))
            print(sentence(file, answered[-1]), flush=True)
        except PictureError as error:
            print(f"Error: {error}", file=sys.stderr)
            failed = True
    if arguments.figure and answered:
        from utils import plotting, views

        figure = views.predictions(
            [p.pixels for p in answered],
            [predictor.grad_cam(p) for p in answered],
            [dict(list(p.probabilities.items())[:3]) for p in answered],
        )
        plotting.save(figure, Path(arguments.figure))
        print(f"What the network saw is in {arguments.figure}.")
    return 2 if failed else 0


def calibrate(arguments: argparse.Namespace) -> None:
    from utils.predict import calibrate

    print(calibrate(arguments.experiment).read_text(), end="")


def export(arguments: argparse.Namespace) -> None:
    from utils import export

    export.write(arguments.experiment, arguments.output)


def app(arguments: argparse.Namespace) -> None:
    from utils import app

    app.serve(arguments.port)


def report(_: argparse.Namespace) -> None:
    from utils import report

    report.write()


def bench(arguments: argparse.Namespace) -> None:
    from utils import benchmark

    if arguments.accuracy:
        benchmark.compare_accuracy()
    elif arguments.growth:
        benchmark.grow()
    else:
        benchmark.compare(arguments.rounds)


def links(arguments: argparse.Namespace) -> None:
    from utils import report

    report.set_links(arguments.repository)


def main(arguments: list[str] | None = None) -> int:
    parsed = parse(arguments)
    commands = {f.__name__: f for f in (train, search, predict, calibrate, export, app, publish, report, bench, links)}
    try:
        return commands[parsed.command](parsed) or 0
    except ProjectError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        print(f"Error: {error.filename} cannot be written or read: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = " The same command goes on after the last finished epoch." if parsed.command == "train" else ""
        print(f"\nStopped.{goes_on}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.unraisablehook = lambda _: None  # Ctrl-C while tqdm builds a bar: its destructor would print a traceback
    sys.exit(main())
