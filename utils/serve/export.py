"""A published network as ONNX, which runs without PyTorch; and both timed side by side."""

import contextlib
import io
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import utils
from utils import runs
from utils.engine.checkpoints import write_atomically
from utils.errors import RunError, printable


def write(name: str, output: str | None = None) -> None:
    """Write the published run `name` as ONNX and print how it compares with PyTorch.

    Input "images": normalised float32 (batch, 3, 32, 32), any batch size; output "logits": (batch, 10). RunError if the
    run is not published, or `output` does not end in .onnx: it may be a file that is still needed.
    """
    run = runs.load(name)
    path = Path(os.path.expanduser(output)) if output is not None else utils.ROOT / "runs" / f"{name}.onnx"
    if path.suffix != ".onnx":
        raise RunError(f"{path} would be overwritten with a network; give --output a name that ends in .onnx.")
    if utils.ROOT / "results" not in run.folder.parents:
        raise RunError(f"{name} is not published; publish it first.")
    import onnxruntime
    import onnxscript  # noqa: F401 (the exporter needs it)

    form = dict(input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter, about itself
            example = (torch.zeros(2, 3, 32, 32),)
            program = torch.onnx.export(run.model, example, **form, dynamo=True, external_data=False, verbose=False)
        content, images = program.model_proto.SerializeToString(), torch.randn(3, 3, 32, 32)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        with torch.no_grad():
            off = abs(session.run(None, {"images": images.numpy()})[0] - run.model(images).numpy()).max()
    except Exception as error:  # the exporter fails in many ways, and says it in many lines
        why = f"PyTorch cannot export {name} ({type(error).__name__})"
        raise RunError(f"{why}: its forward decides by values, or does what ONNX has no operation for.") from None
    if not off < 1e-3:
        raise RunError(f"As ONNX {name} computes something else: a logit is off by {off:.3g}. Nothing was written.")
    write_atomically(content, path)
    print(compare(run.model, session, path, utils.ROOT / "results" / name / "weights.pt").to_string())
    print(f"\nWritten to {path.relative_to(utils.ROOT) if output is None else printable(str(path))}.")


def compare(model: torch.nn.Module, session, path: Path, weights: Path) -> pd.DataFrame:
    """Size of the file and latency of one image, PyTorch and onnxruntime in turn: medians, and their ratio."""
    image, seconds = torch.randn(1, 3, 32, 32), []
    array = image.numpy()
    with torch.no_grad():
        for _ in range(200):
            start = time.perf_counter()
            model(image)
            middle = time.perf_counter()
            session.run(None, {"images": array})
            seconds.append((middle - start, time.perf_counter() - middle))
    table = pd.DataFrame(index=["PyTorch", "onnxruntime"])
    table["size (KB)"] = [file.stat().st_size / 1e3 for file in (weights, path)]
    table["one image (ms, median)"] = 1e3 * np.median(seconds, axis=0)
    table.loc["ratio"] = table.loc["PyTorch"] / table.loc["onnxruntime"]
    return table.round(2)
