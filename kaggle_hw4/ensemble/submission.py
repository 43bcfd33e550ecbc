"""The file that is sent, and the record beside it that says what it was made from."""

from pathlib import Path

import pandas as pd

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.workspace import Workspace, atomic_path, file_hash, read_json


def record_of(csv: Path) -> Path:
    """The JSON file beside a submission that says what it was made from."""
    return csv.with_suffix(".json")


def recorded_name(workspace: Workspace, csv: Path) -> str:
    """The name of the ensemble whose file this still is, byte for byte; "" for any other file."""
    record = record_of(csv)
    ours = csv.resolve().parent == workspace.submissions.resolve() and record.exists()
    return csv.stem if ours and read_json(record, f"Delete {record}.").get("csv") == file_hash(csv) else ""


def write_submission(path: Path, ids: list[str], speakers: list[str]) -> None:
    """Write the CSV that Kaggle takes: header `Id,Category`, a row per test utterance."""
    with atomic_path(path) as temporary:
        pd.DataFrame({ID_COLUMN: ids, LABEL_COLUMN: speakers}).to_csv(temporary, index=False)
