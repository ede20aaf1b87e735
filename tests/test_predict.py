import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

import utils
from tests.conftest import ROOT
from utils import runs
from utils.__main__ import main
from utils.cifar10.files import CLASSES
from utils.engine.checkpoints import seal
from utils.errors import RunError
from utils.serve import app
from utils.serve.predict import Prediction, Predictor, open_picture, sentence, to_cifar
from utils.study import analysis

RED, BLUE = (255, 0, 0), (0, 0, 255)


def photo(width=64, height=48):
    """Smooth random colours, as a photo has."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def exif_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    image.save(path, exif=exif)


GOOD = {
    "1x1.png": lambda p: Image.new("RGB", (1, 1), RED).save(p),
    "20-megapixel.jpg": lambda p: photo(5000, 4000).save(p),
    "narrow.png": lambda p: photo(2000, 3).save(p),
    "cmyk.jpg": lambda p: photo().convert("CMYK").save(p),
    "16-bit.png": lambda p: Image.fromarray(np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)).save(p),
    "grey.png": lambda p: photo().convert("L").save(p),
    "grey-alpha.png": lambda p: photo().convert("LA").save(p),
    "black-and-white.png": lambda p: photo().convert("1").save(p),
    "palette.gif": lambda p: photo().convert("P").save(p),
    "alpha.webp": lambda p: photo().convert("RGBA").save(p),
    "rotated.jpg": exif_rotated,
}


def truncated(path):
    photo(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:-500])


def animated(path):
    photo().save(path, save_all=True, append_images=[Image.new("RGB", (64, 48), RED)])


BAD = {
    "truncated.jpg": (truncated, "cannot be read as an image"),
    "animated.gif": (animated, "has 2 frames or pages"),
    "text.png": (lambda p: p.write_text("not an image", encoding="utf-8"), "cannot be read as an image"),
    "empty.jpg": (lambda p: p.touch(), "cannot be read as an image"),
    "folder.png": (lambda p: p.mkdir(), "cannot be opened"),
    "missing.png": (lambda p: None, "cannot be opened (No such file"),
    "float.tiff": (lambda p: Image.fromarray(np.ones((4, 4), np.float32)).save(p), "cannot be read as an image"),
    "120-megapixel.png": (lambda p: Image.new("1", (12_000, 10_000)).save(p), "below 100,000,000 pixels"),
    "400-megapixel.png": (lambda p: Image.new("1", (20_000, 20_000)).save(p), "below 100,000,000 pixels"),
}


@pytest.fixture(scope="module")
def predictor():
    return Predictor("experiment_5")


@pytest.mark.parametrize("name", GOOD)
def test_any_still_image_is_answered(name, predictor, tmp_path):
    GOOD[name](tmp_path / name)
    found = predictor(open_picture(tmp_path / name))
    assert found.pixels.shape == (32, 32, 3) and found.pixels.dtype == np.uint8
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert list(found.probabilities.values()) == sorted(found.probabilities.values(), reverse=True)


@pytest.mark.parametrize("name", BAD)
def test_any_other_file_gets_one_sentence(name, tmp_path, capsys):
    make, reason = BAD[name]
    make(tmp_path / name)
    assert main(["predict", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"Error: {tmp_path / name}") and reason in err and err.count("\n") == 1


def test_of_several_files_the_good_ones_are_still_answered(tmp_path, capsys):
    for name in ("a.png", "c.png"):
        photo().save(tmp_path / name)
    figure = tmp_path / "figure.png"
    files = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    assert main(["predict", *files, "--figure", str(figure)]) == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()[:2]] == [files[0], files[2]]
    assert "%" in out and "b.png cannot be opened" in err
    with Image.open(figure) as drawn:
        assert drawn.height > drawn.width / 2, "two rows"
    assert main(["predict", files[0]]) == 0


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="no file can have such a name here")
def test_what_a_prediction_does_not_need(tmp_path, without_images):
    """Neither images, nor the internet, nor a console that shows every name, nor the backend that a notebook left, nor
    PyTorch's compiler, which takes two seconds to load."""
    photo().save(tmp_path / "\u56fe.png")
    asked = """if True:
        import atexit, runpy, sys
        atexit.register(lambda: print("torch._dynamo" in sys.modules))
        runpy.run_module("utils", run_name="__main__")
    """
    wanted = ["predict", str(tmp_path / "\u56fe.png"), "--figure", str(tmp_path / "drawn.png")]
    environment = without_images | dict(PYTHONIOENCODING="cp1252", MPLBACKEND="module://nowhere")
    command = [sys.executable, "-c", asked, *wanted]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="cp1252")
    assert result.returncode == 0 and result.stderr == "" and result.stdout.count("%") == 3, result.stderr
    assert "\\u56fe.png: " in result.stdout and (tmp_path / "drawn.png").exists()
    assert result.stdout.endswith("False\n"), "the compiler was loaded"
    assert not list(tmp_path.glob("cache/cifar10*"))


def test_the_middle_square_is_seen():
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    assert (to_cifar(image) == BLUE).all()


def test_a_rotated_photo_is_seen_upright(tmp_path):
    exif_rotated(tmp_path / "a.png")
    seen = to_cifar(open_picture(tmp_path / "a.png"))
    assert (seen[0] == RED).all() and (seen[-1] == BLUE).all()


def test_transparent_parts_are_white(tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (to_cifar(open_picture(tmp_path / "a.png")) == 255).all()


def test_16_bits_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((32, 32), 128 * 257, np.uint16)).save(tmp_path / "a.png")
    assert (to_cifar(open_picture(tmp_path / "a.png")) == 128).all()


def test_a_page_without_a_calibrated_network_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    assert main(["app"]) == 2
    assert "No published network has a calibration; fetch results/ again" in capsys.readouterr().err


def test_a_figure_that_cannot_be_written_gets_a_sentence(tmp_path, capsys):
    photo().save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--figure", str(tmp_path / "a.jpg")]) == 2
    said = capsys.readouterr()
    assert "does not end in .png" in said.err and not said.out, "before anything is predicted"
    (tmp_path / "folder.png").mkdir()
    assert main(["predict", str(tmp_path / "a.png"), "--figure", str(tmp_path / "folder.png")]) == 2
    assert "folder.png cannot be written" in capsys.readouterr().err
    os.link(tmp_path / "a.png", tmp_path / "A2.png")  # one file of two names, as on a system that ignores capitals
    assert main(["predict", str(tmp_path / "a.png"), "--figure", str(tmp_path / "A2.png")]) == 2
    assert "is one of the pictures" in capsys.readouterr().err
    assert main(["predict", *101 * [str(tmp_path / "a.png")], "--figure", str(tmp_path / "all.png")]) == 2
    assert "at most 100 pictures, not 101" in capsys.readouterr().err


def test_a_picture_that_may_not_be_read_is_said_to(tmp_path, monkeypatch, capsys):
    photo().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", refuse)
    assert main(["predict", str(tmp_path / "a.png"), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "a.png cannot be opened (Permission denied)" in said and f"{tmp_path} cannot be opened" in said


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def calibration(tmp_path, monkeypatch):
    """The calibration of experiment_5 in a results/ of its own."""
    shutil.copytree(ROOT / "results" / "experiment_5", tmp_path / "results" / "experiment_5")
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    return tmp_path / "results" / "experiment_5" / "calibration.json"


def test_the_probabilities_are_calibrated(calibration):
    calibration.write_text('{"temperature": 5.0}', encoding="utf-8")
    seal(calibration.parent)
    predictor = Predictor("experiment_5")
    found = predictor(photo())
    scores = analysis.logits(predictor.model, found.pixels[None], predictor.mean, predictor.std)[0]
    expected = dict(zip(CLASSES, softmax(scores / 5), strict=True))
    assert found.probabilities == pytest.approx(expected, abs=1e-6)
    assert max(found.probabilities.values()) < 0.9 * softmax(scores).max()


def test_a_network_without_calibration_says_what_to_call(calibration):
    calibration.unlink()
    seal(calibration.parent)
    with pytest.raises(RunError, match="utils calibrate experiment_5"):
        Predictor("experiment_5")
    with pytest.raises(RunError, match="experiment_5/seed_2 has no weights.pt"):
        Predictor("experiment_5/seed_2")
    shutil.move(calibration.parent, utils.ROOT / "runs" / "own")
    with pytest.raises(RunError, match="not published; call python -m utils publish own, then calibrate own"):
        Predictor("runs/own")


def test_a_picture_is_opened_by_its_name_too(tmp_path):
    photo().save(tmp_path / "a.png")
    assert open_picture(str(tmp_path / "a.png")).size == (64, 48)


def test_the_figure_is_drawn_of_a_network_of_any_form():
    predictor = Predictor("experiment_5")
    predictor.model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(3600, 10))
    assert predictor.grad_cam(predictor(photo())).shape == (32, 32)


def test_the_figure_is_drawn_where_the_last_convolution_stands_beside_the_layers():
    class Headed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), torch.nn.Conv2d(4, 10, 3)

        def forward(self, x):
            return self.head(self.layers(x)).mean((2, 3))

    predictor = Predictor("experiment_5")
    predictor.model = Headed()
    assert predictor.grad_cam(predictor(photo())).shape == (32, 32)


def test_the_classes_are_those_that_the_network_was_trained_with(calibration, monkeypatch):
    monkeypatch.setattr("utils.serve.predict.CLASSES", [f"flower {k}" for k in range(10)])
    assert set(Predictor("experiment_5")(photo()).probabilities) == set(CLASSES)


def test_the_page_names_no_path_of_this_machine():
    for path in ("", None):
        assert app.answer(path, "experiment_5")[3] == "Choose a picture first."
    assert app.answer("/tmp/" + 5000 * "x", "experiment_5")[3].startswith("This file ")


def test_an_answer_that_is_not_convincing_says_so():
    def with_best(p):
        rest = {"dog": 0.6 * (1 - p), "deer": 0.4 * (1 - p)}
        return Prediction(np.zeros((32, 32, 3), np.uint8), {"cat": p} | rest)

    assert sentence(Path("a.png"), with_best(0.8)) == "a.png: cat 80 %, dog 12 %, deer 8 %"
    assert sentence(Path("a.png"), with_best(0.45)).endswith("none is convincing")
    assert sentence(Path("a.png"), with_best(0.496)).startswith("a.png: cat 50 %, dog 30 %, deer 20 %")
    assert with_best(0.496).convincing and not with_best(0.494).convincing


def test_a_network_that_is_not_published_is_named(tmp_path, capsys):
    photo().save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--network", "no_such_network"]) == 2
    assert "no_such_network" in capsys.readouterr().err


def test_test_images_are_named_as_by_the_network_itself(cifar10, predictor, tmp_path):
    right = 0
    for k in range(100):
        Image.fromarray(cifar10.test_images[k]).save(tmp_path / "a.png")
        found = predictor(open_picture(tmp_path / "a.png"))
        assert (found.pixels == cifar10.test_images[k]).all()
        right += next(iter(found.probabilities)) == cifar10.classes[cifar10.test_labels[k]]
    assert right == pytest.approx(runs.load("experiment_5").metrics["test_accuracy_last"], abs=8)
