"""Folders and zips that mean harm: refused, named, and nothing written outside; tests themselves reach no network."""

import io
import os
import socket
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from conftest import picture
from PIL import Image
from test_data import folder, tree

from mocalib.config import paths
from mocalib.data import image_folder

GOOD = [f"{split}/{i}.png" for split in ("train", "test") for i in range(3)]


@pytest.fixture
def images(scratch) -> Path:
    picture(scratch / "secret.png", size=(16, 16), seed=99)
    return tree(scratch / "below" / "images", *GOOD, size=(16, 16))


def refused(root: Path, message: str) -> None:
    """With this message; nothing may change but the cache's folder, and nothing is decoded."""

    def there() -> set[Path]:
        return {path for path in paths.CACHE.parent.rglob("*") if path != paths.CACHE and path.suffix != ".lock"}

    before = there()
    with pytest.raises(ValueError, match=message):
        folder(root, size=16)
    assert there() == before


def test_a_folder_that_is_itself_a_link_can_be_read(images, scratch):
    (scratch / "elsewhere").symlink_to(images)
    (images / "test" / "twin.png").symlink_to(images / "test" / "0.png")  # inside
    assert len(folder(scratch / "elsewhere", size=16).test.images) == 4


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, image_folder.LARGEST + 1)


def grey(kind: str) -> bytes:
    """An image file of this kind."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, kind)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A file of some hundred bytes that claims to be as large."""
    content = bytearray(grey("PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


HUGE = r"(?s)1 files in .*images cannot be read.*train/x.png \(.*(decompression bomb|megapixels)"
NO_IMAGE = r"(?s)1 files in .*images cannot be read.*train/x.png \(not an image, or of a format that is not read"
PLANTED = {  # what lies in the folder as train/x.png -> how it comes there, or its content, and what is said of it
    "a pipe": (os.mkfifo, r"^train/x.png in .*images is not a regular file; reading may never end: remove it"),
    "a file larger than any image": (sparse, r"^train/x.png in .*images has 0.5 GB"),  # not read
    "a square of huge dimensions": (png_of(100_000, 100_000), HUGE),  # not decoded
    "huge dimensions": (png_of(10_000, 9_000), HUGE),
    "a program": (b"MZ\x90\x00 a program", NO_IMAGE),
    "postscript": (grey("EPS"), NO_IMAGE),  # an image to Pillow, which would have a program run it
    "svg": (b"<svg/>", NO_IMAGE),
    "nothing": (b"", NO_IMAGE),
}


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # a user sees a refusal beside it
def test_what_is_no_image_or_lies_elsewhere_is_refused(images, what):
    """Whatever its name says; what may be without end is not read."""
    planted, message = PLANTED[what]
    path = images / "train" / "x.png"
    if callable(planted):
        planted(path)
    else:
        path.write_bytes(planted)
    refused(images, message)


def zipped(images: Path, name: str, content: bytes, kind: int = stat.S_IFREG) -> Path:
    """The images in a zip, with one more entry."""
    path = images.parent / "hostile.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for good in GOOD:
            archive.write(images / good, good)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (kind | 0o644) << 16
        archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize("name", ["../evil.png", "train/../../evil.png", "../notes.txt"])
def test_names_that_lead_out_of_a_zip_are_left_out_and_nothing_is_written(images, name):
    before = sorted(images.parent.parent.rglob("*"))
    path = zipped(images, name, (images / GOOD[0]).read_bytes())
    assert sorted(image_folder.find(path).names) == sorted(GOOD)
    assert sorted({*images.parent.parent.rglob("*")} - {path}) == before


def test_a_link_in_a_zip_is_no_image_and_is_not_followed(images):
    path = zipped(images, "train/link.png", b"/etc/passwd", stat.S_IFLNK)
    refused(path, r"1 files in .*hostile.zip cannot be read as images; .*\n  train/link.png \(not an image")


def test_a_zip_of_few_bytes_that_unpacks_to_many_is_refused_before_it_is_read(images, monkeypatch):
    monkeypatch.setattr(image_folder, "LARGEST", 10**6)
    path = zipped(images, "train/bomb.png", bytes(2 * 10**6))
    assert path.stat().st_size < 20_000
    refused(path, r"^train/bomb.png in .*hostile.zip has 0.002 GB; an image file has at most 0.001 GB: remove it")


def test_an_image_of_another_format_than_its_name_says_is_read(images):
    Image.open(images / GOOD[0]).save(images / "train" / "0.jpg", "PNG")
    (images / GOOD[0]).unlink()
    assert len(folder(images, size=16).train.images) == 3


def test_no_test_and_no_process_of_a_test_reaches_a_network():
    with pytest.raises(OSError, match="tests have no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    with pytest.raises(OSError, match="tests have no network"):
        socket.gethostbyname("example.org")
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run([sys.executable, "-c", reach], capture_output=True, encoding="utf-8")
    assert "tests have no network: 192.0.2.1" in done.stderr
    assert "tests/offline" in (paths.ROOT / "Makefile").read_text("utf-8")  # notebooks run without this conftest
    assert str(Path("tests", "offline")) in os.environ["PYTHONPATH"]
