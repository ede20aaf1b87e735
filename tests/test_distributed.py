"""Two processes on loopback (Gloo), started by torchrun as a user would."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from utils.data import BatchSampler
from utils.models import build_model

ROOT = Path(__file__).resolve().parent.parent

# A network without norms (each process has its own batch statistics) on images without augmentation, whose last
# batch is ragged: 116 = 3 * 32 + 20.
TRAINING = """
    import sys
    sys.path.insert(0, {root!r})
    import numpy as np, torch
    from torch import nn
    from utils import distributed
    from utils.data import eval_loader, train_loader
    from utils.training import Recipe, fit
    from pathlib import Path

    def train(folder=None):
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (116, 32, 32, 3), np.uint8), np.arange(116, dtype=np.int64) % 10
        colours = (0.5,) * 3, (0.25,) * 3
        loaders = (
            train_loader(images, labels, *colours, 32, workers=0, flip=0, affine=0, hole=0),
            eval_loader(images, labels, *colours, batch_size=50),
        )
        torch.manual_seed(1 + distributed.rank())  # only the first process's weights count
        features = nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        model = nn.Sequential(*features, nn.Linear(128, 10))
        options = dict(device=torch.device("cpu"), precision="float32", progress=False)
        history = fit(model, Recipe(epochs=3, batch_size=32), *loaders, folder=folder, **options)
        return model, history
"""


def torchrun(*command, cwd, processes=2, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_two_processes_do_what_one_does_on_the_joint_batch(tmp_path):
    script = textwrap.dedent(TRAINING.format(root=str(ROOT)))
    (tmp_path / "two.py").write_text(
        script
        + textwrap.dedent("""
        from utils import training
        save = training.save_atomically
        def save_and_tell(state, path):
            save(state, path)
            Path(f"written_by_{distributed.rank()}").touch()
        training.save_atomically = save_and_tell
        with distributed.process_group():
            model, history = train(Path("run"))
            history.to_csv(f"history_{distributed.rank()}.csv", index=False)
            torch.save(model.state_dict(), f"weights_{distributed.rank()}.pt")
        """)
    )
    done = torchrun("two.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Epoch   1") == 1, "one process prints"
    assert [p.name for p in tmp_path.glob("written_by_*")] == ["written_by_0"], "one process writes"

    scope = {}
    exec(script, scope)
    model, expected = scope["train"]()
    for rank in (0, 1):
        history = pd.read_csv(tmp_path / f"history_{rank}.csv")
        for column in ("train_accuracy", "test_accuracy"):
            assert history[column].tolist() == expected[column].tolist()
        for column in ("lr", "train_loss", "test_loss"):
            assert np.allclose(history[column], expected[column], rtol=1e-5)
        weights = torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True)
        assert all(torch.allclose(weights[k], v, atol=1e-5) for k, v in model.state_dict().items())


def test_every_image_is_in_one_share(monkeypatch):
    from utils import distributed

    whole = list(BatchSampler(100, 32, shuffle_seed=1))
    shares = []
    for rank in (0, 1, 2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 3)
        shares.append(list(BatchSampler(100, 32, shuffle_seed=1)))
    for number, (_, _, batch) in enumerate(whole):
        parts = [share[number] for share in shares]
        assert sorted(np.concatenate([indices for _, _, indices in parts])) == sorted(batch)
    names = [(epoch, number) for share in shares for epoch, number, _ in share]
    assert len(set(names)) == len(names), "each share is augmented by a stream of its own"


def test_the_command_line_under_torchrun(tmp_path):
    """On the stand-in: one process prints and writes."""
    subprocess.run(["cp", "-r", ROOT / "utils", tmp_path], check=True)
    environment = dict(XDG_CACHE_HOME=str(tmp_path / "cache"), CIFAR10_PATH="", no_proxy="*")
    command = ("-m", "utils", "train", "experiment_5", "--epochs", "1", "--precision", "float32")
    done = torchrun(*command, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Epoch   1 ") == done.stdout.count("this run") == 1
    run = tmp_path / "runs/experiment_5/epochs_1/stand-in"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert len(pd.read_csv(run / "history.csv")) == 1
    build_model("experiment_5").load_state_dict(torch.load(run / "weights.pt", weights_only=True))
