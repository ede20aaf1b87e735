"""CIFAR-10 on disk: official batches or class folders, in a folder or an archive, checked while they are read."""

import hashlib
import json
import lzma
import os
import pickle
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
OFFICIAL = "cifar-10-batches-py"


@dataclass(frozen=True)
class ImageData:
    """Images with labels; N differs between training and test.

    Attributes:
        train_images, test_images: uint8 (N, 32, 32, 3), RGB.
        train_labels, test_labels: int64 (N,), indices into `classes`.
        classes: the ten class names.
        source: "original" (the official files, md5 checked), "folder" (class folders) or "stand-in".
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: list[str]
    source: str


def read_path(path: Path, cache: Path) -> ImageData:
    """CIFAR-10 from a folder or a tar archive of any compression, in the official layout or as class folders.

    Raises:
        DataError: if the path is missing, or what it holds is not a complete, readable CIFAR-10.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; set CIFAR10_PATH to a CIFAR-10 folder or tar archive, or unset it.")
    folder = path
    if path.is_file():
        stat = path.stat()
        folder = cache / f"unpacked-{_key(str(path.resolve()), stat.st_size, stat.st_mtime_ns)}"
        if not folder.exists():
            unpack(path, folder)
    try:
        return read_folder(folder, cache, named=path)
    except DataError:
        if folder != path:  # what was unpacked is not trusted again
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _key(*content) -> str:
    """A name for what was made from `content`, so that something else gets a place of its own in the cache."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_folder(folder: Path, cache: Path, named: Path) -> ImageData:
    """Find the official batches or the class folders in `folder` or below it; `named` is what the user gave."""
    for place in (folder, *sorted(p for p in folder.glob("*") if p.is_dir()), *sorted(folder.glob("*/*/"))):
        if (place / "data_batch_1").exists() or place.name == OFFICIAL:
            return read_official(place, named)
        if (place / "train").is_dir():
            return read_class_folders(place, cache)
    raise DataError(
        f"{named} holds neither {OFFICIAL} nor class folders (train/<class>/*.png); point CIFAR10_PATH at one of them."
    )


# ---------------------------------------------------------------- the official files


def read_official(folder: Path, named: Path) -> ImageData:
    """The official Python version in `folder`; no pickle is opened before its md5 is right.

    Raises:
        DataError: if one of the files is missing, or is not byte for byte the official one.
    """
    from torchvision.datasets import CIFAR10  # it knows the md5 sums

    def batch(name: str, md5: str) -> dict:
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            raise DataError(f"{named} lacks {OFFICIAL}/{name}; fetch CIFAR-10 again.") from None
        if hashlib.md5(content).hexdigest() != md5:
            raise DataError(
                f"{name} in {named} is not the official file (wrong md5, not opened); fetch CIFAR-10 again."
            )
        return pickle.loads(content, encoding="latin1")

    def split(files: list) -> tuple[np.ndarray, np.ndarray]:
        batches = [batch(name, md5) for name, md5 in files]
        pixels = np.concatenate([b["data"] for b in batches])
        labels = np.concatenate([b["labels"] for b in batches]).astype(np.int64)
        return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels

    meta = batch(CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    return ImageData(*split(CIFAR10.train_list), *split(CIFAR10.test_list), meta["label_names"], "original")


@contextmanager
def all_or_nothing(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends well, and nothing otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent))
    try:
        yield work
        if not target.exists():  # else another process was faster with the same content
            os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar archive into `target`, wholly or not at all.

    Raises:
        DataError: if the archive is truncated, is no tar archive, leaves its folder, or the disk is full.
    """
    print(f"Unpacking {archive.name} once into the cache ...", flush=True)
    try:
        with all_or_nothing(target) as work, tarfile.open(archive, "r:*") as tar:
            tar.extractall(work, filter="data")
    except tarfile.FilterError as error:
        raise DataError(f"{archive} would write outside its folder ({error}); do not use it.") from None
    except (EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{archive} is truncated or no tar archive ({error}); fetch it again.") from None
    except OSError as error:
        raise DataError(f"{archive} could not be unpacked into {target.parent} ({error}); make room there.") from None


# ---------------------------------------------------------------- class folders


def read_class_folders(folder: Path, cache: Path) -> ImageData:
    """`train/<class>/*.png|jpg` and the same under `test`; decoded once, then read from the cache.

    Raises:
        DataError: if a class folder is missing, misnamed or empty, or an image is unreadable or not 32x32.
    """
    files: dict[str, list[Path]] = {}
    for part in ("train", "test"):
        found = sorted(p.name for p in (folder / part).glob("*") if p.is_dir())
        if found != CLASSES:
            missing, unknown = sorted(set(CLASSES) - set(found)), sorted(set(found) - set(CLASSES))
            raise DataError(
                f"{folder / part} must hold one folder for each class"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; not a class: {', '.join(unknown)}" if unknown else "")
                + "."
            )
        for name in CLASSES:
            images = sorted(
                p for p in (folder / part / name).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")
            )
            if not images:
                raise DataError(f"{folder / part / name} holds no .png or .jpg image.")
            files[f"{part}/{name}"] = images

    listing = [
        (str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for ps in files.values() for p in ps
    ]
    cached = cache / f"decoded-{_key(str(folder.resolve()), listing)}"
    if not cached.exists():
        print(f"Decoding {len(listing):,} images once into the cache ...", flush=True)
        try:
            with all_or_nothing(cached) as work, ThreadPoolExecutor() as pool:
                for part in ("train", "test"):
                    paths = [p for name in CLASSES for p in files[f"{part}/{name}"]]
                    np.save(work / f"{part}_images.npy", np.stack(list(pool.map(decode, paths))))
                    labels = np.repeat(np.arange(10), [len(files[f"{part}/{name}"]) for name in CLASSES])
                    np.save(work / f"{part}_labels.npy", labels.astype(np.int64))
        except OSError as error:
            raise DataError(f"the decoded images could not be kept in {cache} ({error}); make room there.") from None
    arrays = [np.load(cached / f"{a}.npy") for a in ("train_images", "train_labels", "test_images", "test_labels")]
    return ImageData(*arrays, list(CLASSES), "folder")


def decode(path: Path) -> np.ndarray:
    """One image file as uint8 (32, 32, 3)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises a dozen kinds, all meaning the same here
        raise DataError(f"{path} is not a readable image ({type(error).__name__}); replace or remove it.") from None
    if pixels.shape != (32, 32, 3):
        raise DataError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, not 32x32; scale the images first.")
    return pixels
