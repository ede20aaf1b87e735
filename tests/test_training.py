import signal
import subprocess
import sys
import textwrap
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import utils
from tests.conftest import MEAN, ROOT, STD, posix
from utils import runs, training
from utils.cifar10.sources import stand_in
from utils.data import eval_loader, train_loader
from utils.engine.checkpoints import read_checkpoint, save_atomically
from utils.engine.steps import TrainingStep, ema, log_line
from utils.errors import RunError
from utils.models import ConvNet, conv, separable
from utils.training import Recipe, evaluate, first_steps, fit, optimizer_and_schedule, plain_loop

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=32, precision="float32")


def small_network(seed=1, dropout=0.1):
    torch.manual_seed(seed)
    model = ConvNet(8, c1=conv(3, 8, stride=2), c2=separable(8, 8, stride=2))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


def loaders(images=100, workers=0):
    rng = np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int64) % 10
    pixels = rng.integers(0, 100, (images, 32, 32, 3), np.uint8) + 15 * labels[:, None, None, None].astype(np.uint8)
    return (
        train_loader(pixels, labels, MEAN, STD, batch_size=32, workers=workers, flip=0.5, affine=0.5, hole=0.5),
        eval_loader(pixels, labels, MEAN, STD, batch_size=64),
    )


def train(model, recipe=RECIPE, folder=None, workers=0, **options):
    options = dict(device=CPU, progress=False) | options
    return fit(model, recipe, *loaders(workers=workers), folder=folder, **options)[0]


def stop_after(monkeypatch, epoch, reason=KeyboardInterrupt):
    """Training is stopped as soon as the checkpoint of this epoch is written."""

    def save_and_stop(state, path):
        save_atomically(state, path)
        if len(state["history"]) == epoch:
            raise reason

    monkeypatch.setattr(training, "save_atomically", save_and_stop)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---------------------------------------------------------------- the loop


def test_it_learns():
    history = train(small_network(dropout=0), replace(RECIPE, epochs=8))
    assert history.test_accuracy.iloc[-1] > 30 and history.test_loss.iloc[-1] < history.test_loss.iloc[0]
    assert list(history.columns) == "epoch lr train_loss train_accuracy test_loss test_accuracy seconds".split()
    assert history.epoch.tolist() == list(range(1, 9))


def test_the_loop_to_read_first_does_the_same():
    plain, ours = small_network(dropout=0), small_network(dropout=0)
    recipe, start = replace(RECIPE, label_smoothing=0.1), time.perf_counter()
    expected = pd.DataFrame(plain_loop(plain, recipe, loaders()[0]))
    assert 0 < expected.seconds.sum() < time.perf_counter() - start and (expected.seconds > 0).all()
    history = train(ours, recipe)
    assert expected.loss.tolist() == pytest.approx(history.train_loss.tolist(), rel=1e-3)
    assert expected.accuracy.tolist() == pytest.approx(history.train_accuracy.tolist(), abs=0.01)
    assert expected.epoch.tolist() == history.epoch.tolist()
    images = torch.randn(4, 3, 32, 32)
    assert torch.allclose(plain.eval()(images), ours.eval()(images), atol=1e-2)


def test_the_first_steps_are_those_of_a_training():
    model, recipe = small_network(dropout=0), replace(RECIPE, epochs=1)
    batches = loaders(images=80)[0]  # of 32, 32 and 16 images
    found = first_steps(model, recipe, batches)
    assert len(found) == 6 and equal(model, small_network(dropout=0))  # which is not trained by that
    batches.sampler.set_epoch(1)
    images, labels = next(iter(batches))
    loss = F.cross_entropy(model.train()(images), labels)
    gradients = torch.autograd.grad(loss, [*model.parameters()])
    length = sum(gradient.square().sum() for gradient in gradients).sqrt()
    assert found[:2] == pytest.approx([loss.item(), length.item()], rel=1e-4)
    history, _ = fit(small_network(dropout=0), recipe, *loaders(images=80), device=CPU, progress=False)
    mean = np.average(found[::2], weights=[32, 32, 16])
    assert mean == pytest.approx(history.train_loss.item(), rel=1e-4)
    taught = replace(recipe, teacher="accurate")
    assert first_steps(model, taught, batches, small_network(dropout=0).eval())[0] != found[0]


def test_what_it_is_judged_on_names_the_columns():
    history = train(small_network(), replace(RECIPE, epochs=1), judged_on="validation")
    assert {"validation_loss", "validation_accuracy"} <= set(history) and "test_accuracy" not in history


def test_the_network_that_comes_back_is_as_it_was_built():
    model = small_network()
    train(model, replace(RECIPE, epochs=1))
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(p.device == CPU and p.is_contiguous() for p in model.parameters())


def test_a_loss_that_is_no_number_stops_with_a_sentence():
    with pytest.raises(RunError, match="no longer a number in epoch [12]"):
        train(small_network(), replace(RECIPE, lr=1000, weight_decay=1.0, warmup=0.0))


def test_losses_are_means_per_image_with_a_ragged_last_batch():
    model = small_network().eval()
    _, test = loaders(images=100)  # batches of 64 and 36
    images, labels = (torch.cat(parts) for parts in zip(*test, strict=True))
    with torch.no_grad():
        logits = model(images)
    loss, accuracy = evaluate(model, test)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    assert accuracy == (logits.argmax(1) == labels).sum().item()

    # in training too: a network without norms that all but stands still, batches of 32, 32, 32 and 4
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    plain = train_loader(test.dataset.images, test.dataset.labels, MEAN, STD, 32, workers=0, flip=0, affine=0, hole=0)
    recipe = replace(RECIPE, epochs=1, lr=1e-12)
    history, _ = fit(linear, recipe, plain, test, device=CPU, progress=False)
    assert history.train_loss[0] == pytest.approx(history.test_loss[0], abs=1e-4)
    assert history.train_accuracy[0] == history.test_accuracy[0]


def test_weight_decay_acts_on_weights_only():
    optimizer, _ = optimizer_and_schedule(small_network(), RECIPE, steps=10)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == RECIPE.weight_decay and free["weight_decay"] == 0
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in free["params"]} == {1}


def test_the_optimizer_is_that_of_the_recipe():
    sgd, _ = optimizer_and_schedule(small_network(), replace(RECIPE, momentum=0.8), steps=10)
    adam, _ = optimizer_and_schedule(small_network(), replace(RECIPE, optimizer="adam", momentum=0.8), steps=10)
    plain, _ = optimizer_and_schedule(small_network(), replace(RECIPE, momentum=0.0), steps=10)
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["nesterov"] and sgd.defaults["momentum"] == 0.8
    assert isinstance(adam, torch.optim.Adam) and adam.defaults["betas"] == (0.8, 0.999)
    assert [group["weight_decay"] for group in adam.param_groups] == [RECIPE.weight_decay, 0]
    assert plain.defaults["momentum"] == 0
    whole, _ = optimizer_and_schedule(small_network(), replace(RECIPE, optimizer="adam", momentum=0), steps=10)
    assert whole.defaults["betas"] == (0, 0.999)


def test_muon_takes_orthogonal_steps_for_kernels_and_those_of_sgd_for_the_rest():
    """Two steps, against momentum by hand, the singular values of what was stepped, and PyTorch's SGD."""
    lr, momentum = 0.05, 0.8
    recipe = replace(RECIPE, lr=lr, momentum=momentum, warmup=0.0, optimizer="muon")
    model, twin = small_network(), small_network()
    twin.load_state_dict(model.state_dict())
    muon, _ = optimizer_and_schedule(model, recipe, steps=10**6)  # whose learning rate hardly falls
    sgd, _ = optimizer_and_schedule(twin, replace(recipe, optimizer="sgd"), steps=10**6)
    kernels = {name: p for name, p in model.named_parameters() if p.ndim == 4}
    moving = {name: torch.zeros_like(p) for name, p in kernels.items()}
    for step in range(2):
        torch.manual_seed(step)
        before = {name: p.detach().clone() for name, p in kernels.items()}
        for p, other in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            other.grad = p.grad.clone()
        for name, p in kernels.items():
            moving[name] = momentum * moving[name] + p.grad
        nesterov = {name: (p.grad + momentum * moving[name]).flatten(1) for name, p in kernels.items()}
        muon.step()
        sgd.step()
        for name, p in kernels.items():
            kept = before[name] * len(p) ** 0.5 / before[name].norm()
            stepped = ((kept - p) / lr).detach().flatten(1)
            u, _, v = torch.linalg.svd(nesterov[name], full_matrices=False)
            values = torch.linalg.svdvals(stepped)
            assert values.max() < 1.3 and values.median() > 0.6, name
            assert (stepped * (u @ v)).sum() > 0.9 * stepped.norm() * (u @ v).norm(), name  # the same way
    for (name, p), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, other) == (name not in kernels), name


def test_muon_steps_what_is_no_convolution_as_sgd_does():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale = nn.Parameter(torch.full((4, 1, 1), 1e-6))
            self.position = nn.Parameter(torch.zeros(1, 4, 30, 30))

    model = Scaled()
    optimizer, _ = optimizer_and_schedule(model, replace(RECIPE, warmup=0.0, optimizer="muon"), steps=10**6)
    for p in model.parameters():
        p.grad = torch.ones_like(p) * 1e-6
    optimizer.step()
    assert model.conv.weight.norm() > 1
    assert 0 < model.scale.abs().max() < 1e-5 and 0 < model.position.abs().max() < 1e-5


def test_an_answer_in_half_precision_is_judged_in_float32():
    class Half(nn.Module):
        def forward(self, images):
            return torch.linspace(0, 1, 10).repeat(len(images), 1).bfloat16()

    images, labels = torch.zeros(500, 3, 32, 32), torch.zeros(500, dtype=torch.int64)
    wanted = torch.nn.functional.cross_entropy(Half()(images).float(), labels)
    assert training.evaluate(Half(), [(images, labels)])[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_averaged_weights_are_judged_and_kept(monkeypatch):
    """Against the average computed by hand from the weights after every step."""
    seen, step = [], training.TrainingStep.__call__

    def watched(self, images, labels):
        result = step(self, images, labels)
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return result

    monkeypatch.setattr(training.TrainingStep, "__call__", watched)
    model, recipe = small_network(), replace(RECIPE, epochs=2, average=0.6)
    history = train(model, recipe)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.6 * value + 0.4 * weights[name] for name, value in expected.items()}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-5), name
    assert history.test_loss.iloc[-1] == pytest.approx(evaluate(model, loaders()[1])[0], abs=1e-4)
    assert not torch.equal(model.linear.weight, seen[-1]["linear.weight"])


def test_indices_are_copied_into_the_average_and_not_averaged():
    model = nn.Linear(2, 2)
    model.register_buffer("order", torch.arange(64))
    averaged = ema(model, 0.9)
    for _ in range(5):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.order, torch.arange(64))


def test_the_learning_rate_makes_one_cycle():
    lr = train(small_network(), replace(RECIPE, epochs=10)).lr
    assert lr.idxmax() == 2 and lr.max() == pytest.approx(RECIPE.lr, rel=0.01)
    assert lr.iloc[0] == pytest.approx(RECIPE.lr / 25) and lr.iloc[-1] < 0.01


def test_the_first_images_are_halved(monkeypatch):
    seen, forward = [], nn.Conv2d.forward

    def watched(layer, images):
        seen.append((layer.training, images.shape[-1]))
        return forward(layer, images)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    train(model, replace(RECIPE, epochs=4, halved=0.5))
    sides = [side for training, side in seen if training]
    assert sides == [16] * (len(sides) // 2) + [32] * (len(sides) // 2) and len(sides) > 4
    assert {side for training, side in seen if not training} == {32}


def test_a_teacher_is_learned_from_beside_the_labels():
    """Hinton's loss by hand; the teacher sees images of whole size also while the network's have half, and is left as
    it is."""
    sides = []

    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images):
            sides.append(images.shape[-1])
            return 3 * self.norm(images).flatten(1)[:, :10]

    torch.manual_seed(0)
    model, teacher = small_network(dropout=0), Teacher().eval()
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    logits = model.train()(F.avg_pool2d(images, 2))
    wanted, found = F.softmax(teacher(images) / 4, 1), F.softmax(logits / 4, 1)
    divergence = (wanted * (wanted / found).log()).sum(1).mean()
    by_hand = 0.1 * F.cross_entropy(logits, labels) + 0.9 * 4**2 * divergence
    recipe, scaler = replace(RECIPE, halved=1.0), torch.amp.GradScaler("cpu", enabled=False)
    step = TrainingStep(model, recipe, *optimizer_and_schedule(model, recipe, 9), scaler, CPU, "float32", None, teacher)
    assert step(images, labels)[0].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert set(sides) == {32} and teacher.norm.num_batches_tracked == 0
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_that_is_not_handed_over_is_missed():
    with pytest.raises(RunError, match="has a teacher, accurate; hand its network over"):
        train(small_network(), replace(RECIPE, teacher="accurate"))


def test_what_a_teacher_knows_is_learned():
    """The labels are wrong, and the network learns them; not so with a teacher that is right."""

    class Teacher(nn.Module):  # the brightness says the class, see `loaders`
        def forward(self, images):
            brightness = (images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mean((1, 2, 3))
            return -0.1 * (255 * brightness[:, None] - 65 - 15 * torch.arange(10)).abs()

    batches, judged = loaders()
    batches.dataset.labels = (batches.dataset.labels + 1) % 10
    recipe = replace(RECIPE, epochs=12)
    options = dict(device=CPU, progress=False)
    misled, _ = fit(small_network(dropout=0), recipe, batches, judged, **options)
    taught, _ = fit(small_network(dropout=0), recipe, batches, judged, teacher=Teacher(), **options)
    assert taught.train_accuracy.iloc[-1] < 10 < 30 < misled.train_accuracy.iloc[-1]
    assert taught.test_accuracy.iloc[-1] > 20 and taught.test_loss.iloc[-1] < misled.test_loss.iloc[-1] - 0.5


def test_the_learning_rate_goes_down_in_the_shape_of_the_recipe():
    down = {
        shape: train(small_network(), replace(RECIPE, epochs=10, anneal=shape)).lr[2:] for shape in ("cos", "linear")
    }
    assert down["linear"].diff()[1:].std() < 1e-4 < down["cos"].diff()[1:].std()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(epochs=0), "epochs is 0, but must be a whole number of at least 1"),
        (dict(teacher=3), "teacher is 3, but must be the name of a published run"),
        (dict(teacher=""), "teacher is .., but must be the name of a published run"),
        (dict(batch_size=2.5), "batch_size is 2.5"),
        (dict(lr=0), "lr is 0, but must be above 0"),
        (dict(lr=1e300), "lr is 1e.300, but must be above 0, and at most 1000"),
        (dict(flip=np.array([0.5, 0.5])), "flip is array.*, but must be between 0 and 1"),
        (dict(momentum=1), "momentum is 1, but must be between 0 and 0.999"),
        (dict(flip=True), "flip is True, but must be between 0 and 1"),
        (dict(dropout=1.1), "dropout is 1.1, but must be between 0 and 1"),
        (dict(flip=float("nan")), "flip is nan"),
        (dict(optimizer="lion"), "optimizer is .lion., but must be sgd or adam or muon"),
        (dict(anneal="square"), "anneal is .square., but must be cos or linear"),
        (dict(average=1), "average is 1, but must be between 0 and 0.99999"),
        (dict(precision="float8"), "precision is .float8., but must be None or float32 or bfloat16 or float16"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change, sentence):
    with pytest.raises(RunError, match=sentence):
        replace(RECIPE, **change)


def test_the_line_of_an_epoch_marks_the_first_crossing():
    def line(*accuracies):
        rows = [
            dict(epoch=k, train_loss=0.5377, train_accuracy=78.33, validation_loss=0.45, validation_accuracy=accuracy)
            for k, accuracy in enumerate(accuracies, 1)
        ]
        return log_line(rows, "validation")

    assert line(84.99, 85.13) == ("Epoch   2   training 0.5377, 78.33 %   validation 0.4500, 85.13 %   first at 85 %")
    assert "first" not in line(85.0, 85.13) and "first" not in line(84.0, 84.99)


def test_the_bar_and_the_line_of_an_epoch(capfd, monkeypatch):
    monkeypatch.setattr(training, "tqdm", partial(training.tqdm, mininterval=0))
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    train(small_network(), replace(RECIPE, epochs=1), progress=True)
    out, err = capfd.readouterr()
    assert "Epoch 1: " in err and "loss 2." in err and "accuracy " in err
    assert out.startswith("Precision: float32 on cpu.\nEpoch   1   training 2.")
    assert out.count("\n") == 2


# ---------------------------------------------------------------- stopping and going on


@posix
def test_a_killed_and_resumed_run_ends_bit_identical(tmp_path):
    """With dropout, augmentation and worker processes, all that draws random numbers; and with averaged weights."""
    straight, recipe = small_network(), replace(RECIPE, average=0.9)
    expected = train(straight, recipe, tmp_path / "straight", workers=2)

    # a process of its own that dies without a word after the second epoch
    script = f"""
        import os, signal, sys
        sys.path[:0] = [{str(ROOT)!r}]
        from pathlib import Path
        from tests import test_training as t
        save = t.training.save_atomically
        def save_and_die(state, path):
            save(state, path)
            if len(state["history"]) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        t.training.save_atomically = save_and_die
        t.train(t.small_network(), t.replace(t.RECIPE, average=0.9), Path({str(tmp_path / "killed")!r}), workers=2)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()

    resumed = small_network(seed=99)
    history = train(resumed, recipe, tmp_path / "killed", workers=2)
    assert equal(straight, resumed)
    compared = expected.columns.drop("seconds")
    assert history[compared].equals(expected[compared])


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path, monkeypatch):
    finished = small_network()
    expected = train(finished, folder=tmp_path)
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained again"))
    again = small_network(seed=99)
    assert train(again, folder=tmp_path).equals(expected)
    assert equal(finished, again)


def test_a_damaged_checkpoint_is_a_sentence(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"checkpoint.pt cannot be read"):
        train(small_network(), folder=tmp_path)


def test_precision_is_kept_on_resume_and_a_change_is_recorded(tmp_path, monkeypatch, capsys):
    for epoch, precision in ((1, "bfloat16"), (2, None), (3, "float32")):
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            stop_after(context, epoch)
            train(small_network(), replace(RECIPE, precision=precision), tmp_path)
    out = capsys.readouterr().out
    assert out.count("Precision: bfloat16 on cpu.") == out.count("Precision: ") == 1
    assert "From here on not bit-identical to a run in one piece: precision float32 (was bfloat16).\n" in out
    made_under = read_checkpoint(tmp_path / "checkpoint.pt")["made_under"]
    assert [(m["from_epoch"], m["precision"]) for m in made_under] == [(1, "bfloat16"), (3, "float32")]
    assert made_under[0]["device"] == "cpu" and made_under[0]["torch_version"] == torch.__version__.split("+")[0]


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_atomically({"epoch": 1}, path)

    def die(_, file):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(torch, "save", die)
        with pytest.raises(KeyboardInterrupt):
            save_atomically({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


@posix
def test_ctrl_c_and_the_same_command_goes_on(project, tmp_path):
    """The command line itself, on the stand-in, in a copy of the package."""
    command = "-m utils train experiment_5 --epochs 4 --precision float32".split()
    # `make test &` ignores Ctrl-C, and what it starts inherits that
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with project(*command, **heed) as process:
        for line in process.stdout:
            if line.startswith("Epoch   1"):
                time.sleep(0.1)  # into the second epoch; three last longer on any machine
                process.send_signal(signal.SIGINT)
                break
        _, error = process.communicate()
    assert process.returncode == 130
    assert "goes on after the last finished epoch" in error and "Traceback" not in error

    with project(*command) as process:
        out, error = process.communicate()
    assert process.returncode == 0, error
    assert "Epoch   1 " not in out and "Epoch   4 " in out and "bit-identical" not in out
    assert "NOT CIFAR-10" in out and "reference" in out and "are in runs/experiment_5." in out
    run = tmp_path / "runs" / "experiment_5"
    files = ".lock checkpoint.pt checksums.json history.csv metrics.json weights.pt curves.png"
    assert {path.name for path in run.iterdir()} == set(files.split())
    assert '"data_source": "stand-in"' in (run / "metrics.json").read_text(encoding="utf-8")


# As on Windows and macOS: no `resource`, no fork, no UTF-8.
ELSEWHERE = """
import multiprocessing, sys
sys.modules["resource"] = None
multiprocessing.set_start_method("spawn")
"""


def test_training_needs_nothing_that_other_systems_lack(project, tmp_path, without_images):
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE, encoding="utf-8")
    bare = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    without_images |= dict(PYTHONPATH=str(tmp_path), FAST_RUN="1", **bare)
    with project("-m", "utils", "train", "tiny") as process:
        out, error = process.communicate()
    assert process.returncode == 0 and "Epoch   1" in out and "Traceback" not in error, error


# ---------------------------------------------------------------- what a run hands on


class Stop(Exception):
    pass


@pytest.fixture
def handed_on(tmp_path, monkeypatch):
    """`handed_on(recipe, seed)`: the network and the loader of training images that `runs.train` gives to `fit`."""
    seen = []

    def catch(model, recipe, batches, judged, **_):
        seen.append((deepcopy(model), batches))  # as it is then
        raise Stop

    def run(recipe, seed=1):
        with pytest.raises(Stop):
            runs.train(lambda: ConvNet(8, c1=conv(3, 8)), recipe, stand_in(), name="mine", seed=seed)
        return seen[-1]

    monkeypatch.setattr(utils, "ROOT", tmp_path)
    monkeypatch.setattr(training, "fit", catch)
    return run


@pytest.mark.parametrize("off", ["flip", "affine", "hole", None])
def test_a_run_is_trained_with_the_augmentation_of_its_recipe(handed_on, off):
    chances = dict(flip=0.4, affine=0.3, hole=0.2) | ({off: 0.0} if off else {})
    _, batches = handed_on(Recipe(epochs=1, batch_size=50, **chances))
    assert [t.p for t in batches.dataset.augment.transforms] == list(chances.values())
    assert batches.sampler.batch_size == 50


def test_a_run_is_trained_with_the_dropout_of_its_recipe(handed_on):
    model, _ = handed_on(Recipe(epochs=1, dropout=0.3))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3]


def test_the_seed_decides_first_weights_order_and_augmentation(handed_on):
    (first, _), (second, batches), (again, _) = (handed_on(Recipe(epochs=1), seed) for seed in (1, 2, 2))
    assert equal(second, again) and not equal(first, second)
    assert batches.dataset.seed == batches.sampler.shuffle_seed == 2
