"""The report's ladder beside its published column."""

import numpy as np
import pytest
from jobs_done import Session, small

from benchmarks import ladder
from kaggle_hw4.errors import DataError
from kaggle_hw4.runs import Job, run_of


def test_trained_rungs_stand_beside_the_published_ones(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, store, folds = session.workspace, session.store, session.folds
    with pytest.raises(DataError, match="no rung"):
        ladder.main(workspace.root)
    rungs = ("sample", "transformer-2-heads-2")
    for name in rungs:
        for fold in (0, 2):
            session.do(Job(name, small(name), 0, fold))
    for fold in (0, 2):  # the upper rung names nobody rightly, the lower one everybody
        labels = store.labels[folds.validation_rows(fold)]
        right = np.eye(len(store.speakers), dtype=np.float32)[labels]
        np.save(run_of(workspace, Job(rungs[0], small(rungs[0]), 0, fold)).oof, right)
        np.save(run_of(workspace, Job(rungs[1], small(rungs[1]), 0, fold)).oof, -right)
    ladder.main(workspace.root)
    lines = capsys.readouterr().out.splitlines()
    n = sum(len(folds.validation_rows(fold)) for fold in (0, 2))
    assert lines[2].startswith("| 1 | sample | 0.6716 |  |")
    assert lines[3].startswith("| 2 | transformer-2-heads-2 | 0.7140 | 0.88475 |")
    assert f"| 0, 2 | {n} |" in lines[2]
    assert lines[-1] == f"- `transformer-2-heads-2` against `sample`: -100.00 ± 0.00 points (n = {n})"
