"""The report's ladder beside its published column."""

import shutil

import numpy as np
import pytest
from jobs_done import Session, small

from benchmarks import ladder
from kaggle_hw4.errors import DataError
from kaggle_hw4.runs import Job


def test_trained_rungs_stand_beside_the_published_ones(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, store, folds = session.workspace, session.store, session.folds
    output = workspace.root / "ladder.json"
    with pytest.raises(DataError, match="no rung"):
        ladder.main(workspace.root, output)
    rungs = ("sample", "transformer-2-heads-2")
    for i, name in enumerate(rungs):  # the lower rung names everybody rightly, the upper one nobody
        for fold in (0, 2):
            run = session.do(Job(name, small(name), 0, fold))
            right = np.eye(len(store.speakers), dtype=np.float32)[store.labels[folds.validation_rows(fold)]]
            np.save(run.oof, -right if i else right)
    ladder.main(workspace.root, output)
    lines = capsys.readouterr().out.splitlines()
    n = sum(len(folds.validation_rows(fold)) for fold in (0, 2))
    assert lines[2].startswith(f"| 1 | sample | 0.6716 |  | 12 | 0, 2 | {n} | 1.0000 |")
    assert lines[3].startswith(f"| 2 | transformer-2-heads-2 | 0.7140 | 0.88475 | 12 | 0, 2 | {n} | 0.0000 |")
    assert lines[5] == f"- `transformer-2-heads-2` against `sample`: -100.00 ± 0.00 points (n = {n})"
    shutil.rmtree(workspace.runs)
    ladder.main(workspace.root, output)  # from the figures
    assert capsys.readouterr().out.splitlines() == lines
