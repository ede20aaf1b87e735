"""The attacks: each does one try with the random numbers it is given, and fails where a guard did not hold.

A try that ends with a wrong result shown, something lost, a half-written file or a traceback is lost.
"""

import atexit
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from functools import cache, partial
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import utils
from tests import conftest
from tests.conftest import ROOT
from tests.test_laboratory import random_images, tiny_network
from utils import __main__, runs
from utils.cifar10 import sources
from utils.cifar10.files import CLASSES, OFFICIAL
from utils.data import load_cifar10, train_loader
from utils.engine import checkpoints
from utils.engine.checkpoints import SUMS, verify
from utils.errors import DataError, ProjectError
from utils.experiments import FINAL
from utils.report.publish import put
from utils.serve.predict import open_picture
from utils.study import search, statistics
from utils.training import Recipe

THREE = Recipe(epochs=3, batch_size=32, affine=0.0, precision="float32")
EVENTS = ("open", "os.", "shutil.", "ctypes.")  # audit events of Python that touch files


def train(root: Path) -> runs.Run:
    return runs.train(tiny_network, THREE, random_images(), name="mine", progress=False)


@cache
def expected() -> tuple[dict, list]:
    """Weights and history of the run that nobody disturbed, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(utils, "ROOT", Path(folder))
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            run = train(utils.ROOT)
    return run.model.state_dict(), run.history.drop(columns="seconds").values.tolist()


def in_child(function, event=None, limit=None, after=None, sends=signal.SIGTERM) -> tuple[int, str]:
    """Run `function` in a process of its own; returns its exit code, negative for a signal, and what it printed.

    It dies at file event number `event`; no file may grow above `limit` bytes; `after` seconds it is sent a signal.
    """
    expected()  # what torch imports late, it imports here and not in every child
    ready, inside = os.pipe()
    said = open(os.memfd_create("said"), "w+b")
    child = os.fork()
    if child == 0:
        code, seen = 1, 0

        def hook(name, _):
            nonlocal seen
            seen += name.startswith(EVENTS)
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

        os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
        sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if event is not None:
            sys.addaudithook(hook)

        def command(_):
            os.write(inside, b"x")
            function()

        __main__.COMMANDS["train"] = command
        try:
            code = __main__.main(["train", FINAL])
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    if after is not None:
        os.read(ready, 1)
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, sends)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said.seek(0)
    text = said.read().decode(errors="replace")
    said.close(), os.close(ready), os.close(inside)
    assert "Traceback" not in text, text
    return code, text


def sentence(function) -> None:
    """`function` ends well, or in one sentence."""
    try:
        function()
    except ProjectError as error:
        assert str(error).isprintable() and len(str(error)) < 1100


def command(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = __main__.main(list(arguments))
        except SystemExit as end:
            code = end.code
    assert code in (0, 2), (arguments, code)
    assert code == 0 or err.getvalue().count("Error: ") + err.getvalue().count("error: ") >= 1
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue() + err.getvalue()


def check_finished(root: Path) -> None:
    """Started again, the training in this folder ends as if nothing had happened."""
    code, text = in_child(partial(train, root))
    assert code == 0, text
    folder = root / "runs" / "mine"
    verify(folder)
    weights, history = expected()
    found = checkpoints.read_checkpoint(folder / "weights.pt")
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert np.allclose(runs.read_history(folder).drop(columns="seconds").values.tolist(), history, rtol=1e-5)
    assert [path.name for path in (root / "runs").iterdir()] == ["mine"]


# ---------------------------------------------------------------- processes that die


def kill_training(rng: random.Random, root: Path) -> None:
    in_child(partial(train, root), event=rng.randrange(1, 60))
    if rng.random() < 0.3:
        in_child(partial(train, root), event=rng.randrange(1, 60))
    check_finished(root)


def stop_training(rng: random.Random, root: Path) -> None:
    sends = rng.choice([signal.SIGTERM, signal.SIGINT])
    code, text = in_child(partial(train, root), after=rng.random(), sends=sends)
    assert code in (0, 130), text
    assert code == 0 or text.splitlines()[-1].startswith("Stopped. The same command goes on"), text
    check_finished(root)


def kill_publish(rng: random.Random, root: Path) -> None:
    target = root / "results" / FINAL
    files = dict.fromkeys((*checkpoints.KEPT, "calibration.json"), b"old")
    put({"metrics.json": b"seed 2"}, target / "seed_2")
    put(files, target)
    before = contents(target)
    shutil.copytree(target, root / "other" / FINAL)
    new = dict.fromkeys(checkpoints.KEPT, b"new")
    in_child(lambda: put(new, target), event=rng.randrange(1, 110))
    found = contents(target)
    assert found == before or {p.name: found[p] for p in found if p.name in new and len(p.parts) == 1} == new
    verify(target), verify(target / "seed_2")
    put(new, target)
    assert [path.name for path in target.parent.iterdir()] == [FINAL], "leftovers"


def contents(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".publishing")  # a lock
    return {path.relative_to(folder): path.read_bytes() for path in files}


def full_disk(rng: random.Random, root: Path) -> None:
    code, text = in_child(partial(train, root), limit=rng.randrange(0, 40_000))
    assert code in (0, 2) and (code == 0 or "Error: " in text), text
    assert not list(root.rglob("*.tmp"))
    check_finished(root)


def file_in_place(rng: random.Random, root: Path) -> None:
    """A file where a folder is wanted, or a folder where a file is."""
    wanted = rng.choice(["runs", "runs/mine", "runs/mine/weights.pt", "runs/mine/metrics.json", "runs/mine/.lock"])
    path = root / wanted
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if "." in path.name else path.write_text("a file", encoding="utf-8")
    code, text = in_child(partial(train, root))
    assert code in (0, 2), text
    path.rmdir() if path.is_dir() and not any(path.iterdir()) else path.unlink() if path.is_file() else None
    check_finished(root)


def two_at_once(function, delay: float) -> list[tuple[int, str]]:
    """Call `function` in two processes, the second after `delay` seconds: their exit codes and what they printed."""
    said = []

    def second() -> None:
        time.sleep(delay)
        said.append(in_child(function))

    thread = threading.Thread(target=second)
    thread.start()
    said.append(in_child(function))
    thread.join()
    return said


def two_trainings(rng: random.Random, root: Path) -> None:
    said = two_at_once(partial(train, root), rng.random() / 2)
    assert all(code == 0 or "Another process is training in" in text for code, text in said), said
    assert any(code == 0 for code, _ in said)
    check_finished(root)


def two_downloads(rng: random.Random, root: Path) -> None:
    """Both end with the same images, of which one download came."""
    asked, pause = [], rng.random() / 10

    def slowly(connection, content: bytes) -> None:
        asked.append(connection)
        for at in range(0, len(content), 20_000):
            connection.sendall(content[at : at + 20_000])
            time.sleep(pause)

    with good_mirror(root, slowly) as mirrors:
        sources.MIRRORS = mirrors
        said = two_at_once(lambda: print(load_cifar10().digest), rng.random() / 2)
        right = load_cifar10()
    assert all(code == 0 and right.digest in text for code, text in said), said
    assert right.source == "original" and len(asked) == 1
    check_cache({".lock", "official.npz"})


# ---------------------------------------------------------------- damaged files


def damaged(content: bytes, rng: random.Random) -> bytes | None:
    """One of: gone, empty, cut, a bit flipped, bytes replaced, something else."""
    kind, at = rng.randrange(6), rng.randrange(len(content))
    if kind == 3:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    others = [None, b"", content[:at], b"", content[:at] + rng.randbytes(20) + content[at + 20 :], rng.randbytes(300)]
    return others[kind]


def replace(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


def damage_runs(rng: random.Random, root: Path) -> None:
    """A file of a finished run in runs/: loading it is right or refused, and training it goes on or is refused."""
    folder = root / "runs" / "mine"
    in_child(partial(train, root))
    path = folder / rng.choice([*checkpoints.KEPT, SUMS, "checkpoint.pt"])
    replace(path, damaged(path.read_bytes(), rng))
    weights, history = expected()
    try:
        run = runs.load("runs/mine", tiny_network)
    except ProjectError as error:
        assert str(error).isprintable()
    else:
        assert all(torch.equal(run.model.state_dict()[key], value) for key, value in weights.items())
        assert np.allclose(run.history.drop(columns="seconds").values.tolist(), history, rtol=1e-5)
    sentence(search.tries), sentence(lambda: runs.compare("runs/mine")), sentence(partial(train, root))


USED = (*checkpoints.KEPT, "calibration.json", SUMS)  # by predict


def damage_results(rng: random.Random, root: Path) -> None:
    """A file in results/: what is shown is as before, or refused."""
    for name in (FINAL, "benchmark"):
        shutil.copytree(ROOT / "results" / name, root / "results" / name)
    files = [path for path in (root / "results").rglob("*") if path.is_file()]
    path = rng.choice(files)
    content = path.read_bytes()
    while (changed := damaged(content, rng)) == content:
        pass
    replace(path, changed)
    Image.new("RGB", (32, 32), "red").save(root / "red.png")
    code, text = command("predict", str(root / "red.png"))
    assert code == 2 or text == right_answer(root), path
    assert code == 2 or path.parent != root / "results" / FINAL or path.name not in USED, f"{path} went unnoticed"
    shown = contents(root / "results")
    for look in (lambda: statistics.published(), lambda: runs.compare(FINAL), lambda: statistics.published(5)):
        sentence(look)
    assert contents(root / "results") == shown


def right_answer(root: Path) -> str:
    before, utils.ROOT = utils.ROOT, ROOT
    try:
        return command("predict", str(root / "red.png"))[1]
    finally:
        utils.ROOT = before


def flip_weights(rng: random.Random, root: Path) -> None:
    shutil.copytree(ROOT / "results" / FINAL, root / "results" / FINAL)
    path = root / "results" / FINAL / "weights.pt"
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    Image.new("RGB", (32, 32), "red").save(root / "red.png")
    code, text = command("predict", str(root / "red.png"))
    assert code == 2 and "weights.pt is missing or damaged" in text


def damage_cache(rng: random.Random, root: Path) -> None:
    place = class_folders(root, rng)
    right = load_cifar10(place).digest
    path = next(sources.cache_folder().glob("images-*.npz"))
    replace(path, damaged(path.read_bytes(), rng))
    assert load_cifar10(place).digest == right


def class_folders(root: Path, rng: random.Random) -> Path:
    for part in ("train", "test"):
        for name in CLASSES:
            (root / "mirror" / part / name).mkdir(parents=True)
            picture = np.frombuffer(rng.randbytes(3072), np.uint8).reshape(32, 32, 3)
            Image.fromarray(picture).save(root / "mirror" / part / name / "a.png")
    return root / "mirror"


# ---------------------------------------------------------------- what comes from outside


@contextlib.contextmanager
def serving(answer):
    """The address of a server on this machine that calls `answer` with each connection, once it was asked something."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError):  # the client has had enough
                self.request.recv(2**16)
                answer(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.tar.gz"
        server.shutdown()


@contextlib.contextmanager
def good_mirror(root: Path, send=lambda connection, content: connection.sendall(content)):
    """The address, alone in a list, of a mirror that gives a small CIFAR-10, which passes for the official one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder, packed = conftest.write_official(root / "source" / OFFICIAL, monkeypatch), io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.add(folder, OFFICIAL)
        monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", md5(packed.getvalue()).hexdigest())
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(packed.getvalue())}\r\n\r\n"
        with serving(lambda connection: send(connection, head.encode() + packed.getvalue())) as address:
            yield [address]


def check_cache(names: set[str]) -> None:
    assert {path.name for path in sources.cache_folder().iterdir()} == names


def answers(rng: random.Random) -> bytes:
    """Anything that a host may send, more or less HTTP."""
    status = rng.choice(
        [*[b"HTTP/1.1 200 OK"] * 3, b"HTTP/1.1 302 Found", b"HTTP/1.1 500 X", b"HTTP/9 200", b"", b"\0"]
    )
    headers = rng.sample(
        [
            b"Content-Length: banana",
            b"Content-Length: -1",
            b"Content-Length: 10",
            b"Content-Length: 99999999999999999999",
            b"Transfer-Encoding: chunked",
            b"Location: http://[bad",
            b"Location: file:///etc/passwd",
            b"Location: /",
            b"Content-Encoding: gzip",
            b"X: " + b"y" * 70_000,
            b"\r\n".join(b"X-%d: y" % n for n in range(300)),
        ],
        rng.randrange(4),
    )
    body = rng.choice([b"", b"abc", b"ff\r\nabc", b"zz\r\n", rng.randbytes(1000), b"\x1f\x8b" + rng.randbytes(100)])
    return b"\r\n".join([status, *headers, b"", b""]) + body


def lying_network(rng: random.Random, root: Path) -> None:
    """A first mirror that lies, and a second one that does not: its images, soon, and nothing else is left."""
    answer, way = answers(rng), rng.choice(["at once", "at once", "drips", "never ends"])
    at = rng.randrange(min(len(answer), 200)) if way == "drips" else len(answer)

    def lie(connection) -> None:
        connection.sendall(answer[:at])
        for n in range(at, at + 100 if way == "drips" else at):
            connection.sendall(answer[n : n + 1] or b"0")
            time.sleep(2)
        while way == "never ends":
            connection.sendall(bytes(2**16))

    start = time.monotonic()
    with serving(lie) as address, good_mirror(root) as second, contextlib.redirect_stderr(io.StringIO()):
        sources.MIRRORS = [address, *second]
        assert load_cifar10().source == "original"
    assert time.monotonic() - start < 30
    check_cache({".lock", "official.npz"})


def hostile_archive(rng: random.Random, root: Path) -> None:
    path = root / "archive"
    with tarfile.open(path, rng.choice(["w", "w:gz", "w:xz", "w:bz2"])) as tar:
        for _ in range(rng.randrange(4)):
            names = ["../evil", "/evil", "cifar-10-batches-py/data_batch_1", "a/" * 50 + "b", "x" * 300, "train"]
            member = tarfile.TarInfo(rng.choice(names))
            member.type = rng.choice(
                [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
            )
            member.linkname = rng.choice(["..", "/etc/passwd", member.name, "b", ""])
            member.size = rng.randrange(2000) if member.type == tarfile.REGTYPE else 0
            member.mode = rng.choice([0o777, 0, 0o4755])
            tar.addfile(member, io.BytesIO(rng.randbytes(member.size)))
    if rng.random() < 0.5:
        replace(path, damaged(path.read_bytes(), rng) or b"x")
    outside = {p for p in root.rglob("*") if "cache" not in p.parts}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            load_cifar10(path)
        except DataError as error:
            assert str(error).isprintable() and len(str(error)) < 1100
        else:
            raise AssertionError("it was accepted")
    assert {p for p in root.rglob("*") if "cache" not in p.parts} == outside
    check_cache({".lock"})


def hostile_picture(rng: random.Random, root: Path) -> None:
    content = io.BytesIO()
    kind = rng.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "EPS", "ICO", "TGA", "PDF"])
    Image.frombytes("RGB", (40, 30), rng.randbytes(3600)).save(content, kind)
    path = root / "picture.png"
    path.write_bytes(damaged(content.getvalue(), rng) or b"")
    try:
        picture = open_picture(path)
    except DataError as error:
        assert str(error).isprintable()
    else:
        assert picture.mode == "RGB" and picture.size[0] * picture.size[1] <= 40_000_000


WORDS = ["", ".", "..", "/", "~", "-", "a/../b", "\x1b[31m", "é", "x" * 300, "9" * 30, "nan", "-1", "1e9", "None"]


def wrong_arguments(rng: random.Random, root: Path) -> None:
    """Nonsense where a name, a number or a file is wanted, in a project that holds only results/."""
    word = rng.choice([*WORDS, "".join(map(chr, rng.choices(range(1, 0x2FF), k=rng.randrange(1, 20))))])
    lines = [
        ["calibrate", word],
        ["export", word],
        ["publish", word],
        ["publish", "tiny", "--seed", word],
        ["publish", "tiny", "--epochs", word],
        ["search", "tiny", word],
        ["search", "tiny", f"lr={word}"],
        ["search", "tiny", f"n={word}"],
        ["search", word, "lr=1"],
        ["train", word],
        ["train", "tiny", "--precision", word],
        ["train", "tiny", "--epochs", word + "x"],
        ["predict", word],
        ["predict", str(root / "red.png"), "--network", word + "/"],
        ["predict", str(root / "red.png"), "--figure", str(root / "red.png" / word) + "/x"],
        ["links", word],
        ["bench", "--rounds", word + "x"],
        ["app", "--port", word + "x"],
        [word + "x"],
    ]
    before = contents(root)
    code, text = command(*(argument.replace("\0", "") for argument in rng.choice(lines)))
    assert code == 2 and len(text) < 6000 and contents(root) == before
    assert all(line.isprintable() for line in text.splitlines() if line.startswith("Error: "))


def fast_run(rng: random.Random, root: Path) -> None:
    value = rng.choice([*WORDS, "0", "1", "off", "ON", "banana"])
    process = conftest.fast_run(value)
    on, off = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
    said = value.strip().lower()
    assert process.stdout == ("True\n" if said in on else "False\n" if said in off else "")
    assert "Traceback" not in process.stderr


@cache
def page() -> int:
    """The port of the page, which the command that users call serves as long as this process lives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp()
    environment = {key: value for key, value in os.environ.items() if key != "CIFAR10_PATH"} | dict(TMPDIR=folder)
    command = [sys.executable, "-m", "utils", "app", "--port", str(port)]
    with open(f"{folder}/said", "w", encoding="utf-8") as said:  # the server keeps it open
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    atexit.register(lambda: (server.kill(), server.wait(), shutil.rmtree(folder)))
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return port
        assert server.poll() is None, Path(said.name).read_text(encoding="utf-8")[-300:]
        time.sleep(0.1)
    raise TimeoutError


def ask(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    """What the page answers to a request, status line and headers included; the path goes there as it is."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{page()}\r\nContent-Type: {kind}\r\n"
    answer = bytearray()
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", page()), timeout=60) as server:
        with contextlib.suppress(ConnectionError):  # it has read enough
            server.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        while part := server.recv(2**16):
            answer += part
    return bytes(answer)


def call_page(rng: random.Random, root: Path) -> None:
    """Files that are not the page's, uploads that are no pictures, calls that make no sense: it gives nothing away,
    says nothing of its insides, and goes on."""
    (root / "secret").write_text("S3CRET", encoding="utf-8")
    files = [str(root / "secret"), "/etc/passwd", "/proc/self/environ", str(ROOT / "utils" / "models.py"), "~/.bashrc"]
    file = rng.choice(files)
    file = rng.choice([file, "../" * 12 + file[1:], "..%2f" * 12 + file[1:], "file://" + file, "%2e%2e" + file])
    picture = {"path": file} | rng.choice([{}, {"meta": {"_type": "gradio.FileData"}}])
    picture |= rng.choice([{}, {"url": "http://127.0.0.1:9/"}])
    data = rng.choice([[picture, FINAL], [picture], [None, None], [file, file], [picture, file], [[], {}], FINAL, None])
    name = rng.choice([file, "a\0b", "x" * 300, "a.png", ""]).replace('"', "")
    upload = rng.choice([b"", b"GIF89a", rng.randbytes(2000), b"%!PS-Adobe", bytes(21_000_000)])
    form = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + upload
    answer = rng.choice(
        [
            lambda: ask("GET", rng.choice(["/gradio_api/file=", "/file=", "/static/", "/assets/", "/"]) + file),
            lambda: ask("GET", f"/gradio_api/{rng.choice(['proxy=', 'stream/', 'component_server/'])}{file}"),
            lambda: called(json.dumps({"data": data}).encode()),
            lambda: called(rng.choice([b"", b"{", b"[]", b"null", rng.randbytes(50), b"[" * 100_000])),
            lambda: ask("POST", "/gradio_api/upload", form + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"),
            lambda: ask(rng.choice(["PUT", "DELETE", "BANANA", ""]), "/" + "x" * rng.choice([1, 70_000])),
        ]
    )()
    assert not [word for word in (b"S3CRET", b"root:", b"nn.Module", b"PATH=", b"Traceback") if word in answer], answer
    assert len(upload) < 20_000_000 or b"/a.png" not in answer, "it kept an upload that is too large"
    assert ask("GET", "/gradio_api/info").startswith(b"HTTP/1.1 200"), "it answers no more"


def called(body: bytes) -> bytes:
    """What the page answers to this call of its function, and then as its result."""
    answer = ask("POST", "/gradio_api/call/predict", body)
    event = answer.partition(b'{"event_id":"')[2].partition(b'"')[0].decode()
    return answer + (ask("GET", f"/gradio_api/call/predict/{event}") if event else b"")


def notebook_elsewhere(rng: random.Random, root: Path) -> None:
    """A notebook in a copy of the project, perhaps with an awkward name or read-only, perhaps twice: it runs, and
    nothing there is changed."""
    place = root / rng.choice(["a b", "é", "x" * 100, "[1]"])
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
    if rng.random() < 0.5:
        subprocess.run(["chmod", "-R", "a-w", place], check=True)
    before, notebook = contents(place), rng.choice(sorted((place / "notebooks").glob("*.ipynb")))
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", notebook.name]
    environment = os.environ | dict(FAST_RUN="1", PYTHONDONTWRITEBYTECODE="1", TQDM_DISABLE="1")
    for _ in range(rng.choice([1, 2])):
        process = subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, encoding="utf-8")
        assert process.returncode == 0 and "Traceback" not in process.stdout, process.stderr[-300:]
    assert contents(place) == before
    subprocess.run(["chmod", "-R", "u+w", place], check=True)


ATTACKS = {  # what is done, how often in full, how often in the short form
    "kill -9 at a file event of train": (kill_training, 120, 3),
    "kill -9 inside publish": (kill_publish, 60, 5),
    "Ctrl-C, SIGTERM": (stop_training, 65, 2),
    "damaged file in runs/": (damage_runs, 60, 4),
    "damaged file in results/": (damage_results, 110, 8),
    "one bit flipped in weights.pt": (flip_weights, 60, 5),
    "damaged cache": (damage_cache, 60, 4),
    "full disk": (full_disk, 20, 2),
    "file in place of a folder": (file_in_place, 15, 2),
    "two trainings in one folder": (two_trainings, 10, 1),
    "two downloads at once": (two_downloads, 20, 2),
    "lying network": (lying_network, 100, 5),
    "hostile archive": (hostile_archive, 300, 30),
    "hostile picture": (hostile_picture, 500, 60),
    "wrong arguments": (wrong_arguments, 400, 40),
    "FAST_RUN": (fast_run, 40, 3),
    "calls of the page": (call_page, 630, 10),
    "notebooks elsewhere, twice, read-only": (notebook_elsewhere, 14, 0),  # nbval runs each in `make test`
}


def attack(faults: list[str], short: bool = False, seed: int = 0) -> list[dict]:
    """These attacks as often as the table says: fault, tries, held, lost, and what the first loss was."""
    rows = []
    for fault in faults:
        one_try, full, few = ATTACKS[fault]
        row = dict(fault=fault, tries=few if short else full, held=0, lost=0, first_loss="")
        for number in range(row["tries"]):
            with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
                root = Path(folder)
                monkeypatch.setattr(utils, "ROOT", root)
                monkeypatch.setattr(utils, "FAST_RUN", False)
                without_workers = (*train_loader.__defaults__[:-1], 0)
                monkeypatch.setattr(
                    train_loader, "__defaults__", without_workers
                )  # a function of ours trains each anew
                monkeypatch.setattr(checkpoints, "PATIENCE", 0.2)
                monkeypatch.setattr(sources, "STALL", 0.5)
                monkeypatch.setattr(sources, "MIRRORS", [])
                monkeypatch.setattr(sources, "SIZE", 1_000_000)
                monkeypatch.setattr(sources, "SLOWEST", 1_000)
                monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
                monkeypatch.delenv("CIFAR10_PATH", raising=False)
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        one_try(random.Random(f"{seed} {fault} {number}"), root)
                    row["held"] += 1
                except Exception as error:
                    row["lost"] += 1
                    loss = f"seed {seed}, try {number}: {type(error).__name__} {error}"[:300]
                    row["first_loss"] = row["first_loss"] or loss
        rows.append(row)
        counts = f"{row['tries']:>5} tries {row['held']:>5} held {row['lost']:>5} lost"
        print(f"{fault:34} {counts}  {row['first_loss']}", flush=True)
    return rows
