"""The page in a real browser: headless Chromium uploads a picture and reads the answer."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT, posix
from utils import plotting

selenium = pytest.importorskip("selenium", reason="requirements-tools.txt is not installed")


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def chromium():
    """Chromium, driven."""
    if not shutil.which("chromedriver"):
        pytest.skip("chromedriver is not installed; on Debian: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for option in """headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking
            disable-component-update disable-sync hide-scrollbars force-device-scale-factor=2
            window-size=1100,800""".split():
        options.add_argument(f"--{option}")
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Where the page keeps what it is sent."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def address(uploads):
    """The page, served by the command that users call, behind a proxy; at its end nothing stays that was sent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "CIFAR10_PATH"}
    environment |= dict(TMPDIR=str(uploads)) | dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    environment |= dict(all_proxy="socks://127.0.0.1:9")
    command = [sys.executable, "-m", "utils", "app", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=-1, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as server:
        for _ in range(120):
            try:
                OPENER.open(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                assert server.poll() is None, server.stdout.read()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
        server.terminate()
    assert not list(uploads.iterdir())


def said(driver, expected, seconds=30):
    """What the page says once it holds one of the expected words."""
    from selenium.webdriver.support.ui import WebDriverWait

    def text(d):
        found = d.find_element("css selector", "#said").text
        return found if any(word in found for word in expected) else False

    return WebDriverWait(driver, seconds).until(text)


def upload(driver, path):
    for button in driver.find_elements("css selector", "button[aria-label='Clear'], button[aria-label='Remove Image']"):
        button.click()
        time.sleep(0.5)
    driver.find_element("css selector", "input[type=file]").send_keys(str(path))


def test_a_picture_is_uploaded_and_answered(chromium, address, tmp_path):
    """SCREENSHOT=images/app.png keeps what the README shows."""
    from PIL import Image
    from selenium.webdriver.support.ui import WebDriverWait
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "china.png")
    chromium.get(address)
    WebDriverWait(chromium, 30).until(lambda d: d.find_elements("css selector", "input[type=file]"))
    upload(chromium, tmp_path / "china.png")
    assert "%" in said(chromium, ("Most likely", "None is convincing"))
    body = chromium.find_element("tag name", "body").text
    assert "calibrated probabilities" in body and body.count("%") >= 4
    time.sleep(1)  # the pictures fade in
    path = Path(os.environ.get("SCREENSHOT", tmp_path / "app.png"))
    chromium.save_screenshot(str(path))
    assert len(Image.open(path).convert("RGB").resize((100, 100)).getcolors(10_000)) > 500, "an empty page"
    path.write_bytes(plotting.shrunk(path.read_bytes()))


def test_a_broken_picture_gets_a_sentence(chromium, address, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    chromium.get(address)
    time.sleep(1)
    upload(chromium, tmp_path / "broken.png")
    assert str(tmp_path) not in said(chromium, ("cannot be read as an image",))


@posix
def test_what_is_sent_is_for_its_owner_alone(address, uploads):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nmine\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    OPENER.open(urllib.request.Request(f"{address}gradio_api/upload", body, kind), timeout=30).close()
    (folder,) = uploads.iterdir()
    assert b"mine" in [file.read_bytes() for file in folder.rglob("*.png")]
    assert folder.stat().st_mode & 0o077 == 0


def test_a_file_that_was_not_sent_is_not_read(address, tmp_path):
    """Else whoever uses this machine would see the pictures of the page's owner, and learn which files there are."""
    shutil.copy(ROOT / "images" / "cams.png", tmp_path / "secret.png")
    for path in (tmp_path / "secret.png", tmp_path / "nowhere.png"):
        body = json.dumps({"data": [{"path": str(path)}, "experiment_5"]}).encode()
        call = f"{address}gradio_api/call/predict"
        asked = urllib.request.Request(call, body, {"Content-Type": "application/json"})
        with OPENER.open(asked) as reply:
            event = json.load(reply)["event_id"]
        with OPENER.open(f"{call}/{event}") as reply:
            assert "Choose a picture first." in reply.read().decode()


def test_what_another_web_page_sends_is_refused(address, uploads):
    """Such as a form that uploads again and again; or a name of theirs that they made lead here."""
    here, before = address.removeprefix("http://").strip("/"), set(uploads.rglob("*"))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="b.png"\r\n\r\ntheirs\r\n--x--\r\n'
    for theirs in (dict(Origin="http://evil.example"), dict(Origin="null"), dict(Host=here.replace("127", "evil.127"))):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            OPENER.open(urllib.request.Request(f"{address}gradio_api/upload", body, kind | theirs), timeout=30)
    assert set(uploads.rglob("*")) == before
    for own in (dict(Origin=f"http://{here}"), dict(Host="localhost:8080", Origin="http://localhost:8080"), {}):
        OPENER.open(urllib.request.Request(address, headers=own), timeout=30).close()


def test_it_listens_on_this_machine_only(address):
    port = address.rsplit(":", 1)[1].strip("/")
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("this system has no /proc/net/tcp to read the listening ports from")
    rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    assert [host for host, number in listening if int(number, 16) == int(port)] == ["0100007F"]
