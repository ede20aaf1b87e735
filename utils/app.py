"""A small page on this machine: a picture in, the best classes out, and what the network saw and where it looked."""

import os
from pathlib import Path

from utils import experiments
from utils.errors import RunError
from utils.predict import PictureError, Predictor, open_picture

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine


def networks() -> list[str]:
    """Published networks that have a calibration, in the order of EXPERIMENTS; the final one first."""
    found = [n for n in experiments.EXPERIMENTS if (experiments.ROOT / "results" / n / "calibration.json").exists()]
    return sorted(found, key=lambda name: name != "experiment_5")


def answer(path: str | None, network: str):
    """For gradio: best classes, the 32x32 pixels enlarged, the Grad-CAM over them, and a sentence."""
    from PIL import Image

    from utils.views import overlay

    if path is None:
        return None, None, None, "Choose a picture first."
    try:
        predictor = Predictor(network)
        prediction = predictor(open_picture(Path(path)))
    except PictureError as error:
        return None, None, None, str(error).replace(path, "This file")
    best, probability = next(iter(prediction.probabilities.items()))
    said = f"Most likely: **{best}** ({100 * probability:.0f} %)"
    if not prediction.convincing:
        said = f"None is convincing; the best guess is {best} ({100 * probability:.0f} %)."
    large = [
        Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST)
        for pixels in (prediction.pixels, overlay(prediction.pixels, predictor.grad_cam(prediction)))
    ]
    return prediction.probabilities, *large, said


def page():
    """The page, not yet started; RunError if gradio is missing or nothing is published."""
    try:
        import gradio
    except ImportError:
        raise RunError("gradio is missing; make app installs it (or: pip install -r requirements-app.txt).") from None
    if not (choices := networks()):
        raise RunError("No network in results/ has a calibration; run python -m utils calibrate experiment_5.")
    with gradio.Blocks(title="What the network sees", analytics_enabled=False) as blocks:
        gradio.Markdown(
            "# What the network sees\nA network of fewer than 200,000 parameters, trained on CIFAR-10, looks at your "
            "picture: its middle, scaled to 32x32 pixels. It knows ten things only: "
            "airplane, automobile, bird, cat, deer, dog, frog, horse, ship and truck."
        )
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    label="picture", type="filepath", sources=["upload", "clipboard", "webcam"], height=300
                )
                # The file as it is: gradio would open it first and fail on its own terms where open_picture explains.
                picture.preprocess = lambda payload: payload and payload.path
                network = gradio.Dropdown(choices, value=choices[0], label="network")
            with gradio.Column():
                said = gradio.Markdown("", elem_id="said")
                bars = gradio.Label(label="calibrated probabilities", num_top_classes=3)
                with gradio.Row():
                    saw = gradio.Image(label="what it saw", interactive=False, buttons=[])
                    where = gradio.Image(label="where it looked (Grad-CAM)", interactive=False, buttons=[])
        gradio.on(
            [picture.change, network.change], answer, [picture, network], [bars, saw, where, said], api_name="predict"
        )
    return blocks


def serve(port: int) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C."""
    page().launch(server_name="127.0.0.1", server_port=port, share=False)
