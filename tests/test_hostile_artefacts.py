"""Tables, submissions, logits, ledgers, records and Kaggle's answers from anyone: only the documented error."""

import io
import json
import os
import pickle
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from hostile import CONTENT, DEEP, MIB, Touch, bounded, zipped
from written import Bench

from fuzz.targets import bench
from kaggle_hw4.archive_file import Expected
from kaggle_hw4.board import read_board
from kaggle_hw4.competition import competition
from kaggle_hw4.credentials import Credential
from kaggle_hw4.data.store import open_store
from kaggle_hw4.data.tables import read_tables
from kaggle_hw4.ensemble.members import added_member, load_member
from kaggle_hw4.ensemble.recorded import read_record
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import load_folds
from kaggle_hw4.kaggle_calls import _answered
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.runs import Run, job_of
from kaggle_hw4.submission_file import load_submission
from kaggle_hw4.terminal import say
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, check_fields, file_hash, parse_json, read_json, write_json


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


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content


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
    run = Run(b.workspace.runs / "sample-s0" / "fold0")
    write_json(run.result, run.read_result() | {field: value})
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
    write_json(csv.with_suffix(".json"), record | {"csv": file_hash(csv)})
    for read in (lambda: read_board(Workspace(tmp_path), competition(tiny.SLUG)), lambda: read_record(csv)):
        with pytest.raises(DataError, match=r"a\.json is not the record of an ensemble") as error:
            read()
        assert "an ensemble of the same members makes it again" in error.value.remedy  # `ensemble` alone: of all


@pytest.mark.parametrize(
    "change", [{"k": 10**12}, {"k": True}, {"seed": "0"}, {"k": "3"}, {"fold_of": []}, {"fold_of": {}}]
)
def test_a_split_of_other_things_is_refused_at_once(tmp_path: Path, change: dict[str, Any]) -> None:
    b = bench()
    path = tmp_path / "folds.json"
    write_json(path, read_json(b.workspace.folds_file, "") | change)
    with bounded(), pytest.raises(DataError, match=r"folds\.json"):
        load_folds(b.store, path)


@pytest.mark.parametrize(
    "change",
    [{"heads": 0}, {"d_model": 10**9}, {"lr": "x"}, {"also_crops": "ab"}, {"lr": float("inf")}, {"steps": True}],
)
def test_a_recipe_of_other_things_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    recipe = variant("sample").recipe() | change
    write_json(tmp_path / "run.json", {"variant": "sample", "recipe": recipe, "seed": 0, "fold": 0})
    with pytest.raises(DataError, match=next(iter(change))):
        job_of(Run(tmp_path))


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


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_an_index_with_a_number_beyond_all_is_refused(tmp_path: Path, number: int) -> None:
    store = tiny.store(tmp_path)
    index, header = store.folder / "index.csv", store.folder / "store.json"
    index.write_text(index.read_text().replace(",0,", f",{number},", 1))
    write_json(header, read_json(header, "") | {"index": file_hash(index)})
    with pytest.raises(DataError, match="is damaged"):
        open_store(store.folder)
