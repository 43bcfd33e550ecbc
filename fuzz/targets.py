"""One target per reader: where it starts from, and how bytes are given to it.

A target lets only the documented error pass: `HW4Error`. Seeds are made here by the code that writes such files.
"""

import asyncio
import atexit
import bz2
import gzip
import io
import json
import lzma
import shutil
import sqlite3
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny
import torch
from safetensors.torch import save
from written import Bench

from kaggle_hw4 import archive_file, kaggle_calls
from kaggle_hw4.board import read_board
from kaggle_hw4.competition import competition
from kaggle_hw4.data.features import read_features
from kaggle_hw4.data.pooled import pooled
from kaggle_hw4.data.store import open_store
from kaggle_hw4.data.tables import read_tables
from kaggle_hw4.ensemble.members import added_member, load_member
from kaggle_hw4.ensemble.recorded import read_record
from kaggle_hw4.folds import load_folds
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.rehearsal.scoring import Answers, Rehearsal
from kaggle_hw4.rehearsal.server import build_app
from kaggle_hw4.runs import Job, Run, claim, identity, job_of, run_of
from kaggle_hw4.submission_file import load_submission
from kaggle_hw4.training.artefacts import trained_model
from kaggle_hw4.training.checkpoints import load_checkpoint, save_checkpoint
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import file_hash, with_checksum, write_json

_MEMORY = Path("/dev/shm")  # where there is one: packing waits for the disk
SCRATCH = Path(tempfile.mkdtemp(prefix="kaggle-hw4-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
_CUT = b"\n--cut--\n"  # between the files of a target that has several
CONTENT = tiny.files(speakers=2, train=2, test=1, shortest=2, longest=5)
TABLES = ("metadata.json", "testdata.json", "mapping.json")


@dataclass(frozen=True)
class Target:
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], Any]


def _file(name: str, content: bytes) -> Path:
    path = SCRATCH / name
    path.write_bytes(content)
    return path


def _signed(content: bytes, **fields: str) -> bytes:
    """A JSON object with these fields and a right checksum: a wrong one would hide what else is wrong."""
    try:
        return json.dumps(with_checksum(json.loads(content) | fields)).encode()
    except Exception:
        return content


def _pack(path: Path) -> None:
    target = SCRATCH / "packed"
    shutil.rmtree(target, ignore_errors=True)
    tiny.packed(path, target)


# --- archives ----------------------------------------------------------------------------------


def _zip_seeds() -> list[bytes]:
    def zipped(method: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, blob in CONTENT.items():
                archive.writestr(f"Dataset/{name}", blob)
        return buffer.getvalue()

    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return [zipped(method) for method in methods]


def _tar_seeds() -> list[bytes]:
    def tarred(format: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
            for name, blob in CONTENT.items():
                info = tarfile.TarInfo(f"{'Dataset' * (20 if format == tarfile.GNU_FORMAT else 1)}/{name}")
                info.size, info.mtime = len(blob), 1.5  # type: ignore[assignment]
                archive.addfile(info, io.BytesIO(blob))
            link = tarfile.TarInfo(f"link/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        return buffer.getvalue()

    return [tarred(format) for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def _with_checksums(content: bytes) -> bytes:
    """The tar with right checksums in its headers: a wrong one would hide what else is wrong."""
    blocks, position = bytearray(content), 0
    while len(header := blocks[position : position + 512]) == 512 and any(header):
        header[148:156] = b" " * 8
        blocks[position + 148 : position + 156] = b"%06o\0 " % sum(header)
        size = bytes(header[124:136]).rstrip(b" \0")
        position += 512 + (-(-int(size, 8) // 512) * 512 if size.isdigit() and not set(size) & set(b"89") else 0)
    return bytes(blocks)


def _streamed(content: bytes) -> None:
    """A tar compressed in one of three ways, whole or broken there."""
    if not content:
        return
    compress = (gzip.compress, bz2.compress, lzma.compress)[content[0] % 3]
    packed = compress(_with_checksums(content[2:]))
    _pack(_file("a.tar", packed[: len(packed) * (1 + content[1]) // 256]))


# --- .pt files -----------------------------------------------------------------------------------


def _pt_seeds() -> list[bytes]:
    tensor = torch.zeros(3, 40)
    values = [tensor, tensor.double(), torch.nn.Parameter(tensor), tensor.expand(3, 40), {"a": [tensor, 1.5]}]
    old = io.BytesIO()
    torch.save(tensor, old, _use_new_zipfile_serialization=False)
    return [*(tiny.tensor(value) for value in values), old.getvalue(), next(iter(_zip_seeds()))]


def _members_of_pt(content: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def _pickles() -> list[bytes]:
    return [dict(_members_of_pt(seed))["archive/data.pkl"] for seed in _pt_seeds()[:5]]


@cache
def _rest_of_pt() -> dict[str, bytes]:
    return dict(_members_of_pt(_pt_seeds()[0]))


def _read_pickle(content: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, blob in (_rest_of_pt() | {"archive/data.pkl": content}).items():
            archive.writestr(name, blob)
    read_features("fuzzed", bytearray(buffer.getvalue()))


def _checkpoint_seeds() -> list[bytes]:
    state = {"layout": [["w", [2]]], "weights": torch.zeros(2), "buffers": {"b": torch.zeros((), dtype=torch.int64)}}
    path = SCRATCH / "checkpoint.pt"
    save_checkpoint(path, state | {"scale": None, "step": 300, "seconds": 1.5, "rng": torch.get_rng_state()[:16]})
    return [path.read_bytes()]


# --- tables, records ---------------------------------------------------------------------------


def _read_tables(content: bytes) -> None:
    read_tables(dict(zip(TABLES, content.split(_CUT), strict=False)))


@cache
def bench(name: str = "workspace") -> Bench:
    """A workspace with a member and logits from elsewhere."""
    root = SCRATCH / name
    tiny.packed(tiny.as_folder(root / "source", tiny.files(train=6)), root / "data" / "store")
    made = Bench(root)
    made.member("sample")
    logits = made.workspace.root
    np.save(logits / "oof.npy", np.zeros((len(made.store.train_rows), 4), np.float32))
    np.save(logits / "test.npy", np.zeros((len(made.store.test_rows), 4), np.float32))
    return made


def _csv_seeds() -> list[bytes]:
    store = bench().store
    rows = [f"{name},{store.speakers[0]}\r\n" for name in store.test_ids]
    return ["".join(["\ufeffId,Category\r\n", *rows]).encode(), b'Id,Category\n"a","b"\n\na,b,c\n']


def _read_csv(content: bytes) -> None:
    path = _file("a.csv", content)
    load_submission(path, bench().store.test_ids, bench().store.speakers)


def _read_answers(content: bytes) -> None:
    Answers.read(_file("labels.csv", content)).score(content)


def _store_seeds() -> list[bytes]:
    folder = bench().store.folder
    return [(folder / "store.json").read_bytes() + _CUT + (folder / "index.csv").read_bytes()]


def _open_store(content: bytes) -> None:
    header, _, index = content.partition(_CUT)
    folder = SCRATCH / "store"
    folder.mkdir(exist_ok=True)
    (folder / "index.csv").write_bytes(index)
    if not (folder / "frames.bin").exists():
        shutil.copy(bench().store.folder / "frames.bin", folder)
    (folder / "store.json").write_bytes(_signed(header, index=file_hash(folder / "index.csv")))
    store = open_store(folder)
    pooled(store)
    store.test_ids  # noqa: B018


def _run_seeds() -> list[bytes]:
    run = Run(bench().workspace.runs / "sample-s0" / "fold0")
    log = b'{"step": 20, "loss": 1.5}\n{"step": 40, "loss": NaN, "accuracy": 0.5}\n'
    return [_CUT.join([run.record.read_bytes(), run.result.read_bytes(), log])]


def _read_run(content: bytes) -> None:
    b = bench("runs")  # one of its own, whose runs are spoilt
    run = Run(b.workspace.runs / "sample-s0" / "fold0")
    parts = ([*content.split(_CUT), b"", b""])[:3]
    for path, part in zip((run.record, run.result, run.log), parts, strict=True):
        path.write_bytes(_signed(part))
    run.log_lines()
    _each(
        lambda: read_board(b.workspace, competition(tiny.SLUG)),
        lambda: load_member(b.workspace, b.store, b.folds, "sample-s0"),
        lambda: job_of(run),
    )


def _each(*actions: Callable[[], Any]) -> None:
    """Do all; what one refuses the others may take."""
    from kaggle_hw4.errors import HW4Error

    for action in actions:
        with suppress(HW4Error):
            action()


def _record_seeds() -> list[bytes]:
    from kaggle_hw4.ensemble.blend import make_ensemble

    b = bench()
    made = make_ensemble(b.workspace, b.store, b.folds, [])
    return [made.file.with_suffix(".json").read_bytes()]


def _read_record(content: bytes) -> None:
    b = bench()
    csv = b.workspace.submissions / "fuzzed.csv"
    if not csv.exists():
        csv.parent.mkdir(exist_ok=True)
        csv.write_bytes(_csv_seeds()[0])
    csv.with_suffix(".json").write_bytes(_signed(content, csv=file_hash(csv)))
    _each(lambda: read_record(csv), lambda: read_board(b.workspace, competition(tiny.SLUG)))


@cache
def _small() -> Job:
    """A job whose model is small."""
    return Job("sample", replace(variant("sample"), layers=1, d_model=8, heads=1, feedforward=8), 7, 0)


def _weights_seeds() -> list[bytes]:
    b, job = bench(), _small()
    run = run_of(b.workspace, job)
    run.folder.mkdir(parents=True, exist_ok=True)
    claim(run, identity(job, b.store, b.folds))
    made_from = {"run": json.dumps(identity(job, b.store, b.folds))}
    return [save(SpeakerClassifier(job.variant, 4).state_dict(), made_from)]


def _read_weights(content: bytes) -> None:
    b, run = bench(), run_of(bench().workspace, _small())
    run.weights.write_bytes(content)
    write_json(run.result, {"weights": file_hash(run.weights)})
    trained_model(b.workspace, _small(), b.store, b.folds)


def _folds_seeds() -> list[bytes]:
    return [bench().workspace.folds_file.read_bytes()]


def _npy_seeds() -> list[bytes]:
    shape = (len(bench().store.train_rows), 4)
    seeds = []
    for array in (np.zeros(shape, np.float32), np.asfortranarray(np.zeros(shape)), np.zeros(shape, "O")):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        seeds.append(buffer.getvalue())
    return seeds


def _read_npy(content: bytes) -> None:
    b = bench()
    added_member(b.store, b.folds, "added", _file("oof.npy", content), b.workspace.root / "test.npy")


def _ledger_seeds() -> list[bytes]:
    path = SCRATCH / "seed.sqlite"
    row = Row("hw4-1", tiny.SLUG, "n", "f.csv", "abc", "2023-04-01T00:00:00Z", "complete", 7, "0.9", "0.8")
    Ledger(path).add(row)
    with closing(sqlite3.connect(SCRATCH / "old.sqlite")) as old, old:
        columns = "id, competition, name, file, csv_hash, created, state, ref, public, private, error, ensemble"
        old.execute(f"CREATE TABLE submissions ({columns})")
        old.execute("PRAGMA user_version = 1")
    return [path.read_bytes(), (SCRATCH / "old.sqlite").read_bytes()]


def _read_ledger(content: bytes) -> None:
    Ledger(_file("ledger.sqlite", content)).all(tiny.SLUG)


# --- answers and requests ------------------------------------------------------------------------


def _answer_seeds() -> list[bytes]:
    headers = ("Content-Length: 12", "x-goog-hash: crc32c=x,md5=1B2M2Y8AsgTpgAmyPhCfg==", 'ETag: W/"x"')
    retry = ("Retry-After: 1e999", "Date: Mon, 01 Jan 2024 00:00:00 GMT", "Content-Type: application/json")
    return ["\n".join((*headers, *retry)).encode() + _CUT + b'{"error": {"message": "no"}}']


def _read_answer(content: bytes) -> None:
    from requests import Response
    from requests.structures import CaseInsensitiveDict

    head, _, body = content.partition(_CUT)
    answer = Response()
    answer._content, answer.status_code = body, 429
    answer.request = SimpleNamespace(method="POST")  # type: ignore[assignment]
    lines = (line.partition(": ") for line in head.decode("latin-1").splitlines())
    answer.headers = CaseInsensitiveDict({name: value for name, _, value in lines})
    archive_file.Expected.of(answer.headers)
    credential = kaggle_calls.Credential("key", "here", "nothing")
    kaggle_calls._answered(answer, competition(tiny.SLUG), credential)


def _request_seeds() -> list[bytes]:
    service = "POST /api/v1/competitions.CompetitionApiService/"
    calls = {
        "StartSubmissionUpload": {"competitionName": tiny.SLUG, "contentLength": 1, "fileName": "a.csv"},
        "ListSubmissions": {"page": 1, "pageSize": 2, "pageToken": "x"},
        "CreateSubmission": {"blobFileTokens": "x", "submissionDescription": "\ud800"},
        "DownloadDataFile": {"fileName": "Dataset/metadata.json"},
        "GetSubmission": {"ref": 1},
    }
    seeds = [f"{service}{name}".encode() + _CUT + json.dumps(call).encode() for name, call in calls.items()]
    return [*seeds, b"PUT /uploads/x/a.csv" + _CUT + _csv_seeds()[0], b"GET /blobs/files/%2e%2e/labels.csv" + _CUT]


@cache
def _server() -> Any:
    folder = SCRATCH / "competition"
    tiny.as_zip(folder / f"{tiny.SLUG}.zip", CONTENT)
    (folder / "labels.csv").write_bytes(_csv_seeds()[0])
    return build_app(Rehearsal(folder, scoring_seconds=0.0))


def _request(content: bytes) -> None:
    line, _, body = content.partition(_CUT)
    method, _, raw = line.partition(b" ")
    headers = [(b"host", b"localhost"), (b"authorization", b"Basic x")]
    scope = {"type": "http", "method": method.decode("latin-1"), "headers": headers, "query_string": b""}
    scope |= {"path": raw.decode("latin-1"), "raw_path": raw, "http_version": "1.1", "scheme": "http"}
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    asyncio.run(_server()(scope, receive, send))
    assert statuses[0] < 500, statuses


TARGETS = {
    "zip": Target(_zip_seeds, lambda content: _pack(_file("a.zip", content))),
    "tar": Target(_tar_seeds, lambda content: _pack(_file("a.tar", _with_checksums(content)))),
    "tar-stream": Target(lambda: [bytes([i, 255]) + seed for i, seed in enumerate(_tar_seeds())], _streamed),
    "pt": Target(_pt_seeds, lambda content: read_features("fuzzed", bytearray(content))),
    "pickle": Target(_pickles, _read_pickle),
    "checkpoint": Target(_checkpoint_seeds, lambda content: load_checkpoint(_file("c.pt", content))),
    "tables": Target(lambda: [_CUT.join(CONTENT[name] for name in TABLES)], _read_tables),
    "csv": Target(_csv_seeds, _read_csv),
    "answers": Target(_csv_seeds, _read_answers),
    "store": Target(_store_seeds, _open_store),
    "folds": Target(_folds_seeds, lambda content: load_folds(bench().store, _file("folds.json", _signed(content)))),
    "run": Target(_run_seeds, _read_run),
    "record": Target(_record_seeds, _read_record),
    "weights": Target(_weights_seeds, _read_weights),
    "npy": Target(_npy_seeds, _read_npy),
    "ledger": Target(_ledger_seeds, _read_ledger),
    "kaggle": Target(_answer_seeds, _read_answer),
    "request": Target(_request_seeds, _request),
}
