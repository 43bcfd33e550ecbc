"""Archives from anyone: bombs, lies about sizes, links, pipes. Only the documented error, soon, in little memory."""

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from hostile import BOMB, CONTENT, FIRST, MIB, bomb, patched, refused, zipped

from kaggle_hw4.archive_file import Expected, problem
from kaggle_hw4.errors import DataError, UsageError


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_in_a_zip_is_refused_whatever_size_it_declares(tmp_path: Path, method: int) -> None:
    path = bomb(tmp_path / "a.zip", FIRST, method)
    with zipfile.ZipFile(path, "a") as archive:
        for name, blob in CONTENT.items():
            if name != FIRST:
                archive.writestr(name, blob)
    refused(path, "a.zip", "damaged", f"{BOMB:,}")
    for declared in (0, 100):
        # What bzip2 and lzma make of the 4 KiB that are read at once has no limit of ours.
        most = 60 if method == zipfile.ZIP_DEFLATED else 200
        refused(patched(path, FIRST, 24, struct.pack("<I", declared)), "a.zip", "damaged", mib=most)


def test_a_zip_that_unpacks_to_more_than_recordings_can_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {f"uttr-{i:032x}.pt": bytes(MIB) for i in range(300)})
    refused(path, "made to fill disk and memory")
    with pytest.raises(DataError, match="made to fill"):
        problem(path, Expected(None, None, None))


@pytest.mark.parametrize("value", [2**40, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["file_size", "compress_size", "header_offset"])
def test_numbers_of_64_bits_in_a_zip_are_not_believed(tmp_path: Path, field: str, value: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, blob in CONTENT.items():
            archive.writestr(name, blob)
        setattr(archive.getinfo(FIRST), field, min(value, 2**63))
        archive.getinfo(FIRST).extra = b""
    if value > 2**63:
        blob = path.read_bytes()
        path.write_bytes(blob.replace(struct.pack("<Q", 2**63), struct.pack("<Q", value)))
    refused(path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", CONTENT | {"ü": b""})
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xfe"))
    refused(path, "damaged")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_what_cannot_be_unpacked_is_called_damaged(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "a.zip", CONTENT, method)
    blob = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(FIRST).header_offset + 30 + len(FIRST)
    blob[start : start + 60] = b"\xff" * 60
    path.write_bytes(blob)
    refused(path, "damaged")
    assert "zip" in problem(path, Expected(None, None, None)) or "damaged" in problem(path, Expected(None, None, None))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_compressed_tar_that_is_damaged_is_refused(tmp_path: Path, compress: Any, damage: str) -> None:
    whole = compress(tiny.as_tar(tmp_path / "whole", CONTENT).read_bytes())
    half = len(whole) // 2
    (tmp_path / "whole").unlink()
    path = tmp_path / "a.tar.xz"
    path.write_bytes(whole[:half] + (b"\xff" * 200 + whole[half + 200 :] if damage == "overwritten" else b""))
    refused(path)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


LIES = {
    "a pax header of 8 GB": header("x", 8**11 - 1, tarfile.XHDTYPE),
    "a global pax header of 1 TB": header("x", 2**40, tarfile.XGLTYPE),
    "a name of 40 MB": header("././@LongLink", 40 * MIB, tarfile.GNUTYPE_LONGNAME) + b"a" * 40 * MIB,
    "a link of 1 TB": header("././@LongLink", 2**40, tarfile.GNUTYPE_LONGLINK),
    "a table of 8 GB": header("metadata.json", 8**11 - 1),
    "an utterance of 1 TB": header(FIRST, 2**40),
    "an utterance of -1": header(FIRST, 0)[:124] + b"\xff" * 12 + header(FIRST, 0)[136:],
    "another file of 1 TB": header("README", 2**40),
    "names of names": header("././@LongLink", 512, tarfile.GNUTYPE_LONGNAME) + b"a" * 512,
}


@pytest.mark.parametrize("what", LIES)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
def test_sizes_in_a_tar_are_not_believed(tmp_path: Path, what: str, compress: Any) -> None:
    content = LIES[what] * (3000 if what == "names of names" else 1)
    blocks = bytearray(content)
    blocks[148:156] = b" " * 8
    blocks[148:156] = b"%06o\0 " % sum(blocks[:512])
    path = tmp_path / "a.tar"
    path.write_bytes(compress(bytes(blocks) + bytes(1024)))
    refused(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_links_pipes_and_devices_in_a_tar_are_nothing(tmp_path: Path, kind: bytes, compress: Any) -> None:
    secret = tmp_path / "secret.pt"
    secret.write_bytes(CONTENT[FIRST])
    whole = tiny.as_tar(tmp_path / "whole", {name: blob for name, blob in CONTENT.items() if name != FIRST})
    path = tmp_path / "a.tar"
    odd = header(f"Dataset/{FIRST}", 0, kind, linkname=str(secret))
    path.write_bytes(compress(odd + whole.read_bytes()))
    refused(path, f"missing, the first is {FIRST}")


def hostile_archives(folder: Path) -> Iterator[Path]:
    """Archives that would write where they should not, if anything in them were extracted by its name."""
    names = ["../evil", "/tmp/kaggle-hw4-evil", "a/../../evil", "C:/evil", "..\\evil", "~/evil", "Dataset/evil", FIRST]
    for i, name in enumerate(names):
        yield zipped(folder / f"{i}.zip", CONTENT | {name: b"evil"})
        for suffix in ("", ".gz"):
            yield tiny.as_tar(folder / f"{i}.tar{suffix}", CONTENT | {name: b"evil"}, prefix="")


def test_nothing_of_an_archive_is_written_under_its_own_name(tmp_path: Path) -> None:
    """Seen from the operating system's calls: all that is written while packing is the store."""
    code = f"""
import os, sys
from pathlib import Path
sys.path += {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
import tiny
from kaggle_hw4.errors import DataError
from test_hostile_archives import hostile_archives
archives = list(hostile_archives(Path({str(tmp_path)!r})))
tiny.packed(tiny.as_zip(Path({str(tmp_path)!r}) / 'warm.zip', tiny.files(2, 2, 1)), Path({str(tmp_path)!r}) / 'warm')
seen = set()
def hook(event, arguments):
    writes = event == 'open' and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ('os.mkdir', 'os.symlink', 'os.link', 'os.rename', 'pickle.find_class', 'subprocess.Popen'):
        seen.add(str(arguments[event == 'os.rename']))
sys.addaudithook(hook)
for i, archive in enumerate(archives):
    try:
        tiny.packed(archive, Path({str(tmp_path)!r}) / 'data' / f'store{{i}}')
    except DataError:
        pass
print(*sorted(seen), sep='\\n')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    written = done.stdout.split()
    assert len(written) > 10
    data = tmp_path / "data"
    own = ("frames.bin", "index.csv", "store.json")
    for path in map(Path, written):
        assert path == data or path.is_relative_to(data), path
        assert path == data or path.parent == data or path.name.strip(".").startswith(own), path
    assert not (tmp_path / "evil").exists()
    assert not list(data.glob(".*.tmp"))


@pytest.mark.parametrize("name", [FIRST, "metadata.json"])
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = tiny.as_folder(tmp_path / "source", {other: blob for other, blob in CONTENT.items() if other != name})
    os.mkfifo(folder / name)
    refused(folder, f"missing, the first is {name}" if name == FIRST else f"{name} is missing")


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UsageError):
        tiny.packed(tmp_path / "a.tar", tmp_path / "store")


def test_a_file_in_a_folder_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    folder = tiny.as_folder(tmp_path / "source", CONTENT)
    os.truncate(folder / FIRST, 2**40)
    refused(folder, "damaged")


def test_a_zip_of_many_unusual_members_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    whole = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *args, **kw: opened.append(1) or whole(*args, **kw))
    path = zipped(tmp_path / "a.zip", tiny.files(), zipfile.ZIP_BZIP2)
    opened.clear()
    tiny.packed(path, tmp_path / "store")
    assert len(opened) <= 3  # for the names, the tables, the utterances
