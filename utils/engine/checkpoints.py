"""A run's state on disk: written atomically, read safely; and the circumstances under which it is made."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import utils
from utils.engine import distributed
from utils.engine.speed import suitable_precision
from utils.errors import RunError

UNKNOWN = "not known"


def save_atomically(state: dict, path: Path) -> None:
    """torch.save that leaves either the old file or the new one, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with open(unfinished, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def read_checkpoint(path: Path) -> dict:
    """The state that `fit` saved; RunError if the file is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways inside torch
        raise RunError(f"{path} cannot be read ({type(error).__name__}); delete its folder to train anew.") from None


def rng_state() -> dict:
    """Where the random numbers of the CPU and of every CUDA device stand."""
    return {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}


def restore(state: dict, parts: dict) -> None:
    """Load the `parts` (model, optimizer, ...) and the random numbers of a checkpoint."""
    for name, part in parts.items():
        if state[name]:  # a scaler that was off has no state
            part.load_state_dict(state[name])
    torch.set_rng_state(state["rng"])
    if len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])


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


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    named = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return named or platform.processor() or platform.machine() or UNKNOWN


def _code() -> dict:
    """The commit of the code, and whether the files were as committed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(utils.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return dict(commit=git("rev-parse", "--short=12", "HEAD"), tree_clean=not git("status", "--porcelain", "utils"))
    except (OSError, subprocess.CalledProcessError):
        return dict(commit=UNKNOWN, tree_clean=UNKNOWN)


def begin_or_go_on(folder: Path | None, asked: str | None, device: torch.device) -> tuple[dict, str]:
    """The last state in `folder`, or a new one, and the precision to train in: the one `asked` for, else that of the
    state where it was made on such a device, else what suits this one.

    Printed is what the user should know; the state's `made_under` gets the circumstances where they are new.
    """
    path = folder and folder / "checkpoint.pt"
    state = read_checkpoint(path) if path and path.exists() else {"history": [], "made_under": []}
    before, done = (state["made_under"] or [{}])[-1], len(state["history"])
    precision = asked or (before["precision"] if before.get("device") == device.type else suitable_precision(device))
    now = circumstances(device, precision)
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
