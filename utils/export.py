"""A published network as ONNX, which runs without PyTorch; and both timed side by side."""

import contextlib
import io
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

from utils import experiments
from utils.errors import RunError


def write(name: str, output: str | None = None) -> Path:
    """Write the published run `name` as ONNX and print how it compares with PyTorch; returns the file.

    Input "images": normalised float32 (batch, 3, 32, 32), any batch size; output "logits": (batch, 10).

    Raises:
        RunError: if the run is not published, or the packages of requirements-app.txt are missing.
    """
    run = experiments.load(experiments.ROOT / "results" / name)
    path = Path(output) if output else experiments.ROOT / "runs" / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import onnxruntime

        batch = torch.export.Dim.DYNAMIC
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter, about itself
            torch.onnx.export(
                run.model,
                (torch.zeros(2, 3, 32, 32),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise RunError(f"{error.name} is missing; install it with: pip install -r requirements-app.txt") from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    print(compare(run.model, session, path, experiments.ROOT / "results" / name / "weights.pt").to_string())
    print(f"\nWritten to {path.relative_to(experiments.ROOT) if output is None else path}.")
    return path


def compare(model: torch.nn.Module, session, path: Path, weights: Path, rounds: int = 200) -> pd.DataFrame:
    """Size of the file and latency of one image, PyTorch and onnxruntime in turn: medians, and their ratio."""
    image, seconds = torch.randn(1, 3, 32, 32), {"PyTorch": [], "onnxruntime": []}
    array = image.numpy()
    with torch.no_grad():
        for _ in range(rounds):
            start = time.perf_counter()
            model(image)
            middle = time.perf_counter()
            session.run(None, {"images": array})
            seconds["PyTorch"].append(middle - start)
            seconds["onnxruntime"].append(time.perf_counter() - middle)
    table = pd.DataFrame(
        {
            "size (KB)": {"PyTorch": weights.stat().st_size / 1e3, "onnxruntime": path.stat().st_size / 1e3},
            "one image (ms, median)": {key: 1e3 * pd.Series(values).median() for key, values in seconds.items()},
        }
    ).round(2)
    table.loc["ratio"] = (table.loc["PyTorch"] / table.loc["onnxruntime"]).round(2)
    return table
