"""Which device is used and what happens there; what needs a GPU is marked `cuda` and skipped without one."""

from dataclasses import replace

import pytest
import torch

from tests.test_training import CPU, RECIPE, equal, loaders, small_network, stop_after, train
from utils.__main__ import parse
from utils.engine import distributed
from utils.engine.checkpoints import begin_or_go_on, read_checkpoint, restore, rng_state, save_atomically
from utils.engine.steps import device_to_use
from utils.errors import RunError
from utils.training import evaluate

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """A machine with these devices."""

    def have(cuda=False, mps=False, processes=1):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(distributed, "world_size", lambda: processes)

    return have


@pytest.mark.parametrize(
    ("has", "asked", "device"),
    [
        (dict(), None, "cpu"),
        (dict(mps=True), None, "mps"),
        (dict(mps=True, processes=2), None, "cpu"),
        (dict(cuda=True, mps=True), None, "cuda"),
        (dict(cuda=True), "cpu", "cpu"),
        (dict(cuda=True, mps=True), "mps", "mps"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_fastest(machine, has, asked, device):
    machine(**has)
    assert device_to_use(asked) == torch.device(device)


@pytest.mark.parametrize("asked", ["cuda", "cuda:1", "mps", "gpu", "meta", torch.device("cuda")])
def test_a_device_that_is_not_there_is_a_sentence(machine, asked):
    machine()
    with pytest.raises(RunError, match=f"PyTorch finds no device {asked} here; leave it out"):
        device_to_use(asked)


def test_a_second_gpu_must_be_there(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_to_use("cuda:0") == torch.device("cuda:0")
    with pytest.raises(RunError, match="PyTorch finds no device cuda:1 here"):
        device_to_use("cuda:1")


def test_the_command_line_hands_it_on():
    assert parse(["train", "experiment_5", "--device", "cpu"]).device == "cpu"
    assert parse(["train", "experiment_5"]).device is None


def test_more_processes_than_gpus_are_a_sentence(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError, match="GPU for 2 processes; start no more of them, or train with --device cpu"):
        with distributed.process_group():
            pass


def test_another_kind_of_device_chooses_its_own_precision(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.engine.checkpoints._processor", lambda _: "a GPU")
    state = dict(history=[{}], made_under=[dict(device="cuda", precision="float16")])
    save_atomically(state, tmp_path / "checkpoint.pt")
    on_mps, precision = begin_or_go_on(tmp_path, None, torch.device("mps"))
    assert precision == "float32" and on_mps["made_under"][-1]["from_epoch"] == 2
    assert "precision float32 (was float16), device mps (was cuda)" in capsys.readouterr().out
    assert begin_or_go_on(tmp_path, None, GPU)[1] == "float16"


class Scaler:
    """A GradScaler that is on: it refuses the empty state of one that was off."""

    def load_state_dict(self, state):
        if not state:
            raise RuntimeError("The source state dict is empty")


def test_a_checkpoint_without_a_scale_goes_on_where_there_is_one():
    state = dict(scaler={}) | rng_state()
    restore(state, {"scaler": Scaler()})


def test_evaluation_is_in_whole_float32(monkeypatch):
    """On newer GPUs a convolution in "float32" keeps ten of its 23 bits unless it is told not to."""
    model, seen = small_network(), []
    model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    evaluate(model, loaders()[1])
    assert set(seen) == {False} and torch.backends.cudnn.allow_tf32 == before and torch.backends.cudnn.enabled


# ---------------------------------------------------------------- where there is a GPU


@cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_a_gpu_learns_and_comes_back(precision):
    model = small_network()
    history = train(model, replace(RECIPE, precision=precision), device=GPU)
    assert history.train_loss.iloc[-1] < history.train_loss.iloc[0]
    assert {p.device.type for p in model.parameters()} == {"cpu"}


@cuda
def test_the_same_loss_on_a_gpu_as_on_the_cpu():
    recipe, there, here = replace(RECIPE, epochs=1), small_network(dropout=0.0), small_network(dropout=0.0)
    on_gpu, on_cpu = train(there, recipe, device=GPU), train(here, recipe)
    assert on_gpu.test_loss.iloc[0] == pytest.approx(on_cpu.test_loss.iloc[0], rel=0.02)


@cuda
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_checkpoint_of_the_cpu_goes_on_on_a_gpu(tmp_path, monkeypatch, precision):
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        stop_after(context, 2)
        train(small_network(), folder=tmp_path)
    history = train(small_network(), replace(RECIPE, precision=precision), tmp_path, device=GPU)
    assert len(history) == RECIPE.epochs
    devices = [under["device"] for under in read_checkpoint(tmp_path / "checkpoint.pt")["made_under"]]
    assert devices == ["cpu", "cuda"]


@cuda
def test_a_resumed_run_on_a_gpu_keeps_its_scale(tmp_path, monkeypatch):
    recipe = replace(RECIPE, precision="float16")
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        stop_after(context, 2)
        train(small_network(), recipe, tmp_path, device=GPU)
    assert read_checkpoint(tmp_path / "checkpoint.pt")["scaler"]["scale"] > 0
    assert len(train(small_network(), recipe, tmp_path, device=GPU)) == RECIPE.epochs


@cuda
def test_a_finished_run_of_the_gpu_is_loaded_on_the_cpu(tmp_path):
    there, here = small_network(), small_network(seed=9)
    train(there, folder=tmp_path, device=GPU)
    train(here, folder=tmp_path, device=CPU)
    assert equal(there, here)
