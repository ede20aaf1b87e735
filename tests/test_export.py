import numpy as np
import pytest
import torch

from utils import runs
from utils.__main__ import main

onnxruntime = pytest.importorskip("onnxruntime", reason="requirements-tools.txt is not installed")


def test_a_network_that_decides_by_its_values_gets_a_sentence(tmp_path, monkeypatch, capsys):
    class Deciding(torch.nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1)) if self.bias[0] > 0 else images.flatten(1)[:, :10]

    run = runs.load("experiment_5")
    monkeypatch.setattr(runs, "load", lambda name: runs.Run(Deciding(3072, 10), run.history, run.metrics, run.folder))
    assert main(["export", "experiment_5", "--output", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert "PyTorch cannot export experiment_5 (" in error and error.count("Error:") == 1 and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_an_output_without_a_name_is_no_default(capsys):
    assert main(["export", "experiment_5", "--output", ""]) == 2
    assert "give --output a name that ends in .onnx" in capsys.readouterr().err


def test_a_runtime_that_computes_something_else_is_noticed(tmp_path, monkeypatch, capsys):
    class Wrong:
        def __init__(self, *_, **__):
            pass

        def run(self, _, inputs):
            return [np.zeros((len(inputs["images"]), 10), np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    assert main(["export", "experiment_5", "--output", str(tmp_path / "a.onnx")]) == 2
    assert "experiment_5 computes something else: a logit is off by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_onnx_gives_the_same_logits_for_any_batch(tmp_path, capsys):
    path = tmp_path / "net\u202ework.onnx"  # a sign that turns what follows around
    assert main(["export", "experiment_5", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "ratio" in out and "onnxruntime" in out and f"Written to {tmp_path / 'net'}\\u202ework.onnx." in out
    assert not [line for line in err.splitlines() if "triton not found" not in line]  # PyTorch has it on Linux alone
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "one file holds all"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = runs.load("experiment_5").model
    images = np.random.default_rng(0).normal(size=(100, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    for batch in (100, 1, 7):
        (logits,) = session.run(None, {"images": images[:batch]})
        assert np.abs(logits - expected[:batch]).max() < 1e-4
