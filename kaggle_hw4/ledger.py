"""The ledger of submissions: one SQLite file, safe under several processes at once."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import atomic_path, content_hash, storage_errors

_VERSION = 3
_SCHEMA = """
CREATE TABLE submissions (
    id          TEXT PRIMARY KEY,
    competition TEXT NOT NULL,
    name        TEXT NOT NULL,
    file        TEXT NOT NULL,
    csv_hash    TEXT NOT NULL,
    created     TEXT NOT NULL,
    state       TEXT NOT NULL,
    ref         INTEGER,
    public      TEXT,
    private     TEXT,
    error       TEXT NOT NULL,
    ensemble    TEXT NOT NULL,
    place       INTEGER,
    teams       INTEGER,
    checksum    TEXT NOT NULL DEFAULT ''
)
"""

_MOVED_AWAY = "Was it moved away or changed meanwhile? `kaggle-hw4 board --sync` brings what was sent back from Kaggle."
_MOVE_AWAY = "If it is damaged, move it away; `kaggle-hw4 board --sync` brings Kaggle's scores back."

# From each version to the next.
_MIGRATIONS = {
    1: (
        "ALTER TABLE submissions ADD COLUMN place INTEGER",
        "ALTER TABLE submissions ADD COLUMN teams INTEGER",
    ),
    2: ("ALTER TABLE submissions ADD COLUMN checksum TEXT NOT NULL DEFAULT ''",),
}

# A view or a trigger in a file from elsewhere is a program, which may never end.
_FOREIGN = "SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index') OR tbl_name != 'submissions'"

State = Literal["sending", "sent", "complete", "error"]


@dataclass(frozen=True)
class Row:
    """One submission.

    `id` is in the description given to Kaggle, so that the submission can be found there.
    `state`: sending (may or may not have reached Kaggle), sent (not scored yet), complete, error
    (with a `ref`: Kaggle's verdict on the file; without: it never became a submission).
    The scores are strings as Kaggle gives them, `created` is UTC in ISO format, `ensemble` names
    the record of what the file was made from. A submission made elsewhere has no `csv_hash`.
    `place` is where its public score stands among so many `teams`, when that was last looked up.
    """

    id: str
    competition: str
    name: str
    file: str
    csv_hash: str
    created: str
    state: State
    ref: int | None = None
    public: str | None = None
    private: str | None = None
    error: str = ""
    ensemble: str = ""
    place: int | None = None
    teams: int | None = None


def number(score: str | None) -> float | None:
    """A score as a number; None for what is none."""
    try:
        value = float(score or "nan")
    except ValueError:
        return None
    return value if isfinite(value) else None


_COLUMNS = [field.name for field in fields(Row)]
_KINDS = get_type_hints(Row) | {"state": str}
_STATES = get_args(State)


def _checksum(row: Row) -> str:
    return content_hash(astuple(row))


class Ledger:
    """The rows in `path`; the file is made by the first `add`.

    Every method raises DataError when the file is no ledger, is one of a newer version, or cannot
    be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, row: Row) -> Row:
        """Record a new submission; gives its row. Raises DataError where the ledger cannot be written."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            names, marks = ", ".join([*_COLUMNS, "checksum"]), ", ".join("?" * (len(_COLUMNS) + 1))
            connection.execute(f"INSERT INTO submissions ({names}) VALUES ({marks})", (*astuple(row), _checksum(row)))
        return row

    def update(self, id: str, **changes: Any) -> Row:
        """Change columns of one row and give the row as it is then. Raises DataError where it is gone."""
        with self._connection() as connection:
            found = _rows(connection, "WHERE id = ?", id)
            if not found:
                raise DataError(f"{self.path} has no {id!r} any more", _MOVED_AWAY)
            row = replace(found[0], **changes)
            assignments = ", ".join(f"{name} = ?" for name in [*changes, "checksum"])
            values = (*changes.values(), _checksum(row), id)
            connection.execute(f"UPDATE submissions SET {assignments} WHERE id = ?", values)
            return row

    def find(self, competition: str, csv_hash: str) -> list[Row]:
        """The submissions of files with this content, newest first."""
        return self._select("WHERE competition = ? AND csv_hash = ?", competition, csv_hash)

    def all(self, competition: str) -> list[Row]:
        """All submissions to this competition, newest first."""
        return self._select("WHERE competition = ?", competition)

    def _select(self, where: str, *values: str) -> list[Row]:
        if not self.path.exists():
            return []
        with self._connection(write=False) as connection:
            return _rows(connection, where, *values)

    @contextmanager
    def _connection(self, write: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, in SQLite's own rollback mode: its WAL mode is not safe on network disks."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30.0, isolation_level=None)) as connection:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)  # bytes of a value
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("BEGIN IMMEDIATE" if write or self._version(connection) < _VERSION else "BEGIN")
                version = self._version(connection)
                if version > _VERSION:
                    raise DataError(
                        f"{self.path} was written by a newer kaggle-hw4 (version {version} of the table)",
                        "Upgrade kaggle-hw4, or use another workspace with --root DIR.",
                    )
                if version < 0 or connection.execute(_FOREIGN).fetchone():
                    raise DataError(f"{self.path} is a database, but no ledger", "Move it away.")
                if version == 0:  # new, or made by a process that was killed before it wrote
                    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                        raise DataError(f"{self.path} is a database, but no ledger", "Move it away.")
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
                elif version < _VERSION:
                    self._migrate(connection, version)
                yield connection
                connection.execute("COMMIT")  # an exception closes the connection, which rolls back
        except UnicodeDecodeError as error:  # in a message of SQLite's that quotes the file
            raise DataError(f"{self.path} is damaged: {error}", _MOVE_AWAY) from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path}: {error}", _remedy(error)) from error

    @staticmethod
    def _version(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        """Bring the table of an older version up to this one; the file as it was stays beside it."""
        # Nobody else writes while this transaction lasts, and it has written nothing yet. By SQLite itself: closing
        # the file anywhere else in this process would give up the transaction's locks.
        with (
            atomic_path(self.path.with_name(f"{self.path.stem}.v{version}{self.path.suffix}")) as copy,
            closing(sqlite3.connect(self.path)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        for statement in (statement for step in range(version, _VERSION) for statement in _MIGRATIONS[step]):
            connection.execute(statement)
        if version < 3:  # from which on rows have checksums
            for row in _rows(connection, "", checked=False):
                connection.execute("UPDATE submissions SET checksum = ? WHERE id = ?", (_checksum(row), row.id))
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _remedy(error: sqlite3.DatabaseError) -> str:
    """Only a file that is damaged may be moved away: the ledger is what keeps a file from being sent twice."""
    primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _MOVE_AWAY
    return "It is whole: free the disk, make it writable, or let the other process finish; then run the command again."


def _rows(connection: sqlite3.Connection, where: str, *values: str, checked: bool = True) -> list[Row]:
    columns = ", ".join([*_COLUMNS, "checksum"])
    found = connection.execute(f"SELECT {columns} FROM submissions {where} ORDER BY created DESC, rowid DESC", values)
    rows = []
    for *columns_of_row, checksum in found:
        rows.append(row := Row(*columns_of_row))
        if any(not isinstance(getattr(row, name), kind) for name, kind in _KINDS.items()) or row.state not in _STATES:
            raise DataError(f"{row.id!r} in the ledger is no submission", _MOVE_AWAY)
        if checked and checksum != _checksum(row):
            raise DataError(f"{row.id!r} in the ledger is not as it was written: its checksum differs", _MOVE_AWAY)
    return rows
