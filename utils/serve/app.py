"""A small page on this machine: a picture in, the best classes out, and what the network saw and where it looked."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import utils
from utils.cifar10.files import CLASSES
from utils.errors import ProjectError, RunError, printable
from utils.experiments import EXPERIMENTS, FINAL
from utils.serve.predict import Predictor, open_picture

LARGEST_UPLOAD, LARGEST_PICTURE = 20 * 10**6, 40 * 10**6  # bytes, pixels
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine


def networks() -> list[str]:
    """Published networks that have a calibration, in the order of EXPERIMENTS; the final one first."""
    found = [name for name in EXPERIMENTS if (utils.ROOT / "results" / name / "calibration.json").exists()]
    return sorted(found, key=lambda name: name != FINAL)


def answer(path: str | None, network: str):
    """For gradio: best classes, the 32x32 pixels enlarged, the Grad-CAM over them, and a sentence."""
    from PIL import Image

    from utils.plotting import overlay

    if not path:
        return None, None, None, "Choose a picture first."
    try:
        predictor = Predictor(network)
        prediction = predictor(open_picture(Path(path), LARGEST_PICTURE))
        where = overlay(prediction.pixels, predictor.grad_cam(prediction))
    except ProjectError as error:
        return None, None, None, printable(str(error.args[0]).replace(path, "This file"))
    best, probability = next(iter(prediction.probabilities.items()))
    guess = f"Most likely: **{best}**" if prediction.convincing else f"None is convincing; the best guess is {best}"
    both = (prediction.pixels, where)
    large = (Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST) for pixels in both)
    return prediction.probabilities, *large, f"{guess} ({100 * probability:.0f} %)"


def uploaded(picture) -> str | None:
    """Where a picture lies that was sent to the page, as it is: gradio would open it first and fail on its own terms
    where open_picture explains. None of any other file of this machine, which gradio would let pass."""
    sent = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    return picture.path if picture and picture.path and sent in Path(picture.path).resolve().parents else None


def page():
    """The page, not yet started."""
    if not (choices := networks()):
        raise RunError("No published network has a calibration; fetch results/ again, or calibrate one.")
    import gradio

    with gradio.Blocks(title="What the network sees", analytics_enabled=False) as blocks:
        gradio.Markdown(
            "# What the network sees\nA network of fewer than 200,000 parameters, trained on CIFAR-10, looks at your "
            f"picture: its middle, scaled to 32x32 pixels. It knows ten things only: {', '.join(CLASSES)}."
        )
        with gradio.Row():
            with gradio.Column():
                sources = ["upload", "clipboard", "webcam"]
                picture = gradio.Image(label="picture", type="filepath", sources=sources, height=300)
                picture.preprocess = uploaded
                network = gradio.Dropdown(choices, value=choices[0], label="network")
            with gradio.Column():
                said = gradio.Markdown("", elem_id="said")
                bars = gradio.Label(label="calibrated probabilities", num_top_classes=3)
                with gradio.Row():
                    saw = gradio.Image(label="what it saw", interactive=False, buttons=[])
                    where = gradio.Image(label="where it looked (Grad-CAM)", interactive=False, buttons=[])
        shown = [bars, saw, where, said]
        gradio.on([picture.change, network.change], answer, [picture, network], shown, api_name="predict")
    return blocks


class OnlyThisPage:
    """Middleware that answers 403 to what another web page sends here, also where its name was made to lead here."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        sent = dict(scope.get("headers", []))
        host = sent.get(b"host", b"")  # its port may be another one: of an ssh tunnel
        origin = sent.get(b"origin", b"//" + host).partition(b"//")[2]  # browsers send it
        own = host.split(b":")[0] in (b"127.0.0.1", b"localhost") and origin == host
        if own or scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send(dict(type="websocket.close"))
        await send(dict(type="http.response.start", status=403, headers=[]))
        await send(dict(type="http.response.body", body=b"This page answers itself only."))


def serve(port: int) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C; what was uploaded is then gone, and nobody else may read it before."""
    for key in ("all_proxy", "http_proxy", "https_proxy"):  # gradio asks its own page whether it is there
        os.environ.pop(key, None)
        os.environ.pop(key.upper(), None)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # nor by what Windows and macOS have set
    with TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        blocks = page()
        from starlette.middleware import Middleware  # it came with gradio

        only = dict(middleware=[Middleware(OnlyThisPage)])
        here = dict(server_name="127.0.0.1", server_port=port, share=False)
        try:
            blocks.launch(**here, max_file_size=LARGEST_UPLOAD, app_kwargs=only)
        except OSError:
            raise RunError(f"Port {port} is taken or not allowed; choose another with --port.") from None
        except ValueError:  # gradio waits three seconds for its own answer
            raise RunError("The page does not answer in time; close other programs, and call it again.") from None
