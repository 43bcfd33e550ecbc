"""A submission file, checked against the test table before anything is sent."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.workspace import Workspace, read_whole

_MOST_BYTES = 4 << 20
_REMEDY = f"A submission has the header {ID_COLUMN},{LABEL_COLUMN} and one row per test utterance."


@dataclass(frozen=True)
class SubmissionFile:
    """A valid submission: its bytes as they were read and checked, and its rows.

    `frame` has the columns Id and Category, in the file's order.
    """

    path: Path
    content: bytes
    frame: pd.DataFrame


def submission_named(workspace: Workspace, name: str) -> Path | None:
    """The file that `name` stands for: a submission of the workspace, with or without its ending, or any file.

    What has a folder in it, as `./mean.csv`, is a file first.
    """
    places = [workspace.submissions / f"{name}.csv", workspace.submissions / name, Path(name)]
    if os.path.basename(name) != name:
        places.reverse()
    # os.path knows no errors: a name may be longer than a file's. JSON is the record beside a submission.
    return next((path for path in places if path.suffix != ".json" and os.path.isfile(path)), None)


def find_submission(workspace: Workspace, name: str) -> Path:
    """As `submission_named`. Raises UsageError that lists what there is."""
    if path := submission_named(workspace, name):
        return path
    there = sorted(path.stem for path in workspace.submissions.glob("*.csv"))
    raise UsageError(f"no submission {name!r} in {workspace.submissions}, and no such file", offer(there))


def offer(submissions: Sequence[str]) -> str:
    """What to name instead of a submission that there is not."""
    if not submissions:
        return "There is none yet: kaggle-hw4 ensemble makes one."
    return f"There are: {', '.join(submissions)}."


def read_submission(path: Path, test_ids: Sequence[str], speakers: Sequence[str]) -> pd.DataFrame:
    """The rows of `load_submission`: a frame with the columns Id and Category, in the file's order."""
    return load_submission(path, test_ids, speakers).frame


def load_submission(path: Path, test_ids: Sequence[str], speakers: Sequence[str]) -> SubmissionFile:
    """Read a submission and check it against the test table; the order of its rows is free.

    A byte order mark, CRLF, quotes and empty lines are taken.

    Raises:
        DataError: naming what differs from the test table, and the line of the first row that does.
    """
    try:
        content = read_whole(path)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it has {len(content):,} bytes, a submission some 50 per row")
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "Make a submission with: kaggle-hw4 ensemble") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}", _REMEDY) from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", _REMEDY) from error
    if not rows or rows[0][1] != [ID_COLUMN, LABEL_COLUMN]:
        raise DataError(f"{path}: its first line is {','.join(rows[0][1])[:80] if rows else 'empty'!r}", _REMEDY)
    del rows[0]
    for line, row in rows:
        if len(row) != 2:
            raise DataError(f"{path}, line {line}: {len(row)} columns instead of 2", _REMEDY)
    ids = [(line, name) for line, (name, _) in rows]
    _check_ids(path, ids, test_ids)
    known = set(speakers)
    for line, (_, speaker) in rows:
        if speaker not in known:
            raise DataError(
                f"{path}, line {line}: there is no speaker {speaker[:100]!r} in the training data",
                f"{LABEL_COLUMN} is a speaker id such as {min(known, default='id00001')}.",
            )
    frame = pd.DataFrame([row for _, row in rows], columns=[ID_COLUMN, LABEL_COLUMN], dtype=str)
    return SubmissionFile(path, content, frame)


def _check_ids(path: Path, ids: list[tuple[int, str]], test_ids: Sequence[str]) -> None:
    expected = set(test_ids)
    for (line, name), in_order in zip(ids, test_ids, strict=False):
        if name not in expected:
            raise DataError(
                f"{path}, line {line}: {name[:100]!r} is not in the test table, which has {in_order!r} there",
                "Ids must be as in testdata.json, unchanged; a spreadsheet may have altered them.",
            )
    name, count = Counter(name for _, name in ids).most_common(1)[0] if ids else ("", 0)
    if count > 1:
        lines = ", ".join([str(line) for line, other in ids if other == name][:10])
        raise DataError(f"{path}: {name[:100]} stands in lines {lines}{' …' if count > 10 else ''}", _REMEDY)
    if len(ids) != len(test_ids):
        present = {name for _, name in ids}
        missing = next((name for name in test_ids if name not in present), None)
        first = f"; the first missing is {missing}" if missing else ""
        raise DataError(f"{path} has {len(ids)} rows instead of {len(test_ids)}{first}", _REMEDY)
