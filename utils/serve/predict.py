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

from utils import runs
from utils.cifar10.files import CLASSES, FORMATS, to_rgb
from utils.errors import DataError, RunError, printable
from utils.study import analysis
from utils.transforms import normalise_batch

LARGEST = 100_000_000  # pixels
CONVINCING = 0.5  # of the calibrated probability: below it the best class is more likely wrong than right


@dataclass(frozen=True)
class Prediction:
    """What the network saw, uint8 (32, 32, 3), and the calibrated probability of each class, best first."""

    pixels: np.ndarray
    probabilities: dict[str, float]

    @property
    def convincing(self) -> bool:
        return round(max(self.probabilities.values()), 2) >= CONVINCING  # as it is shown


def open_picture(path: Path, largest: int = LARGEST) -> Image.Image:
    """Any still image of one of FORMATS with at most `largest` pixels, as RGB, upright; DataError in one sentence for
    anything else."""
    Image.MAX_IMAGE_PIXELS = largest  # Pillow warns above it, and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                frames = getattr(image, "n_frames", 1)
                if frames == 1 or image.format == "MPO":  # a photo with a second view or a thumbnail
                    return to_rgb(image)
        why = f"has {frames} frames or pages; save one as a picture of its own"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        why = f"has too many pixels; scale it down below {largest:,} pixels"
    except Exception as error:  # Pillow fails in many ways on a damaged file
        why = f"cannot be read as an image ({', '.join(FORMATS)}): broken, cut off, too deep, or of another format"
        if system := getattr(error, "strerror", None):
            why = f"cannot be opened ({system}); name a picture that can be"
    raise DataError(f"{path} {why}.")


def to_cifar(image: Image.Image) -> np.ndarray:
    """The largest square in the middle, scaled to 32x32: uint8 (32, 32, 3)."""
    return np.asarray(ImageOps.fit(image, (32, 32), method=Image.Resampling.BOX))


class Predictor:
    """A published network, such as "experiment_5", with its calibration; RunError if it has none."""

    def __init__(self, name: str) -> None:
        run, own = runs.load(name), name.removeprefix("runs/")
        calibration = run.folder / "calibration.json"
        if own != name:  # a calibration that lies there would be of other weights
            raise RunError(f"{name} is not published; call python -m utils publish {own}, then calibrate {own}.")
        if not calibration.exists():
            raise RunError(f"{name} is not calibrated yet; call python -m utils calibrate {name}.")
        self.temperature = json.loads(calibration.read_text(encoding="utf-8"))["temperature"]
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


def sentence(path: Path, prediction: Prediction) -> str:
    """The three best classes with their probabilities in one line, and whether the first is convincing."""
    named = ", ".join(f"{name} {100 * p:.0f} %" for name, p in list(prediction.probabilities.items())[:3])
    return f"{printable(str(path))}: {named}" + ("" if prediction.convincing else " - none is convincing")
