"""Archive → packed store: every kind of source gives the same store; what is wrong is refused by name."""

import gzip
import io
import json
import multiprocessing
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from benchmarks import scale
from kaggle_hw4.data.pack import pack
from kaggle_hw4.data.store import open_store
from kaggle_hw4.errors import DataError, UsageError

CONTENT = tiny.files()
FEATURES = [name for name in CONTENT if name.endswith(".pt")]
EXTRAS = {f"._{FEATURES[0]}": b"\0\5\26\7", "log_melspectrogram.pt": b"TorchScript", "sox_effects.pt": b"TorchScript"}


def parts(path: Path) -> Path:
    """A tar.gz cut in three, and the first of the parts."""
    blob = tiny.as_tar(path, CONTENT | EXTRAS).read_bytes()
    path.unlink()
    third = len(blob) // 3 + 1
    for i, name in enumerate(("partaa", "partab", "partac")):
        Path(f"{path}.{name}").write_bytes(blob[i * third : (i + 1) * third])
    return Path(f"{path}.partaa")


def zipped(path: Path, method: int, *, front: bytes = b"", extra: bytes = b"") -> Path:
    """A zip of that method, behind other bytes, with an extra field before every content."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, blob in (CONTENT | EXTRAS).items():
            info = zipfile.ZipInfo(f"Dataset/{name}")
            info.compress_type, info.extra = method, extra
            archive.writestr(info, blob)
    path.write_bytes(front + path.read_bytes())
    return path


def tarred(path: Path, format: int, *, folder: str = "Dataset", mtime: float = 0, odd: bool = False) -> Path:
    """A tar of that format; an odd one has a link and a long name in the midst of the utterances."""
    with tarfile.open(path, "w", format=format) as archive:
        folders = tarfile.TarInfo(folder)
        folders.type = tarfile.DIRTYPE
        archive.addfile(folders)
        for i, (name, blob) in enumerate(reversed((CONTENT | EXTRAS).items())):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime = len(blob), mtime  # type: ignore[assignment]
            archive.addfile(info, io.BytesIO(blob))
            if odd and i == 9:
                link = tarfile.TarInfo(f"{folder}/link")
                link.type, link.linkname = tarfile.SYMTYPE, name
                archive.addfile(link)
                archive.addfile(tarfile.TarInfo(f"{folder}/{'long' * 40}"))
    return path


def cut(path: Path) -> Path:
    """A plain tar in parts that end anywhere."""
    blob = tarred(path, tarfile.GNU_FORMAT).read_bytes()
    path.unlink()
    for i in range(5):
        Path(f"{path}.parta{'abcde'[i]}").write_bytes(blob[i * 20_001 : (i + 1) * 20_001 if i < 4 else None])
    return Path(f"{path}.partaa")


def numbered(path: Path) -> Path:
    """A tar.gz in parts whose numbers have one digit or two; the seventh is given."""
    blob = tiny.as_tar(path, CONTENT | EXTRAS).read_bytes()
    path.unlink()
    size = len(blob) // 12 + 1
    for i in range(12):
        Path(f"{path}.part{i + 1}").write_bytes(blob[i * size : (i + 1) * size])
    return Path(f"{path}.part7")


def in_members(path: Path) -> Path:
    """A tar.gz of three gzip members, as bgzip and `cat a.gz b.gz` make them."""
    blob = gzip.decompress(tiny.as_tar(path, CONTENT | EXTRAS).read_bytes())
    path.write_bytes(b"".join(gzip.compress(piece) for piece in (blob[:9999], blob[9999:77_777], blob[77_777:])))
    return path


def without_end(path: Path) -> Path:
    """A tar that just stops: what pads its end is missing."""
    blob = tarred(path, tarfile.GNU_FORMAT).read_bytes().rstrip(b"\0")
    path.write_bytes(blob + bytes(-len(blob) % 512))
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda p: tiny.as_folder(p / "Dataset", CONTENT | EXTRAS),
    "folder above": lambda p: tiny.as_folder(p / "Dataset", CONTENT | EXTRAS).parent,
    "zip": lambda p: tiny.as_zip(p / "a.zip", CONTENT | EXTRAS),
    "zip without folder": lambda p: tiny.as_zip(p / "a.zip", CONTENT | EXTRAS, prefix=""),
    "tar": lambda p: tiny.as_tar(p / "a.tar", CONTENT | EXTRAS),
    "tar.gz": lambda p: tiny.as_tar(p / "a.tar.gz", CONTENT | EXTRAS),
    "tar.gz of several members": lambda p: in_members(p / "a.tar.gz"),
    "parts": lambda p: parts(p / "a.tar.gz"),
    "numbered parts": lambda p: numbered(p / "a.tar.gz"),
    "stored zip": lambda p: zipped(p / "a.zip", zipfile.ZIP_STORED),
    "stored zip behind other bytes": lambda p: zipped(p / "a.zip", zipfile.ZIP_STORED, front=b"PK" + bytes(99)),
    "stored zip with extra fields": lambda p: zipped(p / "a.zip", zipfile.ZIP_STORED, extra=b"XX\3\0abc"),
    "bzip2 zip": lambda p: zipped(p / "a.zip", zipfile.ZIP_BZIP2),
    "old tar": lambda p: tarred(p / "a.tar", tarfile.USTAR_FORMAT),
    "GNU tar": lambda p: tarred(p / "a.tar", tarfile.GNU_FORMAT),
    "GNU tar of long paths": lambda p: tarred(p / "a.tar", tarfile.GNU_FORMAT, folder="Dataset" * 20),
    "old tar of long paths": lambda p: tarred(p / "a.tar", tarfile.USTAR_FORMAT, folder="Dataset/" * 9 + "D"),
    "pax tar": lambda p: tarred(p / "a.tar", tarfile.PAX_FORMAT, mtime=1.5),
    "pax tar of long paths": lambda p: tarred(p / "a.tar", tarfile.PAX_FORMAT, folder="Dataset" * 20),
    "tar with odd members": lambda p: tarred(p / "a.tar", tarfile.PAX_FORMAT, odd=True),
    "tar without end": lambda p: without_end(p / "a.tar"),
    "parts of a plain tar": lambda p: cut(p / "a.tar"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_store(tmp_path: Path, kind: str) -> None:
    store = tiny.packed(SOURCES[kind](tmp_path), tmp_path / "store", "float32")
    assert (len(store.train_rows), len(store.test_rows), len(store.speakers)) == (24, 8, 4)
    assert store.speakers == ["id00087", "id00088", "id00089", "id00090"]  # mapping.json's order
    assert store.hash == tiny.packed(tiny.as_folder(tmp_path / "again", CONTENT), tmp_path / "other").hash
    labels = {
        entry["feature_path"]: speaker
        for speaker, entries in tiny.table(CONTENT, "metadata.json")["speakers"].items()
        for entry in entries
    }
    for row, name in enumerate(store.index["id"]):
        original = torch.load(io.BytesIO(CONTENT[name]), weights_only=True).numpy()
        start, length = store.offsets[row], store.lengths[row]
        np.testing.assert_array_equal(store.frames[start : start + length], original)
        assert (store.speakers[store.labels[row]] if store.labels[row] >= 0 else None) == labels.get(name)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "stored zip", "pax tar"])
def test_usual_sources_are_read_without_tarfile_and_torch_load(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES[kind](tmp_path)
    for module, name in ((torch, "load"), (tarfile, "open"), (zipfile.ZipFile, "read")):
        monkeypatch.setattr(module, name, None)
    tiny.packed(source, tmp_path / "store")


@pytest.mark.parametrize("frames", [1, 60, 150])
def test_frames_are_the_same_whatever_is_written_at_once(
    tmp_path: Path, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tiny.packed(tiny.as_zip(tmp_path / "a.zip", CONTENT), tmp_path / "whole").frames
    monkeypatch.setattr("kaggle_hw4.data.pack._BLOCK_FRAMES", frames)
    np.testing.assert_array_equal(tiny.packed(tmp_path / "a.zip", tmp_path / "pieces").frames, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 65520.0, -65520.0, 65519.0, -65519.0])
def test_one_value_that_is_not_finite_is_found_in_its_utterance(tmp_path: Path, value: float, dtype: str) -> None:
    broken = FEATURES[3]
    features = torch.load(io.BytesIO(CONTENT[broken]))
    features[-1, -1] = value
    source = tiny.as_folder(tmp_path / "source", CONTENT | {broken: tiny.tensor(features)})
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.array(value, dtype))
    if finite:
        tiny.packed(source, tmp_path / "store", dtype)
    else:
        with pytest.raises(DataError, match=f"{broken} holds values that are not finite"):
            tiny.packed(source, tmp_path / "store", dtype)


@pytest.mark.parametrize("kind", ["folder", "zip", "stored zip", "tar", "parts of a plain tar"])
def test_any_number_of_processes_packs_the_same_store(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES[kind](tmp_path)
    alone = tiny.packed(source, tmp_path / "alone")
    monkeypatch.setattr("kaggle_hw4.data.pack._TASK", 3)
    monkeypatch.setattr("kaggle_hw4.data.pack.process_count", lambda most: 3)
    together = tiny.packed(source, tmp_path / "together")
    assert together.index.equals(alone.index)
    assert (together.folder / "frames.bin").read_bytes() == (alone.folder / "frames.bin").read_bytes()
    assert multiprocessing.active_children() == []


def test_what_another_process_finds_damaged_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_hw4.data.pack._TASK", 1)
    monkeypatch.setattr("kaggle_hw4.data.pack.process_count", lambda most: len(FEATURES))
    broken = sorted(FEATURES)[4]  # each has a process of its own; the first is this one's
    source = tiny.as_folder(tmp_path / "source", CONTENT | {broken: b"hello"})
    with pytest.raises(DataError, match=f"{broken} is not a saved tensor"):
        tiny.packed(source, tmp_path / "data" / "store")
    assert list((tmp_path / "data").iterdir()) == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("cut_up", "lost", "after"), [(numbered, "part9", "part8"), (cut, "partac", "partab")])
def test_a_part_that_is_missing_is_named(tmp_path: Path, cut_up: Callable[[Path], Path], lost: str, after: str) -> None:
    source = cut_up(tmp_path / "a.tar.gz")
    (tmp_path / f"a.tar.gz.{lost}").unlink()
    with pytest.raises(DataError, match=rf"after a\.tar\.gz\.{after} is missing"):
        tiny.packed(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_progress_counts_every_utterance_in_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    source = tiny.as_folder(tmp_path / "source", tiny.files(speakers=20))
    pack(source, tmp_path / "store", competition="x", dtype="float16", progress=lambda *call: calls.append(call))
    assert calls == [(0, 160), (64, 160), (128, 160), (160, 160)]


def test_the_competition_of_the_scale_benchmark_is_packed(tmp_path: Path) -> None:
    lengths = np.arange(91, 191)
    np.save(tmp_path / "lengths.npy", lengths)
    scale.generate(str(tmp_path / "lengths.npy"), str(tmp_path / "a.zip"))
    store = tiny.packed(tmp_path / "a.zip", tmp_path / "store")
    assert (len(store.train_rows), len(store.test_rows), len(store.speakers)) == (88, 12, 11)
    assert sorted(store.lengths) == lengths.tolist()


def test_frames_are_stored_as_float16_unless_asked_otherwise(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    assert store.frames.dtype == np.float16
    row = int(store.train_rows[0])
    original = torch.load(io.BytesIO((tmp_path / "source" / store.index["id"][row]).read_bytes())).numpy()
    start = store.offsets[row]
    np.testing.assert_array_equal(store.frames[start : start + len(original)], original.astype(np.float16))


def edited(name: str, change: Callable[[Any], Any]) -> dict[str, bytes]:
    value = tiny.table(CONTENT, name)
    return CONTENT | {name: json.dumps(change(value) or value).encode()}


def drop(name: str) -> dict[str, bytes]:
    return {other: blob for other, blob in CONTENT.items() if other != name}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


FIRST = FEATURES[0]
FRAMES = np.zeros((30, 40))
LENGTH = tiny.table(CONTENT, "metadata.json")["speakers"]["id00090"][0]["mel_len"]  # of FIRST
HALF = torch.zeros(30, 40, dtype=torch.float16)
UNREADABLE = pickle.dumps(Evil())
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no metadata": (drop("metadata.json"), "metadata.json"),
    "no testdata": (drop("testdata.json"), "testdata.json is missing"),
    "no mapping": (drop("mapping.json"), "mapping.json is missing"),
    "broken table": (CONTENT | {"testdata.json": b'{"n_mels": 40,'}, "testdata.json is not valid JSON"),
    "table of another kind": (CONTENT | {"mapping.json": b"[]"}, "mapping.json"),
    "other n_mels": (edited("testdata.json", lambda t: t.update(n_mels=80)), "n_mels is 80"),
    "speaker without class": (edited("metadata.json", lambda t: t["speakers"].update(id1=[])), "id1"),
    "speaker without utterances": (
        edited("metadata.json", lambda t: t["speakers"].update(id00090=[])),
        "metadata.json has no utterance of id00090",
    ),
    "a single speaker": (tiny.files(speakers=1), "nobody to tell apart"),
    "mapping contradicts itself": (edited("mapping.json", lambda t: t["id2speaker"].update({"0": "x"})), "disagree"),
    "path leaves the folder": (
        edited("testdata.json", lambda t: t["utterances"][0].update(feature_path="../../x.pt")),
        "../../x.pt",
    ),
    "same utterance twice": (
        edited("testdata.json", lambda t: t["utterances"].append(t["utterances"][0])),
        "listed twice",
    ),
    "missing utterance": (drop(FIRST), f"the first is {FIRST}"),
    "other length": (CONTENT | {FIRST: tiny.tensor(FRAMES[:5])}, f"{FIRST} has 5 frames"),
    "other width": (CONTENT | {FIRST: tiny.tensor(np.zeros((30, 80)))}, f"{FIRST} is torch.float32 (30, 80)"),
    "other dtype": (CONTENT | {FIRST: tiny.tensor(HALF)}, f"{FIRST} is torch.float16"),
    "not finite": (CONTENT | {FIRST: tiny.tensor(np.full((LENGTH, 40), np.nan))}, "not finite numbers"),
    "too large for float16": (CONTENT | {FIRST: tiny.tensor(np.full((LENGTH, 40), 1e6))}, "not finite numbers"),
    "not a tensor": (CONTENT | {FIRST: tiny.tensor({"a": 1})}, f"{FIRST} holds a dict"),
    "not a file of torch": (CONTENT | {FIRST: b"hello"}, f"{FIRST} is not a saved tensor"),
    "a pickle with code": (CONTENT | {FIRST: UNREADABLE}, f"{FIRST} is not a saved tensor"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("kind", [tiny.as_zip, tiny.as_tar, tiny.as_folder])
def test_what_is_wrong_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, what: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = BAD[what]
    source = kind(tmp_path / "source", content)
    with pytest.raises(DataError) as error:
        tiny.packed(source, tmp_path / "data" / "store")
    assert message in str(error.value)
    assert list((tmp_path / "data").iterdir()) == []
    assert not (tmp_path / "executed").exists()


def test_the_edition_leak_is_refused_and_explained(tmp_path: Path) -> None:
    labelled = tiny.table(CONTENT, "metadata.json")["speakers"]["id00090"][0]
    leaky = edited("testdata.json", lambda t: t["utterances"].append(labelled))
    with pytest.raises(DataError, match="2022 edition") as error:
        tiny.packed(tiny.as_zip(tmp_path / "a.zip", leaky), tmp_path / "store")
    assert labelled["feature_path"] in str(error.value)


@pytest.mark.parametrize("kind", [tiny.as_zip, tiny.as_tar])
@pytest.mark.parametrize("name", ["metadata.json", FIRST])
def test_a_file_that_is_there_twice_is_refused(tmp_path: Path, kind: Any, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is in the archive twice"):
        tiny.packed(kind(tmp_path / "a", CONTENT | {f"old/{name}": CONTENT[name]}), tmp_path / "store")


def test_identical_content_under_another_name_is_no_leak(tmp_path: Path) -> None:
    test = tiny.table(CONTENT, "testdata.json")["utterances"][0]
    twin = tiny.table(CONTENT, "metadata.json")["speakers"]["id00090"][0]["feature_path"]
    content = CONTENT | {twin: CONTENT[test["feature_path"]]}
    metadata = tiny.table(CONTENT, "metadata.json")
    metadata["speakers"]["id00090"][0]["mel_len"] = test["mel_len"]
    content["metadata.json"] = json.dumps(metadata).encode()
    store = tiny.packed(tiny.as_zip(tmp_path / "a.zip", content), tmp_path / "store")
    assert store.index["digest"].duplicated().sum() == 1


@pytest.mark.parametrize("path", ["../uttr-x.pt", "/etc/passwd", "Dataset/../../x", "C:\\x.pt"])
@pytest.mark.parametrize("kind", [tiny.as_zip, tiny.as_tar])
def test_an_archive_with_a_path_out_of_its_folder_is_refused(tmp_path: Path, path: str, kind: Any) -> None:
    with pytest.raises(DataError, match="leaves its folder"):
        tiny.packed(kind(tmp_path / "a", CONTENT | {path: b""}, prefix=""), tmp_path / "store")


@pytest.mark.parametrize("kind", [tiny.as_zip, tiny.as_tar])
def test_a_truncated_archive_is_refused(tmp_path: Path, kind: Any) -> None:
    whole = kind(tmp_path / "a.gz", CONTENT)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged"):
        tiny.packed(whole, tmp_path / "data" / "store")
    assert list((tmp_path / "data").iterdir()) == []


# The first and the last bits of what deflate writes do not matter: they only say that it ends.
@pytest.mark.parametrize(
    ("method", "place"),
    [(zipfile.ZIP_STORED, place) for place in (0, 20, 200, 1500, 3000, -1)]
    + [(zipfile.ZIP_DEFLATED, place) for place in (20, 200, 1500, 3000)],
)
def test_a_flipped_bit_in_a_zip_is_refused(tmp_path: Path, method: int, place: int) -> None:
    path = zipped(tmp_path / "a.zip", method)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"Dataset/{FIRST}")
    blob = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    blob[start + place % info.compress_size] ^= 1
    path.write_bytes(blob)
    with pytest.raises(DataError, match="damaged"):
        tiny.packed(path, tmp_path / "store")


@pytest.mark.parametrize("place", [0, 18, 26, 28, 30, 40])
def test_a_flipped_bit_before_a_member_of_a_zip_is_refused_or_does_not_matter(tmp_path: Path, place: int) -> None:
    path = zipped(tmp_path / "a.zip", zipfile.ZIP_STORED)
    expected = tiny.packed(path, tmp_path / "expected").frames
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"Dataset/{FIRST}")
    blob = bytearray(path.read_bytes())
    blob[info.header_offset + place] ^= 1
    path.write_bytes(blob)
    if place == 18:  # a size that is also elsewhere
        np.testing.assert_array_equal(tiny.packed(path, tmp_path / "store").frames, expected)
    else:
        with pytest.raises(DataError, match="damaged"):
            tiny.packed(path, tmp_path / "store")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", zipfile.ZIP_STORED)
    blob = path.read_bytes().replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0")
    path.write_bytes(blob)
    with pytest.raises(DataError, match="encrypted"):
        tiny.packed(path, tmp_path / "store")


@pytest.mark.parametrize("place", [0, 124, 130, 148, 156])
def test_a_changed_header_in_a_tar_is_refused(tmp_path: Path, place: int) -> None:
    path = tarred(tmp_path / "a.tar", tarfile.GNU_FORMAT)
    with tarfile.open(path) as archive:
        start = archive.getmember(f"Dataset/{FIRST}").offset
    blob = bytearray(path.read_bytes())
    blob[start + place] ^= 1
    path.write_bytes(blob)
    with pytest.raises(DataError):
        tiny.packed(path, tmp_path / "store")


def test_a_source_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        tiny.packed(tmp_path / "nothing.zip", tmp_path / "store")


def test_a_changed_store_is_not_believed(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    index = store.folder / "index.csv"
    whole = index.read_text()
    index.write_text(whole.replace(",0,", ",1,", 1))
    with pytest.raises(DataError, match=r"index\.csv is not the file"):
        open_store(store.folder)
    index.write_text(whole)
    frames = store.folder / "frames.bin"
    frames.write_bytes(frames.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"frames\.bin has"):
        open_store(store.folder)


def test_the_checksum_of_gzip_decides(tmp_path: Path) -> None:
    """An utterance of the format before torch 1.6 has none of its own."""
    source = tiny.as_tar(tmp_path / "a.tar.gz", CONTENT)
    blob = bytearray(source.read_bytes())
    blob[-8] ^= 1
    source.write_bytes(blob)
    with pytest.raises(DataError, match="damaged"):
        tiny.packed(source, tmp_path / "store")


def test_a_part_of_a_zip_says_how_to_join_them(tmp_path: Path) -> None:
    blob = tiny.as_zip(tmp_path / "a.zip", CONTENT).read_bytes()
    for i in range(3):
        (tmp_path / f"b.zip.00{i + 1}").write_bytes(blob[i * len(blob) // 3 : (i + 1) * len(blob) // 3])
    with pytest.raises(DataError, match=r"cat b.zip.001 b.zip.002 b.zip.003 > b.zip$"):
        tiny.packed(tmp_path / "b.zip.001", tmp_path / "store")
    whole = tiny.as_zip(tmp_path / "c.zip.001", CONTENT)
    tiny.as_zip(tmp_path / "c.zip.002", tiny.files(seed=1))
    assert len(tiny.packed(whole, tmp_path / "store").train_rows) == 24
