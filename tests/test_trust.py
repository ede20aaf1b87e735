"""Nothing wrong is shown, nothing is lost: a test for each guard against crashes, full disks, lying networks, ...

The attacks that count, many tries each, are in tests/faults.
"""

import base64
import builtins
import contextlib
import errno
import gc
import io
import json
import os
import random
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import nn

import utils
from tests.conftest import MEAN, ROOT, STD, fast_run, posix
from tests.test_laboratory import ONE, random_images, stop_after, tiny_network, with_digest
from tests.test_runs import finished_run
from utils import models, runs
from utils.__main__ import COMMANDS, main
from utils.cifar10 import files, sources
from utils.cifar10.files import CLASSES
from utils.data import channel_statistics, eval_loader, hold_out, load_cifar10, train_loader
from utils.engine import checkpoints, records, speed, steps
from utils.engine.batches import Batches, loader
from utils.engine.checkpoints import SUMS, read_checkpoint, save_atomically, verify, write_atomically
from utils.errors import DataError, NetworkError, RunError, of_a_network, printable
from utils.experiments import EXPERIMENTS, FINAL, experiment
from utils.report import publish, readme
from utils.report.publish import publish_run, publish_tables, put
from utils.serve.predict import open_picture
from utils.study import benchmark, search, statistics
from utils.training import evaluate


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train_loader, "__defaults__", (*train_loader.__defaults__[:-1], 0))  # of its workers
        monkeypatch.setattr(checkpoints, "PATIENCE", 0.1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def images(monkeypatch):
    """120 random images that publish takes for all of CIFAR-10."""
    data = random_images(training=220, test=110, source="original")
    for labels, count in ((data.train_labels, 4), (data.test_labels, 2)):
        labels[:] = np.repeat(np.arange(10), np.arange(1, 11) * count)  # untrained, a network often sees one class only
    data = with_digest(data, records.OFFICIAL["digest"])
    monkeypatch.setattr(publish, "load_cifar10", lambda: data)
    return data


def honest_run(data, **options):
    """A finished run whose figures are those of its weights, which nobody trained."""
    run = finished_run(**options)
    judged_on = run.metrics["evaluated_on"]
    part = data if judged_on == "test" else hold_out(data)
    run.metrics["mean"], run.metrics["std"] = map(list, channel_statistics(part.train_images))
    run.metrics["classes"] = part.classes
    batches = eval_loader(part.test_images, part.test_labels, run.metrics["mean"], run.metrics["std"])
    _, accuracy = evaluate(run.model, batches)
    run.history[f"{judged_on}_accuracy"] = accuracy
    run.metrics[f"{judged_on}_accuracy_last"] = run.metrics[f"{judged_on}_accuracy_best"] = accuracy
    run.metrics["epochs_to_85"] = None
    return run


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """The sentence with which a command ends; it must be one, and no traceback."""
    assert main(list(arguments)) == 2, arguments
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    assert error[:-1].isprintable() and len(error) < 1200
    return error


# ---------------------------------------------------------------- 1: only CIFAR-10, all of it


@pytest.mark.parametrize("other", [dict(source="folder"), dict(digest="0123456789abcdef"), dict(source="stand-in")])
def test_only_all_images_of_cifar10_get_into_results(root, images, capsys, other):
    run = honest_run(images)
    run.metrics["run"]["data"] |= other
    runs.save(run, root / "runs" / FINAL)
    assert "There is no finished run of experiment_5" in refused(capsys, "publish", FINAL)
    assert not (root / "results").exists()


def test_what_is_published_is_checked_on_the_official_images_only(root, monkeypatch, capsys):
    data = random_images(source="original")
    runs.save(honest_run(data), root / "runs" / FINAL)
    monkeypatch.setattr(publish, "load_cifar10", lambda: data)  # of another digest
    assert "checked on CIFAR-10" in refused(capsys, "publish", FINAL)
    runs.save(honest_run(data), root / "results" / FINAL)
    assert "checked on CIFAR-10" in refused(capsys, "calibrate", FINAL)


# ---------------------------------------------------------------- 2: publishing


@pytest.mark.parametrize("judged_on", ["test", "validation"])
def test_a_run_that_fits_together_is_published(root, images, judged_on):
    runs.save(honest_run(images, judged_on=judged_on), root / "runs" / FINAL)
    target = publish_run(FINAL, validation=judged_on == "validation")
    verify(target)
    published = {path.name for path in target.iterdir()}
    assert published == {SUMS, "history.csv", "metrics.json"} | ({"weights.pt"} if judged_on == "test" else set())


def forge_accuracy(run):
    run.metrics["test_accuracy_last"] += 1


def forge_logged_accuracy(run):
    run.history.loc[23, "test_accuracy"] += 1


def forge_weights(run):
    other = models.build_model(FINAL)
    nn.init.zeros_(other.linear.weight)
    other.linear.bias.data = torch.eye(10)[9]
    run.model.load_state_dict(other.state_dict())


def forge_weights_that_are_no_numbers(run):
    run.model.linear.weight.data[:] = float("nan")  # the first class is the answer: 1 of 55 images
    run.history["test_accuracy"] = run.metrics["test_accuracy_last"] = 100 / 55


def forge_epochs(run):
    run.history.loc[5, "epoch"] = 5


def forge_recipe(run):
    run.metrics["recipe"]["lr"] = 0.2


def forge_size(run):
    run.metrics["parameters"] -= 1


def forge_work(run):
    run.metrics["macs"] //= 2


def forge_field(run):
    run.metrics["receptive_field"] = None


def forge_speed(run):
    run.metrics["epochs_to_85"] = 3


FORGERIES = [value for name, value in list(globals().items()) if name.startswith("forge_")]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_run_that_does_not_fit_together_is_not_published(root, images, capsys, forge):
    run = honest_run(images)
    folder = root / "runs" / FINAL
    forge(run)
    run.metrics["run"]["response"] = records.UNKNOWN
    runs.save(run, folder)  # sealed again, as a program would do it
    refused(capsys, "publish", FINAL)
    assert not (root / "results").exists()


@pytest.mark.parametrize("file", checkpoints.KEPT)
@pytest.mark.parametrize("damage", [b"", b"garbage", None, "half", "folder"])
def test_a_damaged_run_is_not_published(root, images, capsys, file, damage):
    folder = root / "runs" / FINAL
    runs.save(honest_run(images), folder)
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if damage == "folder":
        (folder / file).mkdir()
    elif damage is not None:
        (folder / file).write_bytes(content[: len(content) // 2] if damage == "half" else damage)
    refused(capsys, "publish", FINAL)
    assert not (root / "results").exists()


EVENTS = ("open", "os.", "shutil.", "ctypes.")


def killed_at(event, function):
    """Call `function` in a child that dies at file event number `event`; False if it ended before."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(name, _):
            nonlocal seen
            if name.startswith(EVENTS):
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        function()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@posix
@pytest.mark.parametrize("place", ["Linux", "elsewhere"])
def test_publish_killed_at_any_file_event_leaves_old_or_new(root, monkeypatch, place):
    if place == "elsewhere":
        monkeypatch.setattr(publish, "exchange", lambda *_: False)
    target = root / "results" / FINAL
    old = {name: b"old " + name.encode() for name in (*checkpoints.KEPT, "calibration.json")}
    new = {name: b"new " + name.encode() for name in checkpoints.KEPT}
    put({"metrics.json": b"seed 2"}, target / "seed_2")
    put(old, target)
    before, event, seen = tree(target), 0, set()
    put(new, target)
    after = tree(target)
    put(old, target)
    while killed_at(event := event + 2, lambda: put(new, target)):
        if not target.exists() and place == "elsewhere":
            put({}, target)  # where the system cannot exchange folders, the next call puts the old one back
            assert tree(target) == before
            seen.add("between")
        else:
            found = tree(target)
            assert found in (before, after), event
            seen.add("old" if found == before else "new")
        put(old, target)
        assert {path.name for path in target.parent.iterdir()} == {FINAL}, "leftovers"
    assert tree(target) == after and seen >= {"old", "new"} and event > 10


def test_a_run_judged_on_other_held_out_images_is_not_published(root, images, capsys):
    run = honest_run(images, judged_on="validation")
    run.metrics["run"]["split"] = "0123456789abcdef"
    runs.save(run, root / "runs" / FINAL)
    assert "other images were held out" in refused(capsys, "publish", FINAL, "--validation")


def test_a_calibration_joins_what_is_published(root, images, capsys):
    target = root / "results" / FINAL
    runs.save(honest_run(images), target)
    before = tree(target)
    assert main(["calibrate", FINAL]) == 0 and "temperature" in capsys.readouterr().out
    verify(target)
    assert {path.name for path in target.iterdir()} == {*checkpoints.KEPT, SUMS, "calibration.json"}
    assert all(tree(target)[path] == before[path] for path in before if path.name != SUMS)
    runs.save(honest_run(images), root / "runs" / FINAL)
    assert publish_run(FINAL) == target and not (target / "calibration.json").exists()


def test_a_full_disk_while_a_published_folder_is_copied_is_a_sentence(root, images, monkeypatch, capsys):
    runs.save(honest_run(images), root / "results" / FINAL)
    before = tree(root / "results")

    def copytree(*_):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device"), ("c", "d", "again")])

    monkeypatch.setattr(shutil, "copytree", copytree)
    assert "cannot be copied ([Errno 28] No space left on device); it is as it was." in refused(
        capsys, "calibrate", FINAL
    )
    assert tree(root / "results") == before


@posix
def test_who_closes_the_output_gets_no_traceback():
    command = f"{shlex.quote(sys.executable)} -m utils --help >&-"
    result = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0 and not result.stderr


def test_a_run_whose_teacher_is_not_published_is_not_published(root, images, monkeypatch, capsys):
    row = EXPERIMENTS[FINAL]
    monkeypatch.setitem(EXPERIMENTS, FINAL, replace(row, recipe=replace(row.recipe, teacher="runs/mine")))
    assert "runs/mine, which teaches experiment_5, is not published" in refused(capsys, "publish", FINAL)


def test_what_is_not_published_is_not_calibrated(root, images, capsys):
    runs.save(honest_run(images), root / "runs" / FINAL)
    before = tree(root)
    assert "is not published" in refused(capsys, "calibrate", f"runs/{FINAL}")
    assert {path: content for path, content in tree(root).items() if path.name != ".publishing"} == before


# ---------------------------------------------------------------- 3: a flipped bit


def flipped(content, rng):
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("file", [*checkpoints.KEPT, "calibration.json", SUMS])
def test_a_flipped_bit_in_results_is_noticed(tmp_path, monkeypatch, capsys, file):
    shutil.copytree(ROOT / "results" / FINAL, tmp_path / "results" / FINAL)
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    path, rng = tmp_path / "results" / FINAL / file, random.Random(0)
    content = path.read_bytes()
    for _ in range(20):
        path.write_bytes(flipped(content, rng))
        refused(capsys, "predict", str(ROOT / "images" / "app.png"))


def test_a_flipped_bit_in_a_checkpoint_is_noticed_or_without_effect(tmp_path):
    path, rng = tmp_path / "checkpoint.pt", random.Random(0)
    state = dict(model=models.build_model("tiny").state_dict(), history=[dict(epoch=1, loss=0.5)], finished=False)
    save_atomically(state, path)
    content, noticed = path.read_bytes(), 0
    for _ in range(200):
        path.write_bytes(flipped(content, rng))
        try:
            found = read_checkpoint(path)
        except RunError:
            noticed += 1
        else:
            assert found["history"] == state["history"] and found["finished"] is False
            assert all(torch.equal(found["model"][key], value) for key, value in state["model"].items())
    assert noticed > 150


@pytest.fixture
def class_folders(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "mirror" / part / name).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(
                tmp_path / "mirror" / part / name / "a.png"
            )
    return tmp_path / "mirror"


@pytest.mark.parametrize("damage", ["flip", "half", "empty", "missing"])
def test_the_decoded_cache_heals_itself(class_folders, cache, damage):
    right, rng = load_cifar10(class_folders), random.Random(0)
    path = next(cache.glob("images-*.npz"))
    content = path.read_bytes()
    for _ in range(20 if damage == "flip" else 1):
        damages = dict(flip=flipped(content, rng), half=content[: len(content) // 2], empty=b"")
        path.unlink() if damage == "missing" else path.write_bytes(damages[damage])
        assert load_cifar10(class_folders).digest == right.digest
    assert zipfile.ZipFile(path).testzip() is None


# ---------------------------------------------------------------- 4: FAST_RUN


@pytest.mark.parametrize(
    ("value", "fast"),
    [("1", True), ("true", True), ("YES", True), (" on ", True)]
    + [(off, False) for off in ("", "0", "false", "No", "off")]
    + [(other, None) for other in ("banana", "2", "-1", "tru", "\x1b[31m")],
)
def test_fast_run_is_read_or_refused(value, fast):
    result = fast_run(value)
    if fast is None:
        assert result.returncode and result.stderr.startswith("Error: FAST_RUN is ") and not result.stdout
        assert result.stderr.count("\n") == 1 and "\x1b" not in result.stderr
    else:
        assert result.stdout == f"{fast}\n"


# ---------------------------------------------------------------- 5: any schedule has an end


@pytest.mark.parametrize(("warmup", "count"), [(1.0, 100), (0.0, 100), (0.2, 5 * 32), (0.2, 1), (0.5, 64)])
def test_a_run_with_few_steps_ends(root, warmup, count):
    recipe = replace(ONE, warmup=warmup, batch_size=32)
    run = runs.train(tiny_network, recipe, random_images(training=count), name="mine", test=True, progress=False)
    assert len(run.history) == 1


# ---------------------------------------------------------------- 6: pictures and messages


def test_a_postscript_file_is_opened_by_nobody(tmp_path, monkeypatch, class_folders, cache):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    eps = io.BytesIO()
    Image.new("RGB", (32, 32)).save(eps, "EPS")
    (tmp_path / "picture.png").write_bytes(eps.getvalue())
    with pytest.raises(DataError):
        open_picture(tmp_path / "picture.png")
    (class_folders / "train" / "cat" / "a.png").write_bytes(eps.getvalue())
    with pytest.raises(DataError):
        load_cifar10(class_folders)


def test_export_overwrites_nothing_but_a_network(tmp_path, capsys):
    path = tmp_path / "notes.md"
    path.write_text("needed", encoding="utf-8")
    assert "ends in .onnx" in refused(capsys, "export", FINAL, "--output", str(path))
    assert "ends in .onnx" in refused(capsys, "export", FINAL, "--output", "~nobody-of-this-name/x.txt")
    assert path.read_text(encoding="utf-8") == "needed"


def test_no_control_character_of_a_name_reaches_the_terminal(tmp_path, capsys, monkeypatch):
    name = tmp_path / "a\x1b]0;owned\x07\n\u202e.png"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        pytest.skip("no such name can be in this locale")
    refused(capsys, "predict", str(name))
    Image.new("RGB", (40, 40)).save(name)
    assert main(["predict", str(name)]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said[:-1].isprintable()
    refused(capsys, "export", FINAL, "--output", str(name / "below"))


def test_no_control_character_of_an_archive_reaches_the_terminal(tmp_path, cache, capsys):
    with pytest.raises(DataError):
        load_cifar10(tar_of(tmp_path / "a\x1b]0;owned\x07.tar", ("nothing", 1)))
    assert "\x1b" not in capsys.readouterr().out


def test_messages_are_one_printable_line_of_limited_length():
    assert printable("plain text, ü") == "plain text, ü"
    assert printable("a\x1b[0m\n\udcff") == "a\\x1b[0m\\n\\udcff"
    assert len(printable("x" * 10**6)) < 1100
    assert str(RunError("two\nlines")) == "two\\nlines"


# ---------------------------------------------------------------- 7: limits


def tar_of(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, size in members:
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return path


@pytest.mark.parametrize("members", [[("big", 3_000_000)], [(f"{n}", 1) for n in range(600)]], ids=["large", "many"])
def test_an_archive_has_a_limit(tmp_path, cache, monkeypatch, members):
    monkeypatch.setattr(files, "LARGEST", 2_000_000)
    with pytest.raises(DataError, match="unpacks to more than 2,000,000 bytes"):
        load_cifar10(tar_of(tmp_path / "bomb", *members))
    assert {path.name for path in cache.iterdir()} == {".lock"}


def test_a_sparse_member_of_terabytes_is_refused(tmp_path, cache):
    header = tarfile.TarInfo("huge")
    header.size, header.pax_headers = 512, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    header.pax_headers |= {"GNU.sparse.name": "huge", "GNU.sparse.realsize": str(2 * 10**12)}
    with tarfile.open(tmp_path / "sparse", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    with pytest.raises(DataError):
        load_cifar10(tmp_path / "sparse")
    assert {path.name for path in cache.iterdir()} == {".lock"}


def test_leftovers_are_removed_at_the_next_start(class_folders, cache):
    (cache / ".unfinished-of-a-killed-process").mkdir(parents=True)
    load_cifar10(class_folders)
    assert not list(cache.glob(".unfinished-*"))


def test_class_folders_have_a_limit_and_short_messages(class_folders, cache, monkeypatch):
    for n in range(2000):
        (class_folders / "train" / f"wrong class {n}").mkdir()
    with pytest.raises(DataError) as error:
        load_cifar10(class_folders)
    assert len(str(error.value)) < 1100
    monkeypatch.setattr(files, "MOST", 9)
    with pytest.raises(DataError, match="holds more than 9 images"):
        load_cifar10(class_folders)


def test_a_huge_picture_in_a_class_folder_is_not_decoded(class_folders, cache, monkeypatch):
    Image.new("1", (9000, 9000)).save(class_folders / "train" / "cat" / "a.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="is 9000x9000 pixels"):
        files.decode(class_folders / "train" / "cat" / "a.png")


def test_a_picture_of_a_class_folder_is_read_as_predict_reads_it(tmp_path):
    ramp = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    pixels = files.decode(tmp_path / "ramp.png")
    assert np.abs(pixels[..., 0].astype(int) - (ramp // 257).astype(int)).max() <= 1
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (files.decode(tmp_path / "clear.png") == 255).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_numbers_without_a_usual_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((32, 32), dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(DataError, match="is not a readable image"):
        files.decode(tmp_path / "deep.tif")


def test_the_page_has_limits(tmp_path, monkeypatch):
    from utils.serve import app

    Image.new("1", (7000, 6000)).save(tmp_path / "large.png")
    assert "below 40,000,000 pixels" in app.answer(str(tmp_path / "large.png"), FINAL)[3]
    assert "runs/own holds no finished run" in app.answer(str(tmp_path / "large.png"), "runs/own")[3]
    launched = {}

    class Page:
        def launch(self, **options):
            launched.update(options)

    monkeypatch.setattr(app, "page", Page)
    app.serve(7860)
    assert launched["max_file_size"] == 20_000_000 and launched["server_name"] == "127.0.0.1"


def test_a_port_that_is_taken_is_a_sentence(monkeypatch, capsys):
    from utils.serve import app

    def taken(**_):
        raise OSError("Cannot find empty port in range: 7860-7860.")

    monkeypatch.setattr(app, "page", lambda: type("Page", (), dict(launch=staticmethod(taken))))
    assert "Port 7860 is taken" in refused(capsys, "app")


# ---------------------------------------------------------------- 8: mirrors


def response(lines, body=b"", rest=None):
    """A server's whole answer: raw lines, a body, and what goes on after it."""

    def answer(connection):
        connection.sendall("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body)
        if rest:
            rest(connection)

    return answer


def drip(connection):
    for _ in range(400):
        connection.sendall(b"x")
        time.sleep(0.05)


flooded = []  # how many bytes were sent


def flood(connection):
    flooded[:] = [0]
    while True:
        connection.sendall(bytes(2**16))
        flooded[0] += 2**16


BAD_MIRRORS = {
    "drips": response(["Content-Length: 100000"], rest=drip),
    "never ends": response([], rest=flood),
    "garbage": lambda connection: connection.sendall(b"\x00\xff garbage\r\n\r\n"),
    "nothing": lambda connection: None,
    "300 headers": response([f"X-{n}: y" for n in range(300)]),
    "length banana": response(["Content-Length: banana"], b"xyz"),
    "negative length": response(["Content-Length: -5"], b"xyz"),
    "bad chunk": response(["Transfer-Encoding: chunked"], b"zz\r\nabc\r\n"),
    "cut chunk": response(["Transfer-Encoding: chunked"], b"ff\r\nabc"),
    "cut": response(["Content-Length: 100000"], b"abc"),
    "page": response(["Content-Type: text/html"], b"<html>log in</html>"),
    "bad location": lambda c: c.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 0\r\n\r\n"),
    "file location": lambda c: c.sendall(
        b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    ),
    "no status": lambda c: c.sendall(b"HTTP/1.1 banana\r\n\r\n"),
    "503": lambda c: c.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.fixture
def serve():
    """`serve(answer)`: the address of a loopback server that gives every request this answer."""
    import socketserver

    servers = []

    def start(answer):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(2**16)
                try:
                    answer(self.request)
                except OSError:
                    pass  # the client has had enough

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def packed(official, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "packed", "w:gz") as tar:
        tar.add(official, arcname=official.name)
    content = (tmp_path / "packed").read_bytes()
    monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", md5(content).hexdigest())
    return content


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib leaves a socket open
@pytest.mark.parametrize("first", BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def test_any_answer_that_is_no_good_leads_to_the_next_mirror(serve, packed, cache, monkeypatch, first):
    monkeypatch.setattr(sources, "STALL", 0.3)
    monkeypatch.setattr(sources, "SIZE", 5_000_000)
    good = response([f"Content-Length: {len(packed)}"], packed)
    monkeypatch.setattr(sources, "MIRRORS", [serve(first), serve(good)])
    start = time.monotonic()
    assert load_cifar10().source == "original" and time.monotonic() - start < 10
    assert sum(flooded) < 40_000_000, "a mirror was followed far beyond the size of the archive"
    assert {path.name for path in cache.iterdir()} == {".lock", "official.npz"}
    gc.collect()  # so that it is closed here


def test_a_slow_line_gets_its_data(serve, packed, cache, monkeypatch):
    monkeypatch.setattr(sources, "STALL", 0.2)
    monkeypatch.setattr(sources, "SLOWEST", len(packed) / 3)

    def slowly(connection):
        for n in range(0, len(packed), len(packed) // 20 + 1):
            connection.sendall(packed[n : n + len(packed) // 20 + 1])
            time.sleep(0.05)

    monkeypatch.setattr(sources, "MIRRORS", [serve(response([f"Content-Length: {len(packed)}"], rest=slowly))])
    assert load_cifar10().source == "original"


# ---------------------------------------------------------------- 9: damaged files, full disks


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for name in ("results", "docs", "images"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "README.md", folder)
    (folder / "notebooks").mkdir()
    return folder


DAMAGES = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: bytes(range(256)) * 4,
    "other JSON": lambda content: b"[1, 2]",
    "a folder": lambda content: "folder",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    "file",
    [f"{FINAL}/{file}" for file in (*checkpoints.KEPT, "calibration.json", SUMS)]
    + [f"{FINAL}/seed_2/metrics.json", "benchmark/speed.csv", "search/small.csv", "faults.csv", SUMS],
)
def test_a_damaged_file_in_results_is_a_sentence_in_every_command(results, monkeypatch, capsys, file, damage):
    monkeypatch.setattr(utils, "ROOT", results)
    path = results / "results" / file
    content, readme = path.read_bytes(), (results / "README.md").read_bytes()
    path.unlink()
    try:
        damaged = damage(content)
        if damaged == "folder":
            path.mkdir()
        elif damaged is not None:
            path.write_bytes(damaged)
        said = refused(capsys, "report")
        assert path.name in said or path.parent.relative_to(results).as_posix() in said, said
        assert (results / "README.md").read_bytes() == readme
        if file.startswith(f"{FINAL}/") and "seed" not in file:
            for command in (["predict", "x.png"], ["export", FINAL], ["train", FINAL]):
                if command[0] != "train" or (path.parent / "metrics.json").is_file():  # else it has nothing to compare
                    refused(capsys, *command)
    finally:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)


def test_a_full_disk_in_training_is_a_sentence_and_the_last_epoch_stays(root, monkeypatch, capsys):
    runs.train(tiny_network, ONE, random_images(), name="mine", progress=False)
    before = tree(root)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(b"new", root / "runs" / "mine" / "metrics.json")
    assert tree(root) == before, "neither the old file nor the disk is touched"
    monkeypatch.setattr("utils.__main__.COMMANDS", {"train": lambda _: full(0)})
    assert "No space left on device" in refused(capsys, "train", FINAL)


def test_a_short_run_in_the_place_of_the_whole_one_is_noticed(results, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", results)
    short, whole = (results / "results" / FINAL / place for place in ("epochs_5/validation", "validation"))
    whole.rename(results / "aside")
    try:
        shutil.copytree(short, whole)
        with pytest.raises(RunError, match="validation holds something else than its name says"):
            runs.compare(f"{FINAL}/validation")
    finally:
        shutil.rmtree(whole)
        (results / "aside").rename(whole)


def test_another_run_among_the_seeds_is_noticed(results, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", results)
    seed_2 = results / "results" / FINAL / "seed_2"
    seed_2.rename(results / "aside")
    try:
        for other in ("experiment_4/seed_2", f"{FINAL}/seed_3", f"{FINAL}/epochs_5/validation"):
            shutil.copytree(results / "results" / other, seed_2)
            for shown in (statistics.published, lambda: runs.compare(f"{FINAL}/seed_2")):
                with pytest.raises(RunError, match="seed_2 holds something else than its name says"):
                    shown()
            shutil.rmtree(seed_2)
    finally:
        shutil.rmtree(seed_2, ignore_errors=True)
        (results / "aside").rename(seed_2)


# ---------------------------------------------------------------- 10: two at once

HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_in_a_folder_says_so_and_the_lock_dies_with_its_process(root, capsys):
    (root / "runs" / "mine").mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, root / "runs/mine/.lock"], stdout=-1, encoding="utf-8"
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"Another process is training in .*runs.mine; wait"):
            runs.train(tiny_network, ONE, random_images(), name="mine", progress=False)
        assert not (root / "runs" / "mine" / "checkpoint.pt").exists()
        holder.kill()
    assert len(runs.train(tiny_network, ONE, random_images(), name="mine", progress=False).history) == 1


def test_training_holds_the_lock_and_frees_it_when_it_fails(root, monkeypatch):
    def fit(*_, folder, **__):
        with pytest.raises(RunError, match="Another process"), checkpoints.alone_in(folder):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        runs.train(tiny_network, ONE, random_images(), name="mine", progress=False)
    with checkpoints.alone_in(root / "runs" / "mine"):
        pass


@contextlib.contextmanager
def begun_by_another(folder):
    """As `alone_in`, but between the choice of the folder and the lock another run was trained there to its end."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runs, "alone_in", checkpoints.alone_in)
        runs.train(tiny_network, ONE, random_images(), name="mine", seed=2, progress=False)
    yield


def test_two_runs_that_chose_one_folder_are_not_mixed(root, monkeypatch):
    monkeypatch.setattr(runs, "alone_in", begun_by_another)
    with pytest.raises(RunError, match="Another run was begun in"):
        runs.train(tiny_network, ONE, random_images(), name="mine", progress=False)
    assert runs.load("runs/mine", tiny_network).metrics["seed"] == 2
    monkeypatch.undo()


def test_the_table_of_tries_is_written_by_one_process_at_a_time(root, monkeypatch):
    from utils.study import search

    alone = []

    def read(path):
        try:
            with checkpoints.alone_in(path.parent):
                alone.append(False)
        except RunError as error:
            alone.append("Another process" in str(error))
        return pd.DataFrame([dict.fromkeys(["epochs", "lr", *search.KEPT], 1)])

    run = finished_run("tiny", judged_on="validation")
    run.metrics["seconds_per_epoch"] = 1.0
    monkeypatch.setattr(search.runs, "train", lambda *_, **__: run)
    write_atomically(b"seed\n1\n", root / "runs" / "search" / "tiny.csv")
    monkeypatch.setattr(search.records, "read_table", read)
    search.attempt("tiny", [], None)
    assert alone == [False, True], "looked at before the training, and read again when nobody else writes"
    with checkpoints.alone_in(root / "runs" / "search"):
        pass


LOADER = "import sys; from utils.data import load_cifar10; print(load_cifar10(*sys.argv[1:]).digest)"


def test_two_processes_fill_the_cache_at_once(class_folders, cache, without_images):
    command = [sys.executable, "-c", LOADER, class_folders]
    environment = without_images | dict(XDG_CACHE_HOME=str(cache.parent), OMP_NUM_THREADS="1")
    started = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, encoding="utf-8") for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0] and len({lines[-1] for lines in said}) == 1
    assert sum("Decoding" in lines[0] for lines in said) == 1
    assert {path.name.split("-")[0] for path in cache.iterdir()} == {".lock", "images"}


def test_two_downloads_at_once_are_one(serve, packed, cache, monkeypatch):
    asked = []

    def answer(connection):
        asked.append(connection)
        time.sleep(0.3)
        response([f"Content-Length: {len(packed)}"], packed)(connection)

    monkeypatch.setattr(sources, "MIRRORS", [serve(answer)])
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(load_cifar10().digest)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1 and len(digests) == 3 and len(asked) == 1


# ---------------------------------------------------------------- 11: arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", f"{FINAL}/../experiment_4"],
        ["calibrate", "runs/mine"],
        ["calibrate", "."],
        ["calibrate", "a" * 300],
        ["calibrate", "../results/experiment_5"],
        ["export", "x\0y"],
        ["export", f"{FINAL}/"],
        ["export", FINAL, "--output", "README.md/below"],
        ["export", FINAL, "--output", "n" * 300 + ".onnx"],
        ["predict", "images/app.png", "--figure", ".png"],
        ["predict", "images/app.png", "--figure", ""],
        ["predict", "images/app.png", "--figure", "README.md/below.png"],
        ["predict", "images/app.png", "--figure", "n" * 300 + ".png"],
        ["predict", "images/app.png", "--figure", "x.banana"],
        ["predict", "images/app.png", "--network", "../x"],
        ["predict", "n" * 300],
        ["links", "../.."],
        ["links", "a/.."],
        ["links", "é/é"],
        ["train", "a" * 5000],
        ["publish", "../x"],
        ["search", FINAL, "c1=" + "9" * 5000],
        ["search", FINAL, "lr=nan"],
        ["search", FINAL, "lr=" + "9" * 400],
        ["search", FINAL, "epochs=1e3"],
        ["search", FINAL, "batch_size=0"],
    ],
    ids=lambda arguments: " ".join(arguments)[:50].replace("\0", "NUL"),
)
def test_a_wrong_argument_is_a_sentence(capsys, monkeypatch, arguments):
    monkeypatch.chdir(ROOT)
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True).stdout
    refused(capsys, *arguments)
    assert subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True).stdout == before


def test_a_figure_never_takes_the_place_of_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save("cat.png")
    before = tree(tmp_path)
    assert "is one of the pictures" in refused(capsys, "predict", "cat.png", "--figure", str(tmp_path / "cat.png"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("seed", ["9" * 26, "9" * 5000, "-1", "1e3", "", "٣", "0x10", str(2**63)])
def test_a_seed_that_is_none_is_a_sentence(capsys, seed):
    with pytest.raises(SystemExit) as end:
        main(["train", FINAL, f"--seed={seed}"])
    error = capsys.readouterr().err
    assert end.value.code == 2 and "is not a whole number" in error and len(error) < 1500


@pytest.mark.parametrize("path", ["x" * 5000, "a/" * 3000, "x\0y", "~nobody-of-this-name/x"])
def test_a_path_that_can_be_no_path_is_a_sentence(cache, path):
    with pytest.raises(DataError) as error:
        load_cifar10(path)
    assert len(str(error.value)) < 1200 and str(error.value).isprintable()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_an_archive_with_a_link_to_itself_is_a_sentence(tmp_path, cache, kind):
    with tarfile.open(tmp_path / "loop", "w") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        member.type, member.linkname = kind, "batches.meta" if kind == tarfile.SYMTYPE else member.name
        tar.addfile(member)
    with pytest.raises(DataError):
        load_cifar10(tmp_path / "loop")
    assert {path.name for path in cache.iterdir()} <= {".lock"}


# ---------------------------------------------------------------- 12 and 13


@posix
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGHUP"])
def test_sigterm_and_a_closed_terminal_end_like_ctrl_c(project, tmp_path, sent):
    signal.signal(getattr(signal, sent), signal.SIG_DFL)  # these tests may run under nohup
    with project("-m", "utils", "train", "tiny", "--epochs", "40") as process:
        for line in process.stdout:
            if line.startswith("Epoch   1"):
                process.send_signal(getattr(signal, sent))
                break
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "\nStopped. The same command goes on" in error and "Traceback" not in error
    for _ in range(50):
        if not (left := of_this_test(tmp_path)):
            break
        time.sleep(0.1)
    assert not left, "workers are left"


@posix
def test_who_asks_by_nohup_is_not_stopped_by_a_closed_terminal(root):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert main(["runs"]) == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signal.signal(signal.SIGHUP, before)


def of_this_test(place):
    """The numbers of the processes whose environment names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] * (f"{place}/".encode() in path.read_bytes())
    return found


@posix
def test_a_shared_cache_can_be_read_by_others(class_folders, official, cache, tmp_path):
    def private(member):
        member.mode = 0o700 if member.isdir() else 0o600
        return member

    with tarfile.open(tmp_path / "archive", "w") as tar:
        tar.add(official, arcname=official.name, filter=private)
    before = os.umask(0o022)
    try:
        load_cifar10(class_folders)
        load_cifar10(tmp_path / "archive")
    finally:
        os.umask(before)
    for path in cache.rglob("*"):
        if path.name != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044, path


# ---------------------------------------------------------------- networks, names, precision


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    def forward(self, x):
        return self.body(x), x


class NotANumber(Tuple):
    def forward(self, x):
        return self.body(x) / 0 * 0


class Random(Tuple):
    def forward(self, x):
        return self.body(x) + torch.rand(len(x), 10)


@pytest.mark.parametrize("network", [Tuple, NotANumber, Random])
def test_a_network_that_answers_no_logits_is_a_sentence(root, network):
    data = random_images()
    for use in (runs.train, runs.show):
        with pytest.raises(NetworkError) as error:
            use(network, ONE, data, name="mine")
        assert "The network must return" in str(error.value)
    assert not (root / "runs").exists()


def test_a_precision_asked_for_too_late_is_said(root, capsys):
    runs.train(tiny_network, ONE, random_images(), name="mine", progress=False)
    capsys.readouterr()
    runs.train(tiny_network, replace(ONE, precision="bfloat16"), random_images(), name="mine", progress=False)
    assert (
        capsys.readouterr().out
        == "runs/mine was trained in float32, not in bfloat16; for that use another name, or move its folder.\n"
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_a_sentence(monkeypatch, capsys, error):
    def fails(_):
        raise error

    monkeypatch.setitem(COMMANDS, "runs", fails)
    assert main(["runs"]) == 2 and "Error: there is too little memory" in capsys.readouterr().err
    with pytest.raises(RunError, match="The network cannot be trained: there is too little memory; close other"):
        with of_a_network("be trained"):
            fails(None)
    error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert main(["runs"]) == 2 and "Error: The output cannot be written" in capsys.readouterr().err
    with monkeypatch.context() as full:  # what was printed lies in a buffer until the end
        full.setitem(COMMANDS, "runs", lambda _: None)
        full.setattr(sys.stdout, "flush", lambda: fails(None))
        error = OSError(errno.ENOSPC, "No space left on device")
        assert main(["runs"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.setitem(COMMANDS, "runs", lambda _: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["runs"])


def test_a_full_disk_names_the_file(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(b"1", tmp_path / "a.json")
    assert caught.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "unlink", full)  # nor can what was begun be removed
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(b"1", tmp_path / "b.json")
    assert caught.value.filename == str(tmp_path / "b.json")


def test_two_that_write_one_file_leave_one_of_both_whole(tmp_path, monkeypatch):
    path, sync = tmp_path / "a [1].json", os.fsync

    def in_between(file):
        monkeypatch.setattr(os, "fsync", sync)
        write_atomically(b"other", path)
        sync(file)

    monkeypatch.setattr(os, "fsync", in_between)
    write_atomically(b"one", path)
    assert path.read_bytes() == b"one" and [*tmp_path.iterdir()] == [path]


def test_what_a_killed_writer_left_goes_once_nobody_can_be_at_it(tmp_path):
    old, young = (tmp_path / f".a [1].json.{word}.tmp" for word in ("old", "young"))
    for file in (old, young):
        file.touch()
    os.utime(old, (0, 0))
    write_atomically(b"1", tmp_path / "a [1].json")
    assert not old.exists() and young.exists()


def test_a_network_of_ones_own_is_published_and_how_it_gets_onto_the_page_is_said(monkeypatch, tmp_path, capsys):
    for name, said in ((FINAL, "; `make report`"), ("mine", "; add mine to RECORDS in utils/experiments.py, and")):
        monkeypatch.setattr(utils, "ROOT", tmp_path)
        monkeypatch.setattr("utils.report.publish.publish_run", lambda *a: tmp_path / "results" / a[0])
        assert main(["publish", name]) in (None, 0) and said in capsys.readouterr().out


def test_a_run_that_is_in_runs_is_named(root):
    runs.save(finished_run(), root / "runs" / "seq")
    with pytest.raises(RunError, match=r"seq holds no finished run; there is runs/seq"):
        runs.load("seq")


# ---------------------------------------------------------------- found in a second attack


def search_table(root, place, seeds=(0, 1, 2), name="fast"):
    """A table in `place` with a row for each of so many runs, which lie in runs/."""
    folder, columns, table = root / place / "search", ["epochs", "lr", *search.KEPT], []
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        run = finished_run(network=tiny_network, seed=seed, judged_on="validation")
        run.metrics.update(name=f"search/{name}", validation_accuracy_last=83.96)
        runs.save(run, root / "runs" / "search" / f"{name}-{seed}")
        table.append(records.row_of(run.metrics))
    pd.DataFrame(table, columns=columns).to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_a_table_without_the_published_rows_is_not_published(root):
    search_table(root, "runs")
    target = publish_tables("search")
    before = tree(target)
    for rows, why in (
        ([], "it holds no row"),
        ([0, 1], "lacks published rows"),
        ([4, 5, 6], "lacks"),
    ):
        search_table(root, "runs", rows)
        with pytest.raises(RunError, match=why):
            publish_tables("search")
        assert tree(target) == before


def test_a_column_that_no_run_knows_is_not_published(root):
    search_table(root, "runs")
    target = publish_tables("search")
    file = root / "runs" / "search" / "fast.csv"
    table = pd.read_csv(file)
    for run in file.parent.glob("fast-*"):
        shutil.rmtree(run)  # nobody keeps the runs of what is published
    table.assign(depth=np.nan).to_csv(file, index=False)  # an argument that the network had not yet
    assert "depth" in pd.read_csv(publish_tables("search") / "fast.csv")
    before = tree(target)
    table.assign(test_accuracy=99.9).assign(depth=np.nan).to_csv(file, index=False)
    with pytest.raises(RunError, match=r"Row 1 of runs/search/fast.csv is of no finished run"):
        publish_tables("search")
    assert tree(target) == before


@pytest.fixture
def measured_tables(root):
    """Those that are published, in results/ and, as `bench` leaves them, in runs/benchmark."""
    for place in ("runs", "results"):
        shutil.copytree(ROOT / "results" / "benchmark", root / place / "benchmark")
    folder = root / "runs" / "benchmark"
    (folder / SUMS).rename(folder / benchmark.WHOLE)
    return folder


@pytest.mark.parametrize(
    "file, old, new, why",
    [
        ("accuracy", "float32,1,3,69.06", "float32,1,3,69", "was changed since"),
        ("speed", "5,our,", "5,ours,", "was changed since"),
        ("minutes", ",", ";", "was changed since"),
        (
            "growth",
            "experiment_5,512,6400,92394,10774848,61,1.669,1268.59,bfloat16,original,2\n",
            "",
            "lacks .*512.*, which is published",
        ),
        ("growth", "tiny,128,6400,9786", "tiny,128,6400,1234", "other parameters of tiny than the code"),
        ("minutes", ",quick,7,", ",quick,9,", "other epochs than the recipes"),
        ("speed", ",original,", ",stand-in,", "Row 1 .* was measured on the stand-in; delete it"),
    ],
)
def test_times_that_were_changed_or_are_of_something_else_are_not_published(measured_tables, root, file, old, new, why):
    path = measured_tables / f"{file}.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    if "was changed since" not in why:  # by a measurement of other images, or of other code
        sums = {name: text for name, text in checkpoints.checksums(measured_tables).items() if name.endswith(".csv")}
        (measured_tables / benchmark.WHOLE).write_text(json.dumps(sums), encoding="utf-8")
    before = tree(root / "results")
    with pytest.raises(RunError, match=why):
        publish_tables("benchmark")
    assert tree(root / "results") == before


@pytest.mark.parametrize("content", [b'{"speed.csv": "12', b"", b"\xff", b"[5]", b"null", b"5"])
def test_a_damaged_list_of_whole_measurements_makes_none_of_them_whole(measured_tables, root, content):
    (measured_tables / benchmark.WHOLE).write_bytes(content)
    with pytest.raises(RunError, match="was not measured to its end, or was changed since"):
        publish_tables("benchmark")


def test_a_seal_that_cannot_be_read_is_a_sentence(root):
    folder = root / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / SUMS).write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(RunError, match="checksums.json is missing or damaged"):
        checkpoints.verify(folder)


def test_a_damaged_table_is_not_sealed_anew_by_publishing_another(root):
    search_table(root, "runs", name="small")
    search_table(root, "runs")
    target = publish_tables("search")
    (target / "small.csv").write_text(
        (target / "small.csv").read_text(encoding="utf-8").replace("83.96", "99.96"), encoding="utf-8"
    )
    with pytest.raises(RunError, match=r"small.csv is missing or damaged"):
        publish_tables("search")


def test_publishing_waits_for_another_that_publishes(root):
    search_table(root, "runs")
    with ThreadPoolExecutor(1) as pool:
        with FileLock(root / "runs" / ".publishing"):
            publishing = pool.submit(publish_tables, "search")
            time.sleep(0.3)
            assert not publishing.done() and not (root / "results" / "search").exists()
        assert publishing.result(10) == root / "results" / "search"


def test_nobody_publishes_from_the_first_look_on(root, images, monkeypatch):
    """Else other weights get the temperature, or a row that was published meanwhile is lost."""
    runs.save(honest_run(images), root / "results" / FINAL)
    search_table(root, "runs")
    seen = []

    def looks(function):
        def looking(*arguments):
            with pytest.raises(Timeout), FileLock(root / "runs" / ".publishing", timeout=0):
                pass
            seen.append(function.__name__)
            return function(*arguments)

        return looking

    monkeypatch.setattr(publish.runs, "load", looks(runs.load))
    monkeypatch.setattr(readme, "verify", looks(verify))
    monkeypatch.setattr(publish.records, "read_table", looks(records.read_table))
    publish.calibrate(FINAL)
    publish_tables("search")
    assert {"load", "read_table"} <= set(seen)
    seen.clear()
    with pytest.raises(RunError, match="results/ lacks experiment_1"):  # this comes after the first look
        readme.write()
    assert "verify" in seen, "nor does anybody publish while a report is made"


def test_what_was_killed_between_two_renames_is_put_back_before_anything_is_published_there(root):
    """Where the system cannot exchange folders: another seed's publishing would make the folder, and the next delete
    the only copy."""
    target = root / "results" / FINAL
    put({"metrics.json": b"seed 1"}, target)
    put({"metrics.json": b"seed 3"}, target / "seed_3")
    before = tree(target)
    target.rename(root / "results" / f".old-{FINAL}")
    put({"metrics.json": b"seed 2"}, target / "seed_2")
    assert before.items() <= tree(target).items()
    assert not (root / "results" / f".old-{FINAL}").exists()


def test_a_full_disk_in_publishing_is_a_sentence_and_leaves_nothing(root, monkeypatch, capsys):
    target = root / "results" / FINAL
    put({"metrics.json": b"old"}, target)
    before = tree(root)

    def full(source, copy):
        copy.mkdir()
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device"), ("c", "d", "the same")])

    monkeypatch.setattr(shutil, "copytree", full)
    monkeypatch.setattr("utils.__main__.COMMANDS", {"publish": lambda _: put({}, target)})
    assert "[Errno 28] No space left on device" in refused(capsys, "publish", FINAL)
    assert tree(root) == before and not list((root / "results").glob(".new-*"))


def test_a_temperature_does_not_stay_when_weights_come(root, images):
    run = honest_run(images)
    runs.save(run, target := root / "results" / FINAL)
    publish.calibrate(FINAL)
    put({"history.csv": b"another"}, target)
    assert (target / "calibration.json").exists()
    put({"weights.pt": b"others"}, target)
    assert not (target / "calibration.json").exists()


def test_without_a_stderr_there_is_no_bar(root, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", None)
    runs.train(tiny_network, ONE, random_images(), name="mine")


def notebook(path, text="", tag=None):
    Image.new("RGB", (1, 1)).save(png := io.BytesIO(), "png")
    png = dict(data={"image/png": base64.b64encode(png.getvalue()).decode()})
    cell = dict(cell_type="code", source=text, metadata=dict(tags=[tag] if tag else []), outputs=[png])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(cells=[cell])), encoding="utf-8")


def test_a_notebooks_figure_cannot_lead_out_of_images(root):
    for number, tag in enumerate(("images/../x.png", "images//tmp/x.png", "images/x.txt", "images/right.png")):
        notebook(root / "notebooks" / f"0{number}_some.ipynb", "[![badge]()]()\n\n# A title", tag)
    assert [*readme.notebook_figures()] == ["right.png"]


def test_links_that_were_set_halfway_are_finished(root):
    badge = "https://colab.research.google.com/github/{0}/blob/main https://github.com/{0}.git https://github.com/{0}-x"
    (root / "README.md").write_text(badge.format("me/new"), encoding="utf-8")
    notebook(root / "notebooks" / "01.ipynb", badge.format("OWNER/cifar10-notebooks"))
    readme.set_links("me/new")
    text = (root / "notebooks" / "01.ipynb").read_text(encoding="utf-8")
    assert badge.format("me/new").removesuffix("me/new-x") in text and "OWNER/cifar10-notebooks-x" in text


def test_links_are_set_when_nobody_else_writes_the_pages(root):
    (root / "README.md").write_text("https://colab.research.google.com/github/OWNER/some/blob/main", encoding="utf-8")
    setting = threading.Thread(target=readme.set_links, args=("me/new",))
    with publish.alone():  # as a report, which has read the pages and is about to write them
        setting.start()
        setting.join(0.3)
        assert "OWNER/some" in (root / "README.md").read_text(encoding="utf-8")
    setting.join()
    assert "me/new" in (root / "README.md").read_text(encoding="utf-8")


def test_a_full_disk_leaves_a_notebook_whole_when_its_links_are_set(root, monkeypatch):
    path = root / "notebooks" / "01.ipynb"
    (root / "README.md").write_text("", encoding="utf-8")
    notebook(path, "https://colab.research.google.com/github/OWNER/cifar10-notebooks/blob/main")
    before = tree(root)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        readme.set_links("me/new")
    assert {file: content for file, content in tree(root).items() if file.name != ".publishing"} == before  # the lock


def test_a_figure_does_not_replace_the_picture_it_links_to(tmp_path, capsys):
    picture, link = tmp_path / "cat.png", tmp_path / "link.png"
    Image.new("RGB", (32, 32)).save(picture)
    link.symlink_to(picture)
    before = picture.read_bytes()
    assert "is one of the pictures" in refused(capsys, "predict", str(picture), "--figure", str(link))
    assert picture.read_bytes() == before


def test_a_home_folder_that_the_shell_left_as_it_is(tmp_path, monkeypatch, capsys):
    """As zsh does in `make predict IMAGE=~/cat.png`; of a user who is not there it is the name of a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    picture = tmp_path / "cat.png"
    Image.new("RGB", (32, 32)).save(picture)
    assert "is one of the pictures" in refused(capsys, "predict", "~/cat.png", "--figure", str(picture))
    assert main(["predict", "~/cat.png"]) == 0
    refused(capsys, "predict", "~nobody-of-this-name/cat.png")


def test_whatever_pillow_raises_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: {}["ImageWidth"])
    with pytest.raises(DataError, match="cannot be read as an image"):
        open_picture(tmp_path / "no_width.tif")


def test_a_truth_value_is_read_as_a_word(monkeypatch):
    monkeypatch.setattr(models, "mine", lambda wide=True, how=None: None, raising=False)
    assert search.parse("mine", ["wide=False"])[1] == {"wide": False}
    for change, sentence in (
        ("wide=0", "must be of the kind of True"),
        ("how=1", "how of mine is None"),
    ):
        with pytest.raises(RunError, match=sentence):
            search.parse("mine", [change])


# ---------------------------------------------------------------- left open by the second attack


def test_a_row_that_no_run_made_is_not_published(root, capsys):
    table = search_table(root, "runs") / "fast.csv"
    text = table.read_text(encoding="utf-8")
    better = pd.read_csv(table)
    better.loc[2, "validation_accuracy"] = 92.14
    better.to_csv(table, index=False)
    assert "Row 3 of runs/search/fast.csv is of no finished run" in refused(capsys, "publish", "search")
    assert not (root / "results").exists()
    for column in ("seed", "data_source", "validation_accuracy"):
        pd.read_csv(io.StringIO(text)).drop(columns=column).to_csv(table, index=False)
        assert f"fast.csv lacks the column {column}" in refused(capsys, "publish", "search")
    for cut, sentence in (
        (text.rstrip().rsplit(",", 3)[0], "row 3 is damaged"),  # behind its images
        (text.replace("83.96", "x.96"), "row 1 is damaged"),
        (text[: text.index("\n") + 1], "it holds no row"),
    ):
        table.write_text(cut + "\n", encoding="utf-8")
        assert f"fast.csv is not whole: {sentence}" in refused(capsys, "publish", "search")
    for column, value in (("invented", 1), ("c1", 99)):  # no run says so; the run of the row has c1 as it is
        pd.read_csv(io.StringIO(text)).assign(**{column: value}).to_csv(table, index=False)
        assert "Row 1 of runs/search/fast.csv is of no finished run" in refused(capsys, "publish", "search")
    table.rename(table.with_name("fast (1).csv")).write_text(text, encoding="utf-8")
    assert "fast (1).csv is no table of utils/study/search.py; move it" in refused(capsys, "publish", "search")
    table = table.with_name("fast (1).csv").rename(table)
    table.rename(table.with_name("small.csv")).write_text(text, encoding="utf-8")  # these are runs of fast
    assert "Row 1 of runs/search/small.csv is of no finished run" in refused(capsys, "publish", "search")
    table.with_name("small.csv").unlink()
    table.write_text(text, encoding="utf-8")
    publish_tables("search")
    shutil.rmtree(root / "runs" / "search" / "fast-0")  # what is published needs its run no more
    table.write_text(text.replace("83.96", "83.960"), encoding="utf-8")
    publish_tables("search")


def test_a_file_that_joined_a_sealed_folder_and_an_empty_seal_are_noticed(root, images, capsys):
    target = root / "results" / FINAL
    runs.save(honest_run(images), target)
    verify(target)
    (target / "calibration.json").write_text('{"temperature": 3.0}', encoding="utf-8")  # of another run
    assert "calibration.json does not belong there" in refused(capsys, "predict", "x.png")
    (target / "calibration.json").unlink()
    for sums in ("{}", "[[1, 2]]"):
        (target / SUMS).write_text(sums, encoding="utf-8")
        assert "was changed by hand" in refused(capsys, "report")
    (target / SUMS).unlink()
    checkpoints.seal(target)
    (target / "._metrics.json").write_bytes(b"of a Mac")
    verify(target)


def test_a_file_that_joined_a_run_of_ones_own_does_no_harm(root):
    runs.save(finished_run(), root / "runs" / "mine")
    (root / "runs" / "mine" / "predictions.csv").write_text("mine", encoding="utf-8")
    assert runs.load("runs/mine").metrics["name"] == FINAL


def test_export_of_what_is_not_published_leaves_nothing(root, images, capsys):
    runs.save(honest_run(images), root / "runs" / "mine")
    assert "runs/mine is not published" in refused(capsys, "export", "runs/mine", "--output", str(root / "x.onnx"))
    assert not (root / "x.onnx").exists()


def test_a_full_disk_leaves_the_file_that_was_there(root, images, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="requirements-tools.txt is not installed")
    path = root / "runs" / "mine.onnx"
    path.parent.mkdir(parents=True)
    path.write_text("before", encoding="utf-8")
    runs.save(honest_run(images), root / "results" / FINAL)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    assert "No space left" in refused(capsys, "export", FINAL, "--output", str(path))
    assert [p.read_text(encoding="utf-8") for p in path.parent.iterdir()] == ["before"]


def test_rows_are_kept_as_they_are_measured_and_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", tmp_path)

    def stopped():
        yield dict(round=1, seconds=1.5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark.kept("speed", stopped())
    with pytest.raises(RunError, match=r"speed.csv was not measured to its end"):
        publish_tables("benchmark")
    before = tree(tmp_path)
    with pytest.raises(RunError, match=r"speed.csv is there from before; move it away, or delete it"):
        benchmark.kept("speed", [dict(round=1, seconds=0.5)])
    assert tree(tmp_path) == before
    assert pd.read_csv(tmp_path / "runs" / "benchmark" / "speed.csv").seconds.tolist() == [1.5]


def test_the_commit_is_the_projects_own(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        subprocess.run(["git", *who, "-C", str(tmp_path), *arguments], check=True, capture_output=True, env=own)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of another project")
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    own = checkpoints._code()
    assert len(own["commit"]) == 12 and own["tree_clean"] is True
    inside = tmp_path / "unpacked"
    inside.mkdir()
    monkeypatch.setattr(utils, "ROOT", inside)  # an archive of the course, unpacked there
    assert checkpoints._code()["commit"] == "not known"
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))  # as in a git hook
    assert checkpoints._code() == own


def test_too_few_images_to_hold_some_out_is_a_sentence():
    with pytest.raises(DataError, match="Too few images to hold some of each class out"):
        hold_out(random_images(training=40))


def test_a_worker_that_the_system_kills_is_a_sentence():
    for said in ("(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"):
        with pytest.raises(RunError, match=r"was killed \(DataLoader worker \(pid.*for want of memory"):
            with steps.workers_alive():
                raise RuntimeError(f"DataLoader worker {said}")
    for error in ("of a network", "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"):
        with pytest.raises(RuntimeError, match=error.split(".")[0]), steps.workers_alive():
            raise RuntimeError(error)


class Unsendable(Batches):
    """Its worker has a batch, but cannot hand it over, as where the shared memory of a container is full."""

    def __getitem__(self, batch):
        return lambda: batch


@posix  # elsewhere a worker cannot even be started with it
def test_a_batch_that_cannot_be_handed_over_is_a_sentence():
    data = random_images()
    batches = loader(Unsendable(data.train_images, data.train_labels), 10, 0, MEAN, STD, workers=1)
    assert batches.prefetch_factor == 8
    many = loader(batches.dataset, 512, 0, MEAN, STD, workers=1)
    assert many.prefetch_factor == 2, "large batches fill the shared memory"
    batches.collate_fn = lambda batch: batch
    batches.timeout = 30  # seconds, rather than for ever
    with pytest.raises(RunError, match="A process that augments images was killed"), steps.workers_alive():
        next(iter(batches))


def test_images_without_a_colour_are_a_sentence(root):
    data = random_images()
    data.train_images[..., 2] = 7
    with pytest.raises(DataError, match="A colour is the same in all pixels of all training images"):
        runs.train(tiny_network, ONE, data, name="mine", progress=False)
    assert not (root / "runs" / "mine").exists()


def test_a_package_that_is_missing_is_named(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setitem(COMMANDS, "runs", lambda _: missing("pandas"))
    assert main(["runs"]) == 2 and "the package pandas is missing; call make" in capsys.readouterr().err
    monkeypatch.setitem(COMMANDS, "runs", lambda _: missing("utils.nothing"))
    with pytest.raises(ModuleNotFoundError):  # a fault of the course's own
        main(["runs"])


def test_a_run_whose_builder_is_damaged_is_a_sentence(root):
    run, of_no_run = finished_run(), pytest.raises(RunError, match="which is not in utils/models.py")
    for made, answer in (dict(function="tiny", arguments="not known"), of_no_run), ({}, contextlib.nullcontext()):
        runs.save(replace(run, metrics=run.metrics | dict(built_by=made)), root / "runs" / "mine")
        with answer:
            runs.load("runs/mine")


@pytest.mark.parametrize("file", ["metrics.json", "history.csv", SUMS])
def test_what_may_not_be_read_is_not_called_damaged(root, monkeypatch, capsys, file):
    """Of another user, say; what `runs` lists beside it is listed all the same."""
    for name in ("mine", "yours"):
        runs.save(finished_run(), root / "runs" / name)
    opened = io.open

    def refuse(path, *arguments, **options):
        if str(path) == str(root / "runs" / "mine" / file):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", refuse)
    read = records.read_history if file == "history.csv" else records.read_metrics
    with pytest.raises(PermissionError):
        read("runs/mine")
    assert main(["runs"]) == 0 and "runs/yours" in capsys.readouterr().out


@posix
@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_a_picture_may_have_a_blank_in_its_name(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    for file in ("requirements.txt", "constraints.txt", ".venv/installed"):
        (tmp_path / file).touch()
    shown = subprocess.run(["make", "-s", "predict", "IMAGE=my photo.jpg"], cwd=tmp_path, capture_output=True)
    assert "<-m><utils><predict><my photo.jpg>" in shown.stdout.decode(), shown.stderr


def test_growth_is_measured_before_anything_is_published(root, monkeypatch):
    measured = []
    one = dict(seconds=1.0, data_source="stand-in")
    monkeypatch.setattr(benchmark, "in_own_process", lambda *arguments: measured.append(arguments[2]) or one)
    benchmark.grow()
    assert FINAL in measured


def test_what_is_measured_now_may_be_published(root, monkeypatch):
    """Beside what is published; the times are invented, the rows are those of the code as it stands."""
    with monkeypatch.context() as context:
        context.setattr(utils, "ROOT", ROOT)
        published = statistics.published()
    monkeypatch.setattr(statistics, "published", lambda: published)  # the networks that growth is measured of
    shutil.copytree(ROOT / "results" / "benchmark", root / "results" / "benchmark")
    parts = dict.fromkeys(benchmark.PARTS, 20.0) | dict(product_share=50.0)
    whole = dict(seconds=2.5, peak_mib=np.nan, precision="float32", data_source="original")  # as on Windows

    def measured(function, *arguments):
        if function is benchmark.accuracy:
            variant, seed, epochs = arguments
            return dict(variant=variant, seed=seed, epochs=epochs, validation_accuracy=70.0, data_source="original")
        if function is benchmark.to_its_end:
            return dict(epochs=experiment(arguments[0]).recipe.epochs, images=arguments[1]) | whole
        return dict(images=arguments[3]) | whole | parts

    monkeypatch.setattr(benchmark, "in_own_process", measured)
    for measure in (benchmark.grow, benchmark.compare, benchmark.compare_accuracy, benchmark.compare_minutes):
        measure()
    assert {path.name for path in publish_tables("benchmark").glob("*.csv")} == {f"{n}.csv" for n in benchmark.KEYS}


# ---------------------------------------------------------------- found in a third attack


def frozen(*names):
    model = models.experiment_5()
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


@pytest.mark.parametrize("names", [["layers.c5.norm.weight"], ["linear.bias"], ["layers.c5.norm.bias", "linear.bias"]])
def test_a_frozen_parameter_makes_another_network(names):
    whole, part = (records.modules(frozen(*which)) for which in ([], names))
    assert records.difference(dict(network=part), dict(network=whole))
    assert "frozen" in "".join(part.values()) and "frozen" not in "".join(whole.values())


def test_a_checkpoint_that_came_into_a_finished_run_decides_nothing(root):
    def train(lr, epochs=1):
        recipe = replace(ONE, lr=lr, epochs=epochs)
        return runs.train(tiny_network, recipe, random_images(), name="mine", progress=False)

    first = train(0.3)
    other = train(0.01)
    assert other.folder.name == "mine-2"
    shutil.copy(other.folder / "checkpoint.pt", first.folder)
    assert train(0.3).folder == first.folder
    assert train(0.01).metrics["recipe"]["lr"] == 0.01


def test_numbers_of_numpy_in_a_recipe_can_be_gone_on_with(root):
    recipe = replace(ONE, lr=np.float64(0.05), epochs=np.int64(2))
    assert type(recipe.lr) is float and type(recipe.epochs) is int
    stop_after(1, recipe=recipe)
    run = runs.train(tiny_network, replace(ONE, lr=0.05, epochs=2), random_images(), name="mine", progress=False)
    assert run.folder.name == "mine" and len(run.history) == 2


def test_a_modules_own_forward_stays(root):
    def network():
        model = tiny_network()
        forward = type(model).forward
        model.forward = lambda x: -forward(model, x)
        return model

    model = network()
    with speed.prepared(model, torch.device("cpu")):
        pass
    assert "forward" in vars(model)
    dilated = nn.Conv2d(3, 8, 3, dilation=2)
    with speed.prepared(dilated, torch.device("cpu")):
        assert dilated(input=torch.zeros(1, 3, 8, 8)).shape == (1, 8, 4, 4) and "forward" in vars(dilated)
    assert "forward" not in vars(dilated)


def test_a_name_that_means_two_things_is_refused_in_a_search(monkeypatch):
    monkeypatch.setattr(models, "mine", lambda width=8, momentum=0.1: None, raising=False)
    with pytest.raises(RunError, match="momentum is a field of the recipe and an argument of mine"):
        search.parse("mine", ["width=4"])


@posix
def test_a_file_whose_time_was_kept_when_it_changed_is_another_one(tmp_path):
    """As where two pictures change places: the cache must not answer with the old ones."""
    path = tmp_path / "0.bmp"
    path.write_bytes(b"cat")
    before, then = files._key(path), path.stat().st_mtime_ns
    time.sleep(0.05)  # a tick of the file system's clock
    path.write_bytes(b"dog")
    os.utime(path, ns=(then, then))
    assert files._key(path) != before
