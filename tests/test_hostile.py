"""Input from anyone: bombs, lies about sizes, programs, pipes. Only the documented error, soon, in little memory."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from written import Bench

from fuzz.targets import TARGETS, bench
from kaggle_hw4.archive_file import Expected, problem
from kaggle_hw4.board import read_board
from kaggle_hw4.competition import competition
from kaggle_hw4.credentials import Credential
from kaggle_hw4.data.features import read_features
from kaggle_hw4.data.saved import load_saved
from kaggle_hw4.data.tables import read_tables
from kaggle_hw4.ensemble.members import added_member, load_member
from kaggle_hw4.ensemble.recorded import read_record
from kaggle_hw4.errors import DataError, HW4Error, UsageError
from kaggle_hw4.folds import load_folds
from kaggle_hw4.kaggle_calls import _answered
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.runs import Run, job_of
from kaggle_hw4.submission_file import load_submission
from kaggle_hw4.terminal import say
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, check_fields, file_hash, parse_json

CONTENT = tiny.files(speakers=2, train=2, test=1)
FIRST = next(name for name in CONTENT if name.endswith(".pt"))
MIB = 1 << 20
DEEP = 100_000


@contextmanager
def bounded(mib: int = 100, seconds: float = 20.0) -> Iterator[None]:
    """Fails when the block takes more memory or time than any input may."""
    tracemalloc.start()
    began = time.process_time()  # the machine may be busy
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mib * MIB
    assert time.process_time() - began < seconds


def refused(source: Path, *words: str, mib: int = 100) -> None:
    """Packing it ends with one clear error and leaves nothing."""
    data = source.parent / "data"
    with bounded(mib), pytest.raises(DataError) as error:
        tiny.packed(source, data / "store")
    assert all(word in str(error.value) for word in words), error.value
    assert list(data.iterdir()) == []


# --- any reader, any input ---------------------------------------------------------------------

_NUMBERS = [b"\xff" * 4, b"\xff" * 8, bytes(8), b"1e999", b"NaN", b"-1", b"9" * 400]
_PIECES = st.sampled_from([*_NUMBERS, b"\\ud800", b"[" * 60, b'""', b"null", b"{", b"true"])


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds, with up to three places overwritten, cut out, or repeated."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 40]))
        piece = draw(st.one_of(st.binary(max_size=8), _PIECES, st.just(content[start : start + 40])))
        content = content[:start] + piece + content[start + length :]
    return content


@pytest.mark.parametrize("target", TARGETS)
def test_a_changed_file_is_read_or_refused_with_the_documented_error(target: str) -> None:
    seeds = TARGETS[target].seeds()

    @settings(max_examples=30, deadline=10_000)
    @given(changed(seeds))
    def read(content: bytes) -> None:
        with suppress(HW4Error):
            TARGETS[target].run(content)

    for seed in seeds:
        with suppress(HW4Error):
            TARGETS[target].run(seed)
    read()


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing_in_some_seconds_each(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "fuzz", "--seconds", "5", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert {row[1].strip() for row in rows} == set(TARGETS)
    assert all(int(row[2].replace(",", "")) > 50 for row in rows), done.stdout


# --- archives ----------------------------------------------------------------------------------


def zipped(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, blob in content.items():
            archive.writestr(name, blob)
    return path


def patched(path: Path, name: str, place: int, value: bytes) -> Path:
    """The zip with `value` at `place` of the directory's entry for `name`."""
    blob = bytearray(path.read_bytes())
    entry = blob.rindex(name.encode()) - 46
    assert blob[entry : entry + 4] == b"PK\1\2"
    blob[entry + place : entry + place + len(value)] = value
    path.write_bytes(blob)
    return path


BOMB = 64 * MIB


@cache
def packed_zeros(method: int) -> bytes:
    """A zip of one member of 64 MiB zeros, named x."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("x" * len(FIRST), bytes(BOMB))
    return buffer.getvalue()


def bomb(path: Path, name: str, method: int) -> Path:
    """A zip whose member `name` is 64 MiB of zeros in few bytes; others can be appended."""
    path.write_bytes(packed_zeros(method).replace(b"x" * len(FIRST), name.encode().ljust(len(FIRST), b"\0")))
    return path


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
from test_hostile import hostile_archives
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


# --- utterances and checkpoints ----------------------------------------------------------------


SAVED = tiny.tensor(np.zeros((3, 40)))


def with_pickle(program: bytes) -> bytes:
    """A saved tensor with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SAVED)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def nested(end: bytes) -> bytes:
    """A tuple of one tuple twice, 60 levels deep: its hash takes 2^60 steps."""
    return b"\x80\x02)q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + end


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


GROWING = b"\x80\x02X\x02\x00\x00\x00ab" + b"".join(
    b"q%cc_codecs\nencode\nh%cX\x03\x00\x00\x00hex\x86R" % (i, i) for i in range(60)
)
PROGRAMS: dict[str, bytes] = {
    "memory of 100 GB": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.",
    "memory of 100 GB, as Python 2 called it": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.",
    "a key that takes for ever": nested(b"0}h\x3cK\x01s."),
    "a storage's key that takes for ever": nested(b"0(X\7\0\0\0storagectorch\nFloatStorage\nh\x3cX\3\0\0\0cpuK\x01tQ."),
    "a string that doubles 60 times": GROWING + b".",
    "a tensor of any size": b"\x80\x02ctorch\nTensor\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.",
    "no end": b"\x80\x02" + b"(" * 5000,
    "an endless string": b"\x80\x02X\xff\xff\xff\x7f",
    "a megabyte of nothing": b"\x80\x02" + b"N0" * MIB + b"N.",
}


@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_asks_for_memory_or_time_is_refused(what: str, old: bool) -> None:
    program = PROGRAMS[what]
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    content = start + program + pickle.dumps([], 2) if old else with_pickle(program)
    with bounded(60), pytest.raises(DataError, match="x is not a saved tensor"):
        read_features("x", bytearray(content))
    with bounded(60), pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch raises: load_checkpoint takes all
        load_saved(content, len(content))


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_with_code_is_never_run(tmp_path: Path, old: bool) -> None:
    program = pickle.dumps(Touch(tmp_path / "executed"), 2)
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    for content in (start + program + pickle.dumps([], 2) if old else with_pickle(program), program):
        with pytest.raises(DataError, match="x is not a saved tensor"):
            read_features("x", bytearray(content))
    assert list(tmp_path.iterdir()) == []


def test_the_pickle_that_was_checked_is_the_one_that_is_loaded() -> None:
    """zipfile and torch's reader may see different members: two directories, one name twice."""
    harmless, harmful = with_pickle(b"\x80\x02N."), with_pickle(PROGRAMS["a key that takes for ever"])
    for content in (harmless + harmful, harmful + harmless, harmful[:-22] + harmless):
        with bounded(60), suppress(DataError):
            read_features("x", bytearray(content))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_in_an_utterance_is_refused(tmp_path: Path, method: int) -> None:
    name = "archive/data/0"
    path = bomb(tmp_path / "a.zip", name, method)
    with zipfile.ZipFile(io.BytesIO(SAVED)) as old, zipfile.ZipFile(path, "a") as new:
        for other in old.namelist():
            if other != name:
                new.writestr(other, old.read(other))
    with bounded(), pytest.raises(DataError, match="unpacks to more than"):
        read_features("x", bytearray(path.read_bytes()))


@pytest.mark.parametrize(("frames", "stride"), [(2**62, 0), (2**40, 0), (2**40, 40), (4, 40), (-3, 40)])
def test_a_tensor_larger_than_its_storage_is_refused(frames: int, stride: int) -> None:
    program = zipfile.ZipFile(io.BytesIO(SAVED)).read("archive/data.pkl")
    assert program.count(b"K\x03K(\x86") == program.count(b"K(K\x01\x86") == 1  # shape (3, 40), strides (40, 1)
    program = program.replace(b"K\x03K(\x86", b"\x8a\x08" + struct.pack("<q", frames) + b"K(\x86")
    content = with_pickle(program.replace(b"K(K\x01\x86", b"K%cK%c\x86" % (stride, bool(stride))))
    with bounded(), pytest.raises(DataError):
        read_features("x", bytearray(content))


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, "[" * 21 + "]" * 21])
def test_json_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting|delimiter"):
        parse_json(text)
    assert parse_json("[" * 20 + "]" * 20) == parse_json(b"[" * 20 + b"]" * 20)


def test_json_with_a_key_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_json('{"k": 5, "seed": 0, "k": 6}')


@pytest.mark.parametrize(
    ("text", "kind"),
    [("true", int), ("1e999", int), (str(2**63), int), ("9" * 4000, float), ("null", str), ('"1"', int), ("[]", dict)],
)
def test_fields_of_another_kind_are_refused(text: str, kind: type) -> None:
    with pytest.raises(ValueError, match="x is missing"):
        check_fields(parse_json(f'{{"x": {text}}}'), x=kind)


def tables(**changes: Callable[[Any], Any]) -> dict[str, bytes]:
    """The tables, with some of them changed in place or replaced."""
    content = {name: blob for name, blob in CONTENT.items() if name.endswith(".json")}
    for name, change in changes.items():
        table = tiny.table(CONTENT, f"{name}.json")
        content[f"{name}.json"] = json.dumps(change(table) or table).encode()
    return content


@pytest.mark.parametrize("length", [True, 0, -1, 1.5, 10**9, 10**30, float("nan"), float("inf"), "5", None, [5]])
def test_a_length_that_no_utterance_has_is_refused(length: Any) -> None:
    with pytest.raises(DataError, match="mel_len"):
        read_tables(tables(testdata=lambda table: table["utterances"][0].update(mel_len=length)))


@pytest.mark.parametrize("number", [True, 1.0, [[]], None, "0", 10**400, -1, {"a": 1}])
def test_a_class_that_is_no_number_of_a_class_is_refused(number: Any) -> None:
    with pytest.raises(DataError, match=r"mapping\.json"):
        read_tables(tables(mapping=lambda table: table.update(speaker2id=dict.fromkeys(table["speaker2id"], number))))


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "\ud800", "x" * 10_000, "a\x1b[2J", "\x00"])
def test_a_speaker_id_that_is_none_is_refused_in_few_words(name: str) -> None:
    def rename(table: Any) -> Any:
        return {"speaker2id": {name: 0, "b": 1}, "id2speaker": {"0": name, "1": "b"}}

    def add(table: Any) -> None:
        table["speakers"][name] = []

    for change in (tables(mapping=rename), tables(metadata=add)):
        with pytest.raises(DataError) as error:
            read_tables(change)
        assert len(str(error.value)) < 1000


ODD_JSON = ["[" * DEEP, '{"a":' * DEEP, "9" * 10_000, "1e999", "NaN", '"\\ud800"', "\xff", "", "null"]


@pytest.mark.parametrize("text", ODD_JSON)
def test_a_table_that_is_none_is_refused(text: str) -> None:
    for name in ("metadata.json", "testdata.json", "mapping.json"):
        with pytest.raises(DataError, match=name):
            read_tables(tables() | {name: text.encode("latin-1")})


def test_what_a_name_tells_the_terminal_is_not_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b]0;title\x07b\x9b2J\rc")
    assert capsys.readouterr().err == "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}b" + (
        "\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}c\n"
    )


# --- CSV, logits, the ledger -------------------------------------------------------------------


@pytest.mark.parametrize("content", ["a,b\n" * 3 * MIB, "Id,Category\n" + '"' + "a" * 5 * MIB, "\n" * 40 * MIB])
def test_a_submission_of_megabytes_is_not_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with bounded(), pytest.raises(DataError, match="cannot be read"):
        load_submission(path, ["a"], ["b"])


def test_a_submission_that_is_a_pipe_or_repeats_itself_is_refused_in_few_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="not a file"):
        load_submission(tmp_path / "pipe.csv", ["a"], ["b"])
    path = tmp_path / "a.csv"
    path.write_text("Id,Category\n" + "a,b\n" * 100_000)
    with pytest.raises(DataError, match="stands in lines 2, 3") as error:
        load_submission(path, ["a"], ["b"])
    assert len(str(error.value)) < 1000


def npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + content


def executed_npy(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(tmp_path / "executed")], object), allow_pickle=True)
    return buffer.getvalue()


NPY: dict[str, Callable[[Path], bytes]] = {
    "pickled code": executed_npy,
    "a pickle": lambda path: pickle.dumps(Touch(path / "executed")),
    "an npz": lambda path: zipped(path / "a.zip", {"a.npy": b""}).read_bytes(),
    **{
        f"shape {shape}": lambda path, shape=shape: npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")
        for shape in ("(10**9, 4)", "(1000000000000, 4)", f"({2**62}, 4)", f"({2**64}, 4)", "(-1, 4)", "(True, 4)", "4")
    },
    "a structure of 1 TB": lambda path: npy(
        "{'descr': [('a', '<f4', (262144, 1048576))], 'fortran_order': False, 'shape': (24, 4)}"
    ),
    "brackets": lambda path: npy("(" * 9000),
    "brackets of Python 2": lambda path: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (24L, 4L" + "(" * 300),
    "a broken string": lambda path: npy("{'descr': '''"),
    "an odd indent": lambda path: npy("  1\n 2\n"),
    "a header of 4 GB": lambda path: b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "nothing": lambda path: b"",
    "other types": lambda path: npy("{'descr': '|O', 'fortran_order': False, 'shape': (24, 4)}", bytes(800)),
}


@pytest.mark.parametrize("what", NPY)
def test_logits_that_are_none_are_refused_before_memory_is_taken(tmp_path: Path, what: str) -> None:
    b, path = bench(), tmp_path / "oof.npy"
    path.write_bytes(NPY[what](tmp_path))
    for oof, test in ((path, b.workspace.root / "test.npy"), (b.workspace.root / "oof.npy", path)):
        with bounded(60), pytest.raises(DataError, match=r"oof\.npy"):
            added_member(b.store, b.folds, "added", oof, test)
    assert not (tmp_path / "executed").exists()


def test_logits_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "oof.npy")
    with pytest.raises(DataError, match=r"oof\.npy"):
        added_member(bench().store, bench().folds, "a", tmp_path / "oof.npy", bench().workspace.root / "test.npy")


ROW = Row("hw4-1", tiny.SLUG, "n", "f.csv", "abc", "2023-04-01T00:00:00Z", "complete")
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
LEDGERS = {
    "a version below zero": ["PRAGMA user_version = -3"],
    "a view without end": ["DROP TABLE submissions", f"CREATE VIEW submissions AS {ENDLESS}"],
    "a view without end beside it": [f"CREATE VIEW other AS {ENDLESS}"],
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON submissions BEGIN SELECT 1; END"],
    "another table": ["CREATE TABLE other (a)"],
    "bytes for a name": ["UPDATE submissions SET name = x'ff'"],
    "bytes that are no text": ["UPDATE submissions SET name = CAST(x'ff' AS TEXT)"],
    "a text for a place": ["UPDATE submissions SET place = 'first'"],
    "another state": ["UPDATE submissions SET state = 'lost'"],
    "a name of 2 MB": ["UPDATE submissions SET name = hex(zeroblob(1048576))"],
    "no table": ["DROP TABLE submissions"],
    "a name in its schema that is no text": [
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET name = CAST(x'c5' AS TEXT), tbl_name = CAST(x'c5' AS TEXT), sql = 'CREATE TABLE c('",
    ],
    "other columns": ["ALTER TABLE submissions DROP COLUMN state"],
}


@pytest.mark.parametrize("what", LEDGERS)
def test_a_ledger_that_is_none_is_refused(tmp_path: Path, what: str) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(ROW)
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        for statement in LEDGERS[what]:
            connection.execute(statement)
    before = ledger.path.read_bytes()
    with bounded(), pytest.raises(DataError, match="ledger"):
        ledger.all(tiny.SLUG)
    assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("field", ["oof", "test"])
@pytest.mark.parametrize("value", [None, 5, [[]], {}])
def test_a_result_that_lacks_what_is_read_of_it_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    tiny.packed(tiny.as_folder(tmp_path / "source", tiny.files(train=6)), tmp_path / "data" / "store")
    b = Bench(tmp_path)
    b.member("sample")
    result = Run(b.workspace.runs / "sample-s0" / "fold0").result
    result.write_text(json.dumps(json.loads(result.read_text()) | {field: value}))
    with pytest.raises(DataError, match=r"result\.json"):
        load_member(b.workspace, b.store, b.folds, "sample-s0")


RECORDS: list[dict[str, Any]] = [
    {"interval": [0.1, 0.2], "averaging": {"gain": 0.1, "sd": 0.1}},
    {"accuracy": 0.5, "interval": [0.1, 0.2], "averaging": {"gain": 0.1}},
    {"accuracy": 0.5, "interval": [[], 0.2]},
    {"accuracy": "x"},
    {"accuracy": 10**400},
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_other_things_spoils_the_board_with_one_message(tmp_path: Path, record: dict[str, Any]) -> None:
    csv = tmp_path / "submissions" / "a.csv"
    csv.parent.mkdir()
    csv.write_text("Id,Category\na,b\n")
    csv.with_suffix(".json").write_text(json.dumps(record | {"csv": file_hash(csv)}))
    with pytest.raises(DataError, match=r"a\.json is not the record of an ensemble"):
        read_board(Workspace(tmp_path), competition(tiny.SLUG))
    with pytest.raises(DataError, match=r"a\.json is not the record of an ensemble"):
        read_record(csv)


@pytest.mark.parametrize(
    "change", [{"k": 10**12}, {"k": True}, {"seed": "0"}, {"k": "3"}, {"fold_of": []}, {"fold_of": {}}]
)
def test_a_split_of_other_things_is_refused_at_once(tmp_path: Path, change: dict[str, Any]) -> None:
    b = bench()
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(json.loads(b.workspace.folds_file.read_text()) | change))
    with bounded(), pytest.raises(DataError, match=r"folds\.json"):
        load_folds(b.store, path)


@pytest.mark.parametrize(
    "change",
    [{"heads": 0}, {"d_model": 10**9}, {"lr": "x"}, {"also_crops": "ab"}, {"lr": float("inf")}, {"steps": True}],
)
def test_a_recipe_of_other_things_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    recipe = variant("sample").recipe() | change
    (tmp_path / "run.json").write_text(json.dumps({"variant": "sample", "recipe": recipe, "seed": 0, "fold": 0}))
    with pytest.raises(HW4Error, match=next(iter(change))):
        job_of(Run(tmp_path))


# --- Kaggle's answers --------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "²", "٣", "0x10", ""])
def test_a_length_that_is_none_is_not_believed(length: str) -> None:
    assert Expected.of({"Content-Length": length}).size is None


WAITS = ["1e999", "nan", "-5", "9" * 5000, "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "x", "0, 0 x 0 0:0:0 0"]
BODIES = [b"[" * DEEP, b'{"message": ' * 999, b"\xff", b'{"error": 1e999}', b'{"message": [[]]}']


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("body", BODIES)
def test_an_answer_that_makes_no_sense_is_an_error_in_our_words(wait: str, body: bytes) -> None:
    import requests

    answer = requests.Response()
    answer._content, answer.status_code = body, 429
    answer.request = SimpleNamespace(method="POST")  # type: ignore[assignment]
    answer.headers["Retry-After"] = wait
    failure = _answered(answer, competition(tiny.SLUG), Credential("key", "here", "nothing"))
    assert "429" in str(failure.error)
