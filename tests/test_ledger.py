"""The ledger of submissions."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from kaggle_hw4.errors import DataError
from kaggle_hw4.ledger import Ledger, Row

ROW = Row("hw4-1", "comp", "first", "submissions/first.csv", "abc", "2023-04-01T00:00:00.000Z", "sending")


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "deep" / "ledger.sqlite")
    ledger.add(ROW)
    row = ledger.update("hw4-1", state="complete", ref=7, public="0.96200", private="0.95875")
    assert Ledger(ledger.path).all("comp") == [row]
    assert (row.state, row.ref, row.public, row.private, row.error) == (
        "complete",
        7,
        "0.96200",
        "0.95875",
        "",
    )


def test_find_by_content_newest_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    later = Row("hw4-2", "comp", "again", "f", "abc", "2023-04-02T00:00:00.000Z", "sent")
    for row in (
        ROW,
        later,
        Row("hw4-3", "other", "n", "f", "abc", ROW.created, "sent"),
        Row("hw4-4", "comp", "n", "f", "xyz", ROW.created, "sent"),
    ):
        ledger.add(row)
    assert ledger.find("comp", "abc") == [later, ROW]


def test_reading_makes_no_file(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.sqlite").all("comp") == []
    assert list(tmp_path.iterdir()) == []


def test_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for use in (lambda: Ledger(path).add(ROW), lambda: Ledger(path).all("comp")):
        with pytest.raises(DataError, match="newer kaggle-hw4"):
            use()
    assert path.read_bytes() == before


VERSION_1 = """
CREATE TABLE submissions (
    id TEXT PRIMARY KEY, competition TEXT NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL, csv_hash TEXT NOT NULL,
    created TEXT NOT NULL, state TEXT NOT NULL, ref INTEGER, public TEXT, private TEXT, error TEXT NOT NULL,
    ensemble TEXT NOT NULL
)
"""


@pytest.mark.parametrize("first", ["read", "write"])
def test_an_older_version_is_migrated_and_a_copy_kept(tmp_path: Path, first: str) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(VERSION_1)
        connection.execute("PRAGMA user_version = 1")
        values = ("hw4-1", "comp", "first", "f.csv", "abc", "2023", "complete", 7, "0.9", "0.8", "", "made")
        connection.execute(f"INSERT INTO submissions VALUES ({', '.join('?' * 12)})", values)
    ledger = Ledger(path)
    if first == "write":
        assert ledger.update("hw4-1", place=3, teams=9).place == 3
    (row,) = ledger.all("comp")
    assert (row.name, row.ref, row.public, row.ensemble) == ("first", 7, "0.9", "made")
    with closing(sqlite3.connect(tmp_path / "ledger.v1.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT * FROM submissions").fetchall() == [values]
    kept = (tmp_path / "ledger.v1.sqlite").read_bytes()
    ledger.update("hw4-1", place=4, teams=9)
    assert (tmp_path / "ledger.v1.sqlite").read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ledger.sqlite", "ledger.v1.sqlite"]


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(DataError, match=r"ledger\.sqlite"):
        Ledger(path).all("comp")


def test_a_file_left_empty_by_a_kill_is_an_empty_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.path.touch()
    assert ledger.all("comp") == []
    ledger.add(ROW)
    assert ledger.all("comp") == [ROW]


def test_another_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE other (x)")
    before = path.read_bytes()
    for use in (lambda: Ledger(path).all("comp"), lambda: Ledger(path).add(ROW)):
        with pytest.raises(DataError, match="no ledger"):
            use()
    assert path.read_bytes() == before


def test_a_failed_change_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(ROW)
    with pytest.raises(DataError, match="UNIQUE"):
        ledger.add(ROW)
    assert ledger.all("comp") == [ROW]


def test_processes_write_side_by_side(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from kaggle_hw4.ledger import Ledger, Row\n"
        "for number in range(20):\n"
        "    Ledger(Path(sys.argv[1])).add(Row(f'{sys.argv[2]}-{number}', 'comp', 'n', 'f', 'h', '', 'sent'))\n"
    )
    path = tmp_path / "ledger.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(Ledger(path).all("comp")) == 60
