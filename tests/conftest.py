import os
import pickle
import shutil
import subprocess
import sys
from hashlib import md5

os.environ.pop("FAST_RUN", None)  # before utils is imported, which reads it once

import numpy as np
import pytest
import torch
from PIL import Image

import utils
from utils import ROOT
from utils.cifar10 import sources
from utils.cifar10.files import CLASSES, OFFICIAL, ImageData
from utils.data import train_loader

REAL = os.environ.get("CIFAR10_PATH")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork, no such signals, and no shell scripts")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


@pytest.fixture(autouse=True)
def no_module_stays(tmp_path_factory):
    """What a test imports from its own folder goes with it: another test writes other files of these names."""
    before, folder = {*sys.modules}, str(tmp_path_factory.getbasetemp())
    yield
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__dict__", {}).get("__file__")).startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def cifar10():
    """The real images; tests that need them are skipped where there are none."""
    if not REAL:
        pytest.skip("CIFAR10_PATH is not set")
    from utils.data import load_cifar10

    return load_cifar10()


def random_images(seed=0, training=100, test=20, source="stand-in"):
    """Noise with labels, which claims to come from `source`."""
    rng = np.random.default_rng(seed)
    arrays = []
    for count in (training, test):
        arrays += [rng.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count, dtype=np.int64) % 10]
    return ImageData(*arrays, list("0123456789"), source)


def fast_run(value):
    """How a fresh process reads this value of FAST_RUN: it prints utils.FAST_RUN."""
    command, environment = [sys.executable, "-c", "import utils; print(utils.FAST_RUN)"], dict(FAST_RUN=value)
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, encoding="utf-8")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    monkeypatch.setattr(utils, "FAST_RUN", False)
    return tmp_path


@pytest.fixture(scope="module")
def one_thread():
    """For small networks: two threads on a busy machine wait for each other; nor do a hundred images need workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train_loader, "__defaults__", (*train_loader.__defaults__[:-1], 0))  # of its workers
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and no CIFAR10_PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CIFAR10_PATH", raising=False)
    return sources.cache_folder()


@pytest.fixture
def without_images(tmp_path):
    """The environment of a process that finds neither images nor internet: it gets the stand-in."""
    ours = "cifar10_path fast_run http_proxy https_proxy all_proxy no_proxy xdg_cache_home".split()
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    kept = {key: value for key, value in os.environ.items() if key.lower() not in ours}
    return kept | nowhere | dict(XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONUNBUFFERED="1")


@pytest.fixture
def project(tmp_path, without_images):
    """A copy of the package in tmp_path: `project("-m", "utils", ...)` starts Python there, on the stand-in."""
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    shorten_the_stand_in(tmp_path)

    def start(*arguments, **options):
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        return subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, env=without_images, **pipes, **options)

    return start


def shorten_the_stand_in(project):
    """A quarter of its training images are enough where it only matters that they are trained with."""
    path = project / "utils" / "cifar10" / "sources.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("images[:1500], labels[:1500]") == 1
    path.write_text(text.replace("[:1500]", "[:384]"), encoding="utf-8")


@pytest.fixture
def class_folders(tmp_path):
    """Two 32x32 images a class for training, one for testing; png and jpg."""
    rng = np.random.default_rng(0)
    for part, suffixes in (("train", ("a.png", "b.jpg")), ("test", ("a.png",))):
        for name in CLASSES:
            (tmp_path / "mirror" / part / name).mkdir(parents=True)
            for suffix in suffixes:
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mirror" / part / name / suffix)
    return tmp_path / "mirror"


@pytest.fixture
def official(tmp_path, monkeypatch):
    return write_official(tmp_path / "source" / OFFICIAL, monkeypatch)


def write_official(folder, monkeypatch):
    """A CIFAR-10 of 20 + 10 random images in the official layout, whose md5 sums torchvision is made to expect."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
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
