"""The competition behind the local server: its archive, its answers, and the submissions made so far."""

import base64
import csv
import hashlib
import io
import time
import zipfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kaggle_hw4.competition import DAILY_SLOTS, ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.data.archive import DAMAGE
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import read_json, write_json

SCORING_SECONDS = 0.5
_MOST_UPLOADS = 16  # that wait for their submission
TEAM = "rehearsal"


class Refusal(Exception):
    """What the server tells a client whose request it will not carry out."""


@dataclass(frozen=True)
class Answers:
    """The labels of the test utterances, in two fixed halves."""

    public: dict[str, str]
    private: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Answers":
        """Raises DataError when the file is missing or is not a table `Id,Category` of distinct ids."""
        try:
            labels = _read_table(path.read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing", "It holds the answers, one row Id,Category per test utterance."
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: {error}", "It must hold the columns Id,Category, one row per test utterance."
            ) from error
        if len(labels) < 2:
            raise DataError(f"{path} has {len(labels)} rows", "A public and a private half need two at least.")
        # Ordered by a hash of the id: looks random, yet is the same for every server and every run.
        ids = sorted(labels, key=lambda name: hashlib.sha256(name.encode()).digest())
        half = len(ids) // 2
        return cls({name: labels[name] for name in ids[:half]}, {name: labels[name] for name in ids[half:]})

    def score(self, csv_bytes: bytes) -> tuple[str, str]:
        """Public and private accuracy as Kaggle writes them. Raises ValueError saying why there are none."""
        predicted = _read_table(csv_bytes)
        expected = len(self.public) + len(self.private)
        if len(predicted) != expected:
            raise ValueError(f"Submission must have {expected} rows, this one has {len(predicted)}")
        for name in (*self.public, *self.private):
            if name not in predicted:
                raise ValueError(f"{ID_COLUMN} {name} is missing from the submission")
        return _accuracy(self.public, predicted), _accuracy(self.private, predicted)


def _accuracy(labels: dict[str, str], predicted: dict[str, str]) -> str:
    return f"{sum(predicted[name] == label for name, label in labels.items()) / len(labels):.5f}"


def _read_table(content: bytes) -> dict[str, str]:
    """Id → Category. Raises ValueError naming what is wrong."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    if not rows or rows[0] != [ID_COLUMN, LABEL_COLUMN]:
        raise ValueError(f"the first line must be {ID_COLUMN},{LABEL_COLUMN}")
    table: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 2 or not row[0]:
            raise ValueError(f"row {number} is not {ID_COLUMN},{LABEL_COLUMN}")
        if row[0] in table:
            raise ValueError(f"row {number} repeats {ID_COLUMN} {row[0]}")
        table[row[0]] = row[1]
    return table


@dataclass(frozen=True)
class Entry:
    """One submission as stored. `due` is when its scoring is over, in seconds of the epoch."""

    ref: int
    date: str
    due: float
    description: str
    file_name: str
    total_bytes: int
    public: str = ""
    private: str = ""
    error: str = ""

    def answer(self) -> dict[str, Any]:
        """The submission as Kaggle's API shows it now; fields at their default are left out there too."""
        answer: dict[str, Any] = {
            "ref": self.ref,
            "date": self.date,
            "description": self.description,
            "fileName": self.file_name,
            "totalBytes": self.total_bytes,
            "teamName": TEAM,
        }
        if time.time() < self.due:
            return answer | {"status": "PENDING"}
        if self.error:
            return answer | {"status": "ERROR", "errorDescription": self.error}
        return answer | {"status": "COMPLETE", "publicScore": self.public, "privateScore": self.private}


class Rehearsal:
    """One competition: its archive, its answers and the submissions made so far."""

    def __init__(self, folder: Path, *, scoring_seconds: float = SCORING_SECONDS) -> None:
        """Raises DataError when the folder does not hold one readable archive and its answers."""
        archives = sorted(folder.glob("*.zip"))
        if len(archives) != 1:
            raise DataError(
                f"{folder} holds {len(archives)} zip files instead of one",
                "Make a competition with: kaggle-hw4 rehearsal make DIR",
            )
        self.archive = archives[0]
        self.slug = self.archive.stem
        try:
            with zipfile.ZipFile(self.archive) as archive:
                self.members = [info for info in archive.infolist() if not info.is_dir()]
            with open(self.archive, "rb") as file:
                self.md5 = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
        except DAMAGE as error:
            raise DataError(f"{self.archive} is no readable zip file: {error}", "Make it anew.") from error
        self.answers = Answers.read(folder / "labels.csv")
        self.scoring_seconds = scoring_seconds
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self._file = folder / "server.json"
        self.entries = self._read_entries()

    def _read_entries(self) -> list[Entry]:
        if not self._file.exists():
            return []
        remedy = "Move it away to start with an empty list of submissions."
        stored = read_json(self._file, remedy)
        try:
            return [Entry(**entry) for entry in stored]
        except TypeError as error:
            raise DataError(f"{self._file} is not a list of submissions: {error}", remedy) from error

    def used_today(self) -> int:
        today = datetime.now(UTC).date().isoformat()
        return sum(entry.date.startswith(today) for entry in self.entries)

    def keep(self, token: str, file_name: str, content: bytes) -> None:
        """Keep an upload for its submission; the oldest gives way."""
        while len(self.uploads) >= _MOST_UPLOADS:
            del self.uploads[next(iter(self.uploads))]
        self.uploads[token] = (file_name, content)

    def submit(self, token: str, description: str) -> Entry:
        """Score an upload and keep it. Raises Refusal: quota used up, no such upload."""
        if self.used_today() >= DAILY_SLOTS:
            raise Refusal(f"Submission not allowed: the limit of {DAILY_SLOTS} a day is used up.")
        if token not in self.uploads:
            raise Refusal("Submission not allowed: nothing was uploaded under this token.")
        file_name, content = self.uploads.pop(token)
        public = private = problem = ""
        try:
            public, private = self.answers.score(content)
        except (ValueError, csv.Error) as error:
            problem = str(error)
        entry = Entry(
            # From the clock: a rehearsal set up anew must not repeat references a ledger may know.
            ref=max([int(time.time()), *(entry.ref + 1 for entry in self.entries)]),
            date=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            due=time.time() + self.scoring_seconds,
            description=description,
            file_name=file_name,
            total_bytes=len(content),
            public=public,
            private=private,
            error=problem,
        )
        self.entries = [*self.entries, entry]
        write_json(self._file, [asdict(entry) for entry in self.entries])
        return entry

    def leaderboard(self, public: bool) -> list[dict[str, Any]]:
        """The one team by its best score, `public` or private; nobody before the first."""
        scored = [e for e in self.entries if e.answer()["status"] == "COMPLETE"]
        if not scored:
            return []
        best = max(scored, key=lambda entry: float(entry.public))
        score = best.public if public else best.private
        return [{"teamId": 1, "teamName": TEAM, "submissionDate": best.date, "score": score}]
