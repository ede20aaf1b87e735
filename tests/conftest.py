import os
import pickle
from hashlib import md5

import numpy as np
import pytest

from utils import sources
from utils.files import CLASSES, OFFICIAL

REAL = os.environ.get("CIFAR10_PATH")


@pytest.fixture(scope="session")
def cifar10():
    """The real images; tests that need them are skipped where there are none."""
    if not REAL:
        pytest.skip("CIFAR10_PATH is not set")
    from utils.data import load_cifar10

    return load_cifar10()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and no CIFAR10_PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CIFAR10_PATH", raising=False)
    return sources.cache_folder()


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A CIFAR-10 of 20 + 10 random images in the official layout, whose md5 sums torchvision is made to expect."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder = tmp_path / "source" / OFFICIAL
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5((folder / name).read_bytes()).hexdigest()]

    def batch(name, n):
        return write(name, {"data": rng.integers(0, 256, (n, 3072), np.uint8), "labels": (np.arange(n) % 10).tolist()})

    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{i}", 4) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 10)])
    name, digest = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return folder
