"""A run's state on disk: written atomically, read safely, refused when it belongs to another run."""

import os
from pathlib import Path

import torch

from utils import distributed
from utils.errors import RunError


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


def resume(path: Path, wanted: dict, parts: dict) -> dict:
    """The state of the run at `path`, whose `parts` (model, optimizer, ...) are loaded; `wanted` if there is none yet.

    Raises:
        RunError: if the checkpoint is not of the run that is wanted.
    """
    state = distributed.from_first(lambda: read_checkpoint(path) if path.exists() else None)
    if state is None:
        return wanted
    for key, value in wanted["identity"].items():
        if state["identity"].get(key) != value:
            raise RunError(
                f"{path.parent} holds a run with {key}={state['identity'].get(key)}, now {key}={value}; "
                "put the value back to go on, or delete the folder to train anew."
            )
    if wanted["precision"] not in (None, state["precision"]):
        raise RunError(
            f"{path.parent} was begun in {state['precision']}; go on in it, or delete the folder to train anew."
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["rng"])
    if len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return {key: state[key] for key in ("identity", "precision", "history")}
