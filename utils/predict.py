"""Your own picture: what a published network says of any image file, and how sure it may be of that.

It needs the weights in results/ and nothing else: no data set, no internet.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.special import softmax

from utils import analysis, experiments
from utils.data import load_cifar10
from utils.errors import ProjectError, RunError
from utils.files import CLASSES
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
        return max(self.probabilities.values()) >= CONVINCING


def open_picture(path: Path) -> Image.Image:
    """Any still image that Pillow opens, as RGB, upright; PictureError in one sentence for anything else."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise PictureError(f"{path} is not a regular file; name a picture.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # judged below
            image = Image.open(path)
        if image.width * image.height > LARGEST:
            raise PictureError(
                f"{path} has {image.width} x {image.height} pixels; scale it down below {LARGEST:,} pixels."
            )
        if getattr(image, "n_frames", 1) > 1:
            raise PictureError(
                f"{path} has {image.n_frames} frames or pages; save one of them as a picture of its own."
            )
        return to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise PictureError(f"{path} has too many pixels; scale it down below {LARGEST:,} pixels.") from None
    except FileNotFoundError:
        raise PictureError(f"{path} does not exist; check its name.") from None
    except IsADirectoryError:
        raise PictureError(f"{path} is a folder; name the picture in it.") from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise PictureError(
            f"{path} cannot be read as an image: broken, cut off, or of a format that Pillow does not know; "
            "save it as JPEG or PNG."
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Grey, palette, CMYK, 16-bit and transparent images as RGB; transparent parts become white."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("not every pixel has a value")
        top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255 if values.max() > 1 else 1
        image = Image.fromarray((255 * np.clip(values / top, 0, 1)).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_cifar(image: Image.Image) -> np.ndarray:
    """The largest square in the middle, scaled to 32x32: uint8 (32, 32, 3)."""
    return np.asarray(ImageOps.fit(image, (32, 32), method=Image.Resampling.BOX))


class Predictor:
    """A published network with its calibration.

    Args:
        name: of a run in results/, such as "experiment_5".

    Raises:
        RunError: if it is not published, or not calibrated.
    """

    def __init__(self, name: str) -> None:
        folder = experiments.ROOT / "results" / name
        run = experiments.load(folder)
        self.model, self.mean, self.std = run.model, run.metrics["mean"], run.metrics["std"]
        if not (folder / "calibration.json").exists():
            raise RunError(f"{name} is not calibrated yet; call python -m utils calibrate {name}.")
        self.temperature = json.loads((folder / "calibration.json").read_text())["temperature"]

    def __call__(self, image: Image.Image) -> Prediction:
        """The prediction for one RGB image of any size."""
        pixels = to_cifar(image)
        logits = analysis.logits(self.model, pixels[None], self.mean, self.std)[0]
        probabilities = softmax(logits / self.temperature)
        best = probabilities.argsort()[::-1]
        return Prediction(pixels, {CLASSES[k]: float(probabilities[k]) for k in best})

    def grad_cam(self, prediction: Prediction) -> np.ndarray:
        """Where the network found the best class: (32, 32), 0 to 1."""
        batch = normalise_batch(prediction.pixels[None], self.mean, self.std)
        layer = getattr(self.model.layers, analysis.cam_layer(self.model))
        return analysis.grad_cam(self.model, batch, [CLASSES.index(next(iter(prediction.probabilities)))], layer)[0]


def sentence(path: Path, prediction: Prediction, best: int = 3) -> str:
    """The best classes with their probabilities in one line, and whether the first is convincing."""
    named = ", ".join(f"{name} {100 * p:.0f} %" for name, p in list(prediction.probabilities.items())[:best])
    return f"{path}: {named}" + ("" if prediction.convincing else " - none is convincing")


def calibrate(name: str) -> Path:
    """Fit the temperature of a published run on the test images -> results/<name>/calibration.json.

    The network has seen all training images and is too sure of them, so only the test images can tell. The
    two errors, expected calibration error in points before and after, are those of temperatures that were
    fitted on one half of the images and judged on the other.

    Raises:
        RunError: if the run is not published, or only the stand-in is there.
    """
    folder = experiments.ROOT / "results" / name
    run, data = experiments.load(folder), load_cifar10()
    if data.source == "stand-in":
        raise RunError("The temperature is fitted on CIFAR-10's test images; set CIFAR10_PATH to them.")
    logits = analysis.logits(run.model, data.test_images, run.metrics["mean"], run.metrics["std"])
    calibrated, _ = analysis.cross_fitted(logits, data.test_labels)
    errors = {
        when: round(analysis.calibration_error(analysis.reliability(p, data.test_labels)), 3)
        for when, p in (("error_before", softmax(logits, axis=1)), ("error_after", calibrated))
    }
    found = dict(temperature=round(analysis.temperature(logits, data.test_labels), 4), **errors)
    found |= dict(test_images=len(data.test_labels), data_source=data.source)
    path = folder / "calibration.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    return path
