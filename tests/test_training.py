import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils import speed, training
from utils.checkpoints import read_checkpoint, save_atomically
from utils.data import eval_loader, train_loader
from utils.errors import RunError
from utils.models import ConvNet, conv, separable
from utils.speed import fastest_precision
from utils.training import Recipe, evaluate, fit, log_line

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=32, dropout=0.1)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def small_network(seed=1):
    torch.manual_seed(seed)
    return ConvNet(8, c1=conv(3, 8, stride=2), c2=separable(8, 8, stride=2))


def loaders(images=100, workers=0):
    rng = np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int64) % 10
    pixels = rng.integers(0, 100, (images, 32, 32, 3), np.uint8) + 15 * labels[:, None, None, None].astype(np.uint8)
    return (
        train_loader(pixels, labels, MEAN, STD, batch_size=32, workers=workers, flip=0.5, affine=0.5, hole=0.5),
        eval_loader(pixels, labels, MEAN, STD, batch_size=64),
    )


def train(model, recipe=RECIPE, folder=None, **options):
    options = dict(device=CPU, precision="float32", progress=False) | options
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = recipe.dropout
    return fit(model, recipe, *loaders(), folder=folder, **options)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_learns(capsys):
    history = train(small_network(), replace(RECIPE, epochs=8))
    assert history.test_accuracy.iloc[-1] > 30 and history.test_loss.iloc[-1] < history.test_loss.iloc[0]
    assert list(history.columns) == "epoch lr train_loss train_accuracy test_loss test_accuracy seconds".split()
    assert history.epoch.tolist() == list(range(1, 9))


def test_a_killed_and_resumed_run_ends_bit_identical(tmp_path):
    straight = small_network()
    expected = train(straight, folder=tmp_path / "straight")

    # a process of its own that dies without a word after the second epoch
    script = f"""
        import os, signal, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import test_training as t
        save = t.training.save_atomically
        def save_and_die(state, path):
            save(state, path)
            if len(state["history"]) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        t.training.save_atomically = save_and_die
        t.train(t.small_network(), folder=t.Path({str(tmp_path / "killed")!r}))
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()

    resumed = small_network(seed=99)
    history = train(resumed, folder=tmp_path / "killed")
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


@pytest.mark.parametrize(
    ("recipe", "identity", "message"),
    [
        (replace(RECIPE, lr=0.2), {"network": "a"}, r"holds a run with lr=0.1, now lr=0.2"),
        (RECIPE, {"network": "b"}, r"holds a run with network=a, now network=b"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, recipe, identity, message):
    train(small_network(), replace(RECIPE, epochs=4), tmp_path, identity={"network": "a"})
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match=message):
        train(small_network(), recipe, tmp_path, identity=identity)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_damaged_checkpoint_is_a_sentence(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"checkpoint.pt cannot be read"):
        train(small_network(), folder=tmp_path)


def test_precision_is_kept_on_resume(tmp_path):
    train(small_network(), folder=tmp_path, precision="bfloat16")
    assert read_checkpoint(tmp_path / "checkpoint.pt")["precision"] == "bfloat16"
    train(small_network(), folder=tmp_path, precision=None)
    with pytest.raises(RunError, match="was begun in bfloat16"):
        train(small_network(), folder=tmp_path, precision="float32")


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


def test_a_loss_that_is_no_number_stops_with_a_sentence():
    with pytest.raises(RunError, match="no longer a number in epoch 1"):
        train(small_network(), replace(RECIPE, lr=1e30))


def test_losses_are_means_per_image_with_a_ragged_last_batch():
    model = small_network().eval()
    _, test = loaders(images=100)  # batches of 64 and 36
    images, labels = (torch.cat(parts) for parts in zip(*test, strict=True))
    with torch.no_grad():
        logits = model(images)
    loss, correct, count = evaluate(model, test, CPU)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    assert (correct, count) == ((logits.argmax(1) == labels).sum().item(), 100)

    # in training too: a network without norms that all but stands still, batches of 32, 32, 32 and 4
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    plain = train_loader(test.dataset.images, test.dataset.labels, MEAN, STD, 32, workers=0, flip=0, affine=0, hole=0)
    recipe = replace(RECIPE, epochs=1, lr=1e-12)
    history = fit(linear, recipe, plain, test, device=CPU, precision="float32", progress=False)
    assert history.train_loss[0] == pytest.approx(history.test_loss[0], abs=1e-4)
    assert history.train_accuracy[0] == history.test_accuracy[0]


def test_weight_decay_acts_on_weights_only(monkeypatch):
    made = []
    real = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda groups, **kw: made.append(real(groups, **kw)) or made[0])
    train(small_network(), replace(RECIPE, epochs=1))
    decayed, free = made[0].param_groups
    assert decayed["weight_decay"] == RECIPE.weight_decay and free["weight_decay"] == 0
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in free["params"]} == {1}


def test_the_learning_rate_makes_one_cycle():
    lr = train(small_network(), replace(RECIPE, epochs=10)).lr
    assert lr.idxmax() == 2 and lr.max() == pytest.approx(RECIPE.lr, rel=0.01)
    assert lr.iloc[0] == pytest.approx(RECIPE.lr / 25) and lr.iloc[-1] < 0.01


def test_measuring_the_precision_changes_nothing(capsys):
    model = small_network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert fastest_precision(model, torch.zeros(8, 3, 32, 32), CPU) in ("float32", "bfloat16")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert capsys.readouterr().out.count("\n") == 1


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_dilated_convolutions_have_finite_gradients_in_bfloat16_whatever_their_channels(one_thread):
    """With one thread oneDNN's wrong gradient shows every time."""
    for channels in (16, 24):
        layer = conv(channels, channels, padding=2, dilation=2)
        speed.prepare(layer, CPU)
        images = torch.randn(8, channels, 32, 32).to(memory_format=torch.channels_last)
        with speed.autocast(CPU, "bfloat16"):
            layer(images).float().square().mean().backward()
        assert layer.conv.weight.grad.isfinite().all(), channels


def test_strided_depthwise_convolutions_stay_in_float32():
    trained, untouched, images, dtypes = small_network(), small_network().eval(), torch.randn(4, 3, 32, 32), {}
    train(trained, replace(RECIPE, epochs=1))
    untouched.load_state_dict(trained.eval().state_dict())
    assert torch.allclose(trained(images), untouched(images), atol=1e-6), "without autocast nothing changes"
    for name in ("c1.conv", "c2.depthwise", "c2.pointwise"):
        module = trained.layers.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: dtypes.__setitem__(name, out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = trained(images)
    assert dtypes == {"c1.conv": torch.bfloat16, "c2.depthwise": torch.float32, "c2.pointwise": torch.bfloat16}
    assert torch.allclose(mixed.float(), untouched(images), atol=0.1)


def test_log_line_marks_the_first_crossing():
    row = dict(epoch=66, train_loss=0.5377, train_accuracy=78.33, test_loss=0.45, test_accuracy=85.13)
    line = log_line([dict(test_accuracy=84.99), row], images=10_000)
    assert "8513/10000 (85.13%)" in line and "first epoch at 85 %" in line
    assert "first" not in log_line([dict(test_accuracy=85.0), row], images=10_000)
    assert "first" not in log_line([row | dict(test_accuracy=84.99)], images=10_000)


def test_the_bar_and_the_line_of_an_epoch(capfd):
    train(small_network(), replace(RECIPE, epochs=1), progress=True)
    out, err = capfd.readouterr()
    assert "Epoch=1 Loss=" in err and "Accuracy=" in err
    assert out.startswith("Epoch   1  train loss") and "/100 (" in out


def test_ctrl_c_and_the_same_command_goes_on(tmp_path):
    """The command line itself, on the stand-in, in a copy of the package."""
    subprocess.run(["cp", "-r", ROOT / "utils", tmp_path], check=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    environment.pop("CIFAR10_PATH", None)
    environment["no_proxy"] = "*"
    command = [sys.executable, "-m", "utils", "train", "experiment_5", "--epochs", "3", "--precision", "float32"]
    # `make test &` ignores Ctrl-C, and what it starts inherits that
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True, **heed) as process:
        for line in process.stdout:
            if line.startswith("Epoch   1"):
                time.sleep(0.5)  # into the second epoch
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        error = process.stderr.read()
        assert process.wait(30) == 130
    assert "goes on after the last finished epoch" in error and "Traceback" not in error

    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "Resuming" in again.stdout and "Epoch   1 " not in again.stdout and "Epoch   3 " in again.stdout
    assert "NOT CIFAR-10" in again.stdout
    run = tmp_path / "runs/experiment_5/epochs_3/stand-in"
    assert {p.name for p in run.iterdir()} >= {
        "checkpoint.pt",
        "history.csv",
        "metrics.json",
        "weights.pt",
        "curves.png",
    }
    assert '"data_source": "stand-in"' in (run / "metrics.json").read_text()
    assert "this run" in again.stdout and "reference" in again.stdout
