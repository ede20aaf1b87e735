"""A run's state on disk: written atomically, sealed, read safely; and the circumstances under which it is made."""

import glob
import hashlib
import io
import json
import os
import platform
import random
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

import utils
from utils.engine import distributed
from utils.engine.speed import suitable_precision
from utils.errors import RunError, first_line

UNKNOWN = "not known"
PATIENCE = 6  # seconds; PyTorch's workers notice after five that their process is dead
KEPT = ("history.csv", "metrics.json", "weights.pt")  # of a finished run
CHECKPOINT = "checkpoint.pt"  # of a run, whether finished or not
SUMS = "checksums.json"  # of the other files of a folder
ANEW = "move its folder away to train anew"
PLACE = "folder"  # where a published one belongs, among its sums


def write_atomically(content: bytes, path: Path) -> None:
    """Write a file so that either the old one or the new one is there, whole, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > 600:  # of a process that was killed; others may be at work
                left.unlink()
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:  # the file that is wanted, not the one beside it; a full disk names none
        error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # such as on a disk that cannot be written
            unfinished.unlink()


def save_atomically(state: dict, path: Path) -> None:
    """torch.save that leaves either the old file or the new one; a checkpoint's sha256 follows its last byte."""
    content = io.BytesIO()
    torch.save(state, content)
    whole = content.getvalue()
    write_atomically(whole + hashlib.sha256(whole).digest() if path.name == CHECKPOINT else whole, path)


def read_checkpoint(path: Path) -> dict:
    """The state that `save_atomically` saved; RunError if the file is damaged, or a checkpoint was changed by hand."""
    whole = path.read_bytes()  # that the system refuses to read it is no damage
    try:
        if path.name == CHECKPOINT and hashlib.sha256(whole[:-32]).digest() != whole[-32:]:
            raise ValueError
        return torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in many ways inside torch
        what_to_do = ANEW if path.name == CHECKPOINT else remedy(path.parent)
        raise RunError(f"{path} cannot be read ({type(error).__name__}); {what_to_do}.") from None


def remedy(folder: Path) -> str:
    """What to do about a file of the run in `folder` that is missing, or not as it was."""
    if utils.ROOT / "results" in (folder, *folder.parents):
        return "fetch that folder again, or publish it again"
    with suppress(RunError, OSError):
        if read_checkpoint(folder / CHECKPOINT).get("finished"):
            return f"move {', '.join(KEPT)} away and train again: {CHECKPOINT} still holds the run"
    return ANEW


def waited_for(lock: FileLock, does: str) -> AbstractContextManager:
    """The lock, which the system frees when its process dies, once it is ours; that we wait for it is said."""
    try:
        return lock.acquire(timeout=PATIENCE)
    except Timeout:
        print(f"Another process {does}; waiting for its end ...", flush=True)
        return lock.acquire()


@contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """No other process trains in `folder` as long as the block lasts; RunError if one does. The lock dies with it, and
    a folder in which nothing was kept goes."""
    if folder is None or distributed.rank() > 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=PATIENCE).acquire()
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{folder} cannot be made, because a file is in its place; move that file.") from None
    except Timeout:
        raise RunError(f"Another process is training in {folder}; wait for its end, or choose another name.") from None
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({first_line(error)}); work in a copy that can be.") from None
    with lock:
        try:
            yield
        finally:
            if os.listdir(folder) == [".lock"]:
                with suppress(OSError):  # Windows keeps what is open
                    (folder / ".lock").unlink()
                    folder.rmdir()


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of the files in `folder` that are kept for good, but for line ends, which git may change."""
    files = [p for p in sorted(folder.glob("[!.]*")) if p.suffix in (".csv", ".json", ".pt") and p.is_file()]
    kept = [p for p in files if p.name not in (SUMS, CHECKPOINT)]
    return {p.name: hashlib.sha256(p.read_bytes().replace(b"\r\n", b"\n")).hexdigest() for p in kept}


def seal(folder: Path, published_as: Path | None = None, coming: Mapping[str, bytes] | None = None) -> None:
    """Keep the checksums of what is in `folder`, and of files that are `coming`, for `verify`, and with them where it
    belongs in results/, so that it counts nowhere else."""
    target, sums = published_as or folder, checksums(folder)
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in (coming or {}).items()}
    if utils.ROOT / "results" in (target, *target.parents):
        sums[PLACE] = target.relative_to(utils.ROOT).as_posix()
    else:
        sums = {name: sums[name] for name in KEPT}  # what else is in a folder of one's own is one's own
    write_atomically(json.dumps(sums, indent=2).encode() + b"\n", folder / SUMS)


def verify(folder: Path) -> None:
    """RunError unless the files in `folder` are those that were sealed; a folder in runs/ without a run, such as of
    tables, has no seal."""
    published = utils.ROOT / "results" in (folder, *folder.parents)
    if not published and not any((folder / name).exists() for name in (SUMS, "metrics.json")):
        return
    try:
        sealed = dict(json.loads((folder / SUMS).read_text(encoding="utf-8")))
    except PermissionError:  # no damage
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        sealed = {}
    place, found = sealed.pop(PLACE, None), checksums(folder)
    sealed = sealed or {SUMS: "readable"}
    wrong = [name for name in sealed if sealed[name] != found.get(name)]
    if wrong:
        raise RunError(f"{folder / str(wrong[0])} is missing or damaged, or was changed by hand; {remedy(folder)}.")
    if published and (added := found.keys() - sealed.keys()):  # to a run of one's own one may add what one likes
        raise RunError(f"{folder / min(added)} does not belong there; take it out of that folder.")
    if published and place != folder.relative_to(utils.ROOT).as_posix():
        raise RunError(f"{folder} holds something else than its name says; delete it, or fetch it again.")


def steadily(folder: Path, read: Callable[[], Any]) -> Any:
    """What `read` returns, called again if another process published `folder` meanwhile: its files would be of two."""

    def sealed() -> str:
        with suppress(OSError, ValueError):
            return (folder / SUMS).read_text(encoding="utf-8")
        return ""

    while True:
        before = sealed()
        try:
            found = read()
        except RunError:
            if sealed() == before:
                raise
        else:
            if sealed() == before:
                return found


# ---------------------------------------------------------------- random numbers


@contextmanager
def rng_from(seed: int) -> Iterator[None]:
    """In the block the random numbers of NumPy and Python, which a network may use, start from `seed`; after it those
    of the user go on as if it had not been."""
    before = np.random.get_state(), random.getstate()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


def rng_state() -> dict:
    """Where the random numbers of PyTorch (also of every CUDA device), NumPy and Python stand, fit for a checkpoint."""
    _, keys, *rest = np.random.get_state()
    state = dict(rng=torch.get_rng_state(), cuda_rng=torch.cuda.get_rng_state_all())
    return state | dict(numpy_rng=[keys.tolist(), *rest], python_rng=random.getstate())


def restore(state: dict, parts: dict) -> None:
    """Load the `parts` (model, optimizer, ...) and the random numbers of a checkpoint."""
    for name, part in parts.items():
        if state[name] or name != "scaler":  # one that was off has no state
            part.load_state_dict(state[name])
    torch.set_rng_state(state["rng"])
    if len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    np.random.set_state(("MT19937", *state["numpy_rng"]))
    random.setstate(state["python_rng"])


# ---------------------------------------------------------------- circumstances


def circumstances(device: torch.device, precision: str) -> dict:
    """Everything that is not the run itself but can change its last digits: machine, versions, code."""
    return dict(
        precision=precision,
        device=device.type,
        processor=_processor(device),
        cpu_threads=torch.get_num_threads(),
        processes=distributed.world_size(),
        system=platform.system(),
        python=platform.python_version(),
        **{f"{name}_version": version(name).split("+")[0] for name in ("torch", "numpy", "albumentations")},
        **_code(),
    )


def here() -> str:
    """What tells this machine, with its libraries, from others, on which the same training rounds otherwise."""
    known = circumstances(torch.device("cpu"), "float32")
    known = {key: value for key, value in known.items() if key not in ("commit", "tree_clean")}
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:8]


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    named = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return named or platform.processor() or platform.machine() or UNKNOWN


def _code() -> dict:
    """The commit of the code, and whether the files were as committed; not of another repository around it."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(utils.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=own).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix"):
            return dict(commit=UNKNOWN, tree_clean=UNKNOWN)
        return dict(commit=git("rev-parse", "--short=12", "HEAD"), tree_clean=not git("status", "--porcelain", "utils"))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return dict(commit=UNKNOWN, tree_clean=UNKNOWN)


def begin_or_go_on(folder: Path | None, asked: str | None, device: torch.device) -> tuple[dict, str]:
    """The last state in `folder`, or a new one, and the precision to train in: the one `asked` for, else that of the
    state where it was made on such a device, else what suits this one.

    Printed is what the user should know; the state's `made_under` gets the circumstances where they are new.
    """
    path = folder and folder / CHECKPOINT
    state = read_checkpoint(path) if path and path.exists() else {"history": [], "made_under": []}
    before, done = ([{}] + state["made_under"])[-1], len(state["history"])
    precision = before["precision"] if before.get("device") == device.type else suitable_precision(device)
    now = circumstances(device, precision := asked or precision)
    changed = ", ".join(f"{key} {now[key]} (was {before.get(key)})" for key in now if before.get(key) != now[key])
    if state.get("finished"):
        return state, precision
    if not done:
        print(f"Precision: {precision} on {device.type}.", flush=True)
    else:
        print(f"Going on after epoch {done}.", flush=True)
        if changed:
            print(f"From here on not bit-identical to a run in one piece: {changed}.", flush=True)
    if changed:
        state["made_under"].append({"from_epoch": done + 1, **now})
    return state, precision
