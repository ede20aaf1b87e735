"""CIFAR-10 on disk: official batches or class folders, in a folder or an archive, checked while they are read."""

import hashlib
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from errno import EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps

from utils.engine.checkpoints import waited_for
from utils.errors import DataError, first_line, printable

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
OFFICIAL = "cifar-10-batches-py"
OTHERS = "NOT CIFAR-10"  # printed wherever other images, or not all, are read: no page shows what follows from them
LARGEST, MOST = 2**30, 200_000  # bytes of an unpacked archive; images in class folders
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]  # read by Pillow alone; an EPS would start Ghostscript


@dataclass(frozen=True)
class ImageData:
    """Images with labels; N differs between training and test. DataError if an array is none of these."""

    train_images: np.ndarray  # uint8 (N, 32, 32, 3), RGB
    train_labels: np.ndarray  # int64 (N,), indices into `classes`
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: list[str]  # the ten names
    source: str  # "original" (the official files, md5 checked), "folder" (class folders) or "stand-in"

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            names = f"{part}_images", f"{part}_labels"
            arrays = checked(*(getattr(self, name) for name in names), len(self.classes))
            for name, array in zip(names, arrays, strict=True):
                object.__setattr__(self, name, array)

    @property
    def digest(self) -> str:
        """What tells these images and labels from any others, in 16 hexadecimal digits."""
        digest = hashlib.sha256(b"" if list(self.classes) == CLASSES else repr(list(self.classes)).encode())
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def few(self, training: int, test: int) -> "ImageData":
        """At most so many images of each split, spread over all: those of a class may lie together."""
        sizes = (training, len(self.train_labels)), (test, len(self.test_labels))
        x, test_x = (np.linspace(0, there - 1, min(wanted, there), dtype=int) for wanted, there in sizes)
        print(f"FAST_RUN: only {len(x)} + {len(test_x)} images, {OTHERS} as a whole.", flush=True)
        arrays = self.train_images[x], self.train_labels[x], self.test_images[test_x], self.test_labels[test_x]
        return ImageData(*arrays, self.classes, self.source)


def checked(images: np.ndarray, labels: np.ndarray, classes: int = len(CLASSES)) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, as arrays, lists or tensors, in the form of `ImageData`; DataError if they are none."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        found = f"{images.dtype} {images.shape}"
        raise DataError(f"Images must be uint8 (N, 32, 32, 3), but are {found}; bring them to that form.")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"Labels must be a whole number for each of {len(images)} images, but are {found}.")
    if not len(images):
        raise DataError("There is no image among them; give at least one.")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"Labels must be from 0 to {classes - 1}, the numbers of the classes.")
    return images, labels.astype(np.int64)


def read_path(path: Path, cache: Path) -> ImageData:
    """CIFAR-10 from a folder or a tar archive of any compression, in the official layout or as class folders. DataError
    if the path is missing, or what it holds is not a complete, readable CIFAR-10."""
    if not os.path.exists(path):  # False also for what can be no name
        raise DataError(f"{path} does not exist; set CIFAR10_PATH to a CIFAR-10 folder or tar archive, or unset it.")
    if path.is_file():
        data = kept(cache / f"images-{_key(path)}.npz", lambda work: read_archive(path, work))
    else:
        data = read_folder(path, named=path, cache=cache)
    if data.source == "folder":
        count = f"{len(data.train_labels):,} + {len(data.test_labels):,}"
        print(f"Class folders, {count} images, {OTHERS}'s own files.")
    return data


def read_archive(archive: Path, work: Path) -> ImageData:
    """The same from an archive that is unpacked into the empty folder `work`."""
    try:
        return read_folder(unpack(archive, work), named=archive)
    except DataError as error:  # what it names there will be gone
        raise DataError(str(error).replace(str(work), str(archive))) from None


def read_folder(folder: Path, named: Path, cache: Path | None = None) -> ImageData:
    """The official batches, else the class folders, in `folder` or, where it holds neither, one or two levels below, in
    folders that are not hidden; `named` is what the user gave. DataError if there are none, or several of a level."""
    others = []  # that have a train/, of something else
    for pattern in (None, "[!.]*", "[!.]*/[!.]*"):
        places = sorted(filter(os.path.isdir, folder.glob(pattern))) if pattern else [folder]
        for place in places:
            if os.path.exists(place / "data_batch_1") or place.name == OFFICIAL:  # False also for what may not be read
                return read_official(place, named)
        others += [place for place in places if os.path.isdir(place / "train")]
        found = [place for place in places if any(os.path.isdir(place / "train" / name) for name in CLASSES)]
        found = [*{place.resolve(): place for place in found}.values()]  # a link is no second one
        if len(found) > 1:
            both = " and ".join(place.relative_to(folder).as_posix() for place in found[:2])
            raise DataError(f"{named} holds several sets of class folders ({both}); point CIFAR10_PATH at one of them.")
        if found:
            return read_class_folders(found[0], cache)
    if others:
        return read_class_folders(others[0], cache)  # which says what is missing
    raise DataError(
        f"{named} holds neither {OFFICIAL} nor class folders (train/<class>/*.png); point CIFAR10_PATH at one of them."
    )


def read_official(folder: Path, named: Path) -> ImageData:
    """The official Python version in `folder`; DataError unless each file is byte for byte the official one."""
    from torchvision.datasets import CIFAR10

    found, meta = {}, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta):
        file = folder / name
        whole = file.read_bytes() if file.is_file() and file.stat().st_size < 2**26 else b""  # a batch has 31 MB
        if hashlib.md5(whole, usedforsecurity=False).hexdigest() != md5:
            wrong = "a file is missing or has a wrong md5, and none was opened"
            raise DataError(f"{named} is not the official CIFAR-10 ({wrong}); fetch it again.")
        found[name] = whole
    # The very bytes that were checked: a file may be another one by now.
    parts = {name: pickle.loads(whole, encoding="latin1") for name, whole in found.items()}  # noqa: S301
    arrays = []
    for names in (CIFAR10.train_list, CIFAR10.test_list):
        pixels = np.concatenate([parts[name]["data"] for name, _ in names]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([parts[name]["labels"] for name, _ in names])
        arrays += [np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels.astype(np.int64)]
    return ImageData(*arrays, parts[meta[0]][CIFAR10.meta["key"]], "original")


# ---------------------------------------------------------------- the cache


def _key(*files: Path) -> str:
    """A name for what this code makes of these files; other files, and other code, get another one."""
    stats = ((str(file.absolute()), file.stat()) for file in files)
    found = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
    return hashlib.sha256(repr(found).encode() + Path(__file__).read_bytes()).hexdigest()[:16]


def kept(file: Path, make: Callable[[Path], ImageData]) -> ImageData:
    """The images kept in `file`; where it is missing or damaged, those that `make` returns, which gets an empty folder
    to work in. One process at a time makes them. DataError if the cache cannot be written."""
    if data := read_kept(file):
        return data
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with waited_for(FileLock(file.parent / ".lock"), "is filling the cache"):
            if data := read_kept(file):  # another process has made them meanwhile
                return data
            for leftover in file.parent.glob(".unfinished-*"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with TemporaryDirectory(dir=file.parent, prefix=".unfinished-") as work:
                data = make(Path(work))
                np.savez(Path(work, "images.npz"), **vars(data))
                os.replace(Path(work, "images.npz"), file)
                return data
    except OSError as error:
        why = f"The cache {file.parent} cannot be filled ({error})"
        raise DataError(f"{why}; make room there, or set XDG_CACHE_HOME to another folder.") from None


def read_kept(file: Path) -> ImageData | None:
    with suppress(Exception), open(file, "rb") as content, np.load(content) as arrays:  # a damaged one fails somehow
        found = dict(arrays)  # numpy compares the checksums
        return ImageData(**found | dict(classes=found["classes"].tolist(), source=str(found["source"])))
    return None


def remove(path: Path) -> None:
    """Remove a folder with all in it, or the file or link that is in its place, as far as the system lets us."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> Path:
    """Write the files of a tar archive of at most LARGEST bytes into `folder`, and return it; DataError if it is
    larger, truncated, no tar archive, holds a link or leaves its folder, OSError if the disk is full."""
    print(f"Unpacking {printable(archive.name)} once into the cache ...", flush=True)
    room, inside = LARGEST, folder.resolve()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:  # one by one: extractall is safe with its filter= only, which Python 3.11.3 lacks
                room, path = room - max(member.size, 4096), (inside / member.name).resolve()
                if room < 0:
                    raise DataError(f"{archive} is not CIFAR-10: it unpacks to more than {LARGEST:,} bytes.")
                if member.issym() or member.islnk() or not path.is_relative_to(inside):
                    why = "would write outside its folder, or holds a link"
                    raise DataError(f"{archive} {why} ({member.name}); do not use it.")
                if member.isfile():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, open(path, "wb") as file:
                        shutil.copyfileobj(source, file)
    except Exception as error:  # tarfile and three decompressors have many ways to say one thing
        number = getattr(error, "errno", None)  # the system's, as for a full disk; other than for names that cannot be
        if isinstance(error, DataError) or number and number not in (EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR):
            raise
        what = "holds names that cannot be written" if number else "is truncated or no tar archive"
        raise DataError(f"{archive} {what} ({printable(first_line(error), 200)}); fetch it again.") from None
    return folder


# ---------------------------------------------------------------- class folders


def read_class_folders(folder: Path, cache: Path | None) -> ImageData:
    """`train/<class>/*.png`, or another of FORMATS, and the same under `test`, in an order of chance, always the same;
    kept in the cache, if one is given.
    DataError if a class folder is missing, misnamed or empty, or an image is unreadable or not 32x32."""
    files = {part: class_files(folder / part) for part in ("train", "test")}
    everything = [*chain(*files["train"], *files["test"])]

    def decoded(_: Path | None = None) -> ImageData:
        print(f"Decoding {len(everything):,} images once into the cache ...", flush=True)
        arrays = []
        with ThreadPoolExecutor() as pool:
            for of_class in files.values():
                paths, labels = [*chain(*of_class)], np.repeat(np.arange(10), list(map(len, of_class)))
                order = np.random.default_rng(0).permutation(len(labels))  # the first few are of all classes, as usual
                arrays.append(np.stack(list(pool.map(decode, (paths[i] for i in order)))))
                arrays.append(labels[order])
        return ImageData(*arrays, list(CLASSES), "folder")

    return kept(cache / f"images-{_key(*everything)}.npz", decoded) if cache else decoded()


def class_files(folder: Path) -> list[list[Path]]:
    """The image files of each class, in the order of CLASSES; DataError unless each has some and there is no other."""
    images = {end for end, form in Image.registered_extensions().items() if form in FORMATS}
    inside = [sorted((folder / name).glob("[!.]*")) for name in CLASSES]
    files = [[path for path in paths if path.suffix.lower() in images] for paths in inside]
    if others := sum(map(len, inside)) - sum(map(len, files)):
        print(f"Left out in {folder.name}/: {others:,} files or folders that are no images.", flush=True)
    missing = [name for name, found in zip(CLASSES, files, strict=True) if not found]
    unknown = sorted({p.name for p in folder.glob("[!.]*") if p.is_dir()} - set(CLASSES))
    if sum(map(len, files)) > MOST:
        raise DataError(f"{folder} holds more than {MOST:,} images; this is not CIFAR-10.")
    if missing or unknown:
        wrong = {"missing or empty": missing, "not a class": unknown[:10]}
        details = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names)
        raise DataError(f"{folder} must hold one folder of images, such as .png or .jpg, for each class; {details}.")
    for path in chain(*files):
        if not path.is_file():
            raise DataError(f"{path} is no ordinary file (a broken link?); replace or remove it.")
    return files


def decode(path: Path) -> np.ndarray:
    """One image file as uint8 (32, 32, 3)."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if (size := image.size) == (32, 32):
                return np.asarray(to_rgb(image))
    except Exception as error:  # Pillow raises a dozen kinds, all meaning the same here
        raise DataError(f"{path} is not a readable image ({type(error).__name__}); replace or remove it.") from None
    raise DataError(f"{path} is {size[0]}x{size[1]} pixels, not 32x32; scale the images first.")


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, as RGB, also grey, palette, CMYK and transparent images, whose transparent parts become white, and the
    16 bits of a PNG; ValueError for deeper numbers, such as those of a TIFF, which have no usual range."""
    if deep := image.mode.startswith(("I", "F")):
        if image.format != "PNG" or "transparency" in image.info:
            raise ValueError("nobody knows which number is white")
    image = ImageOps.exif_transpose(image)
    if deep:
        image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
