"""The file that is sent, and the record beside it that says what it was made from."""

from pathlib import Path

import pandas as pd

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import Workspace, atomic_path, file_hash, read_json

# Without the members' names it would be another: that of all members.
MADE_AGAIN = "an ensemble of the same members makes it again: kaggle-hw4 ensemble NAME …"


def record_of(csv: Path) -> Path:
    """The JSON file beside a submission that says what it was made from."""
    return csv.with_suffix(".json")


def has_record(workspace: Workspace, csv: Path) -> bool:
    """Whether a file is a submission of the workspace beside the record of what it was made from."""
    record = record_of(csv)
    if csv.resolve().parent != workspace.submissions.resolve() or not record.exists():
        return False
    return isinstance(read_json(record, f"Delete {record}; {MADE_AGAIN}"), dict)


def recorded_name(workspace: Workspace, csv: Path) -> str:
    """The name of the ensemble whose file this is; "" for a file without a record.

    Raises:
        DataError: it is not the file that was written, or its record is damaged.
    """
    if not has_record(workspace, csv):
        return ""
    if read_json(record_of(csv), "").get("csv") != file_hash(csv):
        raise DataError(
            f"{csv} is not the file that was written: its checksum differs",
            f"A file of your own needs a name of its own. Else delete it; {MADE_AGAIN}",
        )
    return csv.stem


def write_submission(path: Path, ids: list[str], speakers: list[str]) -> None:
    """Write the CSV that Kaggle takes: header `Id,Category`, a row per test utterance."""
    with atomic_path(path) as temporary:
        pd.DataFrame({ID_COLUMN: ids, LABEL_COLUMN: speakers}).to_csv(temporary, index=False)
