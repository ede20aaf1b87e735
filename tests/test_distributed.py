"""Two processes on loopback (Gloo), started by torchrun as a user would."""

import json
import textwrap

import numpy as np
import pandas as pd
import torch

from utils.engine.batches import BatchSampler
from utils.models import build_model

TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node=2".split()

# A network without norms (each process has its own batch statistics) on images without augmentation, whose last
# batch is ragged: 116 = 3 * 32 + 20.
TRAINING = """
    import numpy as np, torch
    from torch import nn
    from utils.engine import distributed
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
        recipe, options = Recipe(epochs=3, batch_size=32, precision="float32"), dict(device=torch.device("cpu"))
        history, made_under = fit(model, recipe, *loaders, folder=folder, progress=False, **options)
        assert made_under[0]["processes"] == distributed.world_size()
        return model, history
"""


def outcome(process):
    with process:
        out, error = process.communicate()
    assert process.returncode == 0, error
    return out, error


def test_two_processes_do_what_one_does_on_the_joint_batch(project, tmp_path):
    script = "import sys; sys.path.insert(0, '.')\n" + textwrap.dedent(TRAINING)
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
            history.to_pickle(f"history_{distributed.rank()}")
            torch.save(model.state_dict(), f"weights_{distributed.rank()}.pt")
        """),
        encoding="utf-8",
    )
    out, _ = outcome(project(*TORCHRUN, "two.py"))
    assert out.count("Epoch   1") == 1, "one process prints"
    assert [p.name for p in tmp_path.glob("written_by_*")] == ["written_by_0"], "one process writes"

    scope = {}
    exec(textwrap.dedent(TRAINING), scope)
    model, expected = scope["train"]()
    for rank in (0, 1):
        history = pd.read_pickle(tmp_path / f"history_{rank}")
        for column in ("train_accuracy", "test_accuracy"):
            assert history[column].tolist() == expected[column].tolist()
        for column in ("lr", "train_loss", "test_loss"):
            assert np.allclose(history[column], expected[column], rtol=1e-5)
        weights = torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True)
        assert all(torch.allclose(weights[k], v, atol=1e-5) for k, v in model.state_dict().items())


def test_every_image_is_in_one_share():
    whole = list(BatchSampler(100, 32, shuffle_seed=1))
    shares = [list(BatchSampler(100, 32, shuffle_seed=1, rank=rank, world=3)) for rank in range(3)]
    for number, (_, _, batch) in enumerate(whole):
        parts = [share[number] for share in shares]
        assert sorted(np.concatenate([indices for _, _, indices in parts])) == sorted(batch)
    names = [(epoch, number) for share in shares for epoch, number, _ in share]
    assert len(set(names)) == len(names), "each share is augmented by a stream of its own"


def test_the_command_line_under_torchrun(project, tmp_path):
    """On the stand-in: one process prints and writes."""
    command = "-m utils train quick --epochs 1 --precision float32".split()
    out, error = outcome(project(*TORCHRUN, *command))
    assert out.count("Epoch   1 ") == out.count("The run and its graphs are in runs/quick.") == 1, error
    run = tmp_path / "runs" / "quick"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["processes"] == 2
    assert len(pd.read_csv(run / "history.csv")) == 1
    build_model("quick").load_state_dict(torch.load(run / "weights.pt", weights_only=True))
