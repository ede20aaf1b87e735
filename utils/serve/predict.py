"""Your own picture: what a published network says of any image file, and how sure it may be of that.

It needs the weights in results/ and nothing else: no data set, no internet.
"""

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.special import softmax

from utils import runs
from utils.cifar10.files import CLASSES, FORMATS, to_rgb
from utils.engine.checkpoints import steadily
from utils.engine.records import path_of
from utils.errors import ProjectError, RunError, printable
from utils.study import analysis
from utils.transforms import normalise_batch

LARGEST = 100_000_000  # pixels
CONVINCING = 0.5  # of the calibrated probability: below it the best class is more likely wrong than right


class PictureError(ProjectError):
    """An image file that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Prediction:
    """What the network saw, uint8 (32, 32, 3), and the calibrated probability of each class, best first."""

    pixels: np.ndarray
    probabilities: dict[str, float]

    @property
    def convincing(self) -> bool:
        return round(max(self.probabilities.values()), 2) >= CONVINCING  # as it is shown


def open_picture(path: Path, largest: int = LARGEST) -> Image.Image:
    """Any still image of one of FORMATS with at most `largest` pixels, as RGB, upright; PictureError in one sentence
    for anything else."""
    path = Path(path)
    try:
        return _opened(path, largest)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        why = f"has too many pixels; scale it down below {largest:,} pixels"
    except FileNotFoundError:
        why = "does not exist; check its name"
    except (IsADirectoryError, PermissionError):  # Windows says the second of a folder, too
        why = "is a folder; name the picture in it" if path.is_dir() else "may not be read; change its permissions"
    except PictureError:
        raise
    except Exception:  # Pillow fails in many ways on a damaged file
        why = f"cannot be read as an image ({', '.join(FORMATS)}): broken, cut off, or of another format"
    raise PictureError(f"{path} {why}.")


def _opened(path: Path, largest: int) -> Image.Image:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise PictureError(f"{path} is not a regular file; name a picture.")  # a pipe would be waited for
    Image.MAX_IMAGE_PIXELS = largest  # Pillow warns above it, and refuses twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photo with a second view or a thumbnail
                raise PictureError(f"{path} has {image.n_frames} frames or pages; save one as a picture of its own.")
            return to_rgb(image)


def to_cifar(image: Image.Image) -> np.ndarray:
    """The largest square in the middle, scaled to 32x32: uint8 (32, 32, 3)."""
    return np.asarray(ImageOps.fit(image, (32, 32), method=Image.Resampling.BOX))


def calibrated(name: str) -> tuple[runs.Run, float]:
    """A published run and its temperature; RunError if there is none."""
    run, own = runs.load(name), name.removeprefix("runs/")
    calibration = run.folder / "calibration.json"
    if own != name:  # a calibration that lies there would be of other weights
        raise RunError(f"{name} is not published; call python -m utils publish {own}, then calibrate {own}.")
    if not calibration.exists():
        raise RunError(f"{name} is not calibrated yet; call python -m utils calibrate {name}.")
    try:
        temperature = float(json.loads(calibration.read_text(encoding="utf-8"))["temperature"])
        if not 0 < temperature < math.inf:
            raise ValueError
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        raise RunError(f"{calibration} holds no temperature; call python -m utils calibrate {name}.") from None
    return run, temperature


class Predictor:
    """A published network, such as "experiment_5", with its calibration; RunError if it has none."""

    def __init__(self, name: str) -> None:
        run, self.temperature = steadily(path_of(name), lambda: calibrated(name))
        self.model, self.mean, self.std = run.model, run.metrics["mean"], run.metrics["std"]
        self.classes = run.metrics.get("classes", CLASSES)

    def __call__(self, image: Image.Image) -> Prediction:
        """The prediction for one RGB image of any size."""
        pixels = to_cifar(image)
        logits = analysis.logits(self.model, pixels[None], self.mean, self.std)[0]
        probabilities = softmax(logits / self.temperature)
        best = probabilities.argsort()[::-1]
        return Prediction(pixels, {self.classes[k]: float(probabilities[k]) for k in best})

    def grad_cam(self, prediction: Prediction) -> np.ndarray:
        """Where the network found the best class: (32, 32), 0 to 1."""
        batch = normalise_batch(prediction.pixels[None], self.mean, self.std)
        name = analysis.cam_layer(self.model)
        layer = getattr(getattr(self.model, "layers", self.model), name, None) or getattr(self.model, name)
        best = self.classes.index(next(iter(prediction.probabilities)))
        return analysis.grad_cam(self.model, batch, [best], layer)[0]


def sentence(path: Path, prediction: Prediction, best: int = 3) -> str:
    """The best classes with their probabilities in one line, and whether the first is convincing."""
    named = ", ".join(f"{name} {100 * p:.0f} %" for name, p in list(prediction.probabilities.items())[:best])
    return f"{printable(str(path))}: {named}" + ("" if prediction.convincing else " - none is convincing")
