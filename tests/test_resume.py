"""A training that is stopped, killed or late: exact resume, checkpoints of no use. Small models of the real code."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from jobs_done import CPU, Session, after, busy, copy_of, small, trainer_of

from kaggle_hw4 import variants, verbs
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import make_folds
from kaggle_hw4.jobs.calibrate import Cost
from kaggle_hw4.jobs.plan import make_plan
from kaggle_hw4.runs import Job, claim, identity, job_of, run_of, with_steps
from kaggle_hw4.training import trainer
from kaggle_hw4.training.checkpoints import load_checkpoint, saved_groups
from kaggle_hw4.training.session import do_jobs
from kaggle_hw4.training.stopping import Stopped
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        *((name, stops) for name in ("transformer-full", "conformer-simple") for stops in ([5], [1, 4, 4], [12], [13])),
        *((name, [3, 7]) for name in variants.SETS["best"]),
    ],
)
def test_stopped_and_resumed_ends_exactly_as_undisturbed(session: Session, name: str, stops: list[int]) -> None:
    job = Job(name, busy(name) if name in variants.SETS["best"] else small(name), seed=0, fold=1)
    undisturbed = copy_of(session, "undisturbed").do(job)
    for calls in stops:
        with pytest.raises(Stopped):
            session.do(job, after(calls))
        assert not run_of(session.workspace, job).finished
        torch.manual_seed(99)  # whatever else happened in between
    run = session.do(job)
    for artefact in ("weights", "oof", "test"):
        assert getattr(run, artefact).read_bytes() == getattr(undisturbed, artefact).read_bytes()
    assert not run.checkpoint.exists()


def test_a_kill_between_weights_and_logits_is_mended(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("conformer-full", small("conformer-full"), seed=0, fold=0)
    expected = copy_of(session, "undisturbed").do(job)

    def killed(path: Path, array: np.ndarray) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("kaggle_hw4.training.artefacts._save_array", killed)
        with pytest.raises(RuntimeError, match="killed"):
            session.do(job)
    run = session.do(job)
    assert run.oof.read_bytes() == expected.oof.read_bytes()


def test_checkpoints_that_a_kill_left_beside_the_result_are_removed(tmp_path: Path) -> None:
    tiny.store(tmp_path)
    session = Session(tmp_path)
    job = Job("sample", with_steps(variant("sample"), 2), seed=0, fold=0)
    run = session.do(job)
    for path in (run.checkpoint, run.previous_checkpoint):
        path.write_bytes(b"of no more use")
    (done,) = verbs.train(session.workspace, "sample", folds="0", steps=2, workers=1)
    assert done.folder == run.folder
    assert not run.checkpoint.exists()
    assert not run.previous_checkpoint.exists()


def test_a_kill_between_the_checkpoints_of_a_group_leaves_it_one_group(session: Session) -> None:
    """As two, at two steps, they would take twice as long on a GPU."""
    jobs = [Job("sample", small("sample", steps=30), 0, fold) for fold in (0, 1)]
    calm = copy_of(session, "calm")
    assert calm.do_together(jobs) == {}
    for _ in range(2):
        with pytest.raises(Stopped):
            session.do_together(jobs, after(8))
    runs = [run_of(session.workspace, job) for job in jobs]
    first, second = (load_checkpoint(path)["step"] for path in (runs[0].previous_checkpoint, runs[0].checkpoint))
    assert 0 < first < second < 30

    def steps() -> list[list[int]]:
        groups = saved_groups(session.workspace, jobs, session.store, session.folds)
        return [[state["step"] for state in states] for _, states in groups]

    assert steps() == [[second, second]]
    runs[1].previous_checkpoint.replace(runs[1].checkpoint)  # its second one was not written any more
    assert steps() == [[first, first]]
    whole = runs[0].previous_checkpoint.read_bytes()
    runs[0].previous_checkpoint.write_bytes(whole[:1000])
    assert steps() == [[second], [first]]
    runs[0].previous_checkpoint.write_bytes(whole)
    assert session.do_together(jobs) == {}
    for job, run in zip(jobs, runs, strict=True):
        assert run.read_result()["together"] == 2
        assert run.weights.read_bytes() == run_of(calm.workspace, job).weights.read_bytes()


def test_checkpoints_come_with_the_clock(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill costs at most what lies behind the last checkpoint: half a minute by the clock, not by steps."""
    now = iter(range(0, 10_000, 11))  # each look at the clock finds it 11 s later
    # The trainer's clock only: the servers of other tests live by the real one.
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(now)))
    saved: list[int] = []
    model = trainer_of(session, small("sample"), [0])
    model.fit(
        save=lambda: saved.append(model.step),
        log=lambda losses: None,
        validate=lambda: None,
        validate_after=[],
        should_stop=lambda: False,
    )
    assert saved[-1] == 12
    assert max(np.diff([0, *saved])) * 11 <= 30 + 2 * 11


def test_work_made_from_something_else_is_refused_with_the_difference(session: Session) -> None:
    job = Job("sample", small("sample"), seed=0, fold=0)
    run = session.do(job)
    with pytest.raises(DataError, match="steps 12 there, 40 now"):
        session.do(replace(job, variant=replace(job.variant, steps=40)))
    others = session.workspace.root / "others"
    tiny.store(others, seed=5, longest=60)
    other = Session(others)
    shutil.copytree(run.folder, run_of(other.workspace, job).folder)
    with pytest.raises(DataError) as error:
        other.do(job)
    assert f"data {session.store.hash} there, {other.store.hash} now" in str(error.value)


def test_runs_made_elsewhere_join_if_they_are_of_the_same_data_and_split(session: Session) -> None:
    """A laptop's or a team-mate's folders, copied: the finished one is done, the begun one goes on."""
    done, begun = (Job("sample", small("sample"), seed=0, fold=fold) for fold in (0, 1))
    elsewhere = copy_of(session, "elsewhere")
    elsewhere.do(done)
    with pytest.raises(Stopped):
        elsewhere.do(begun, after(5))
    shutil.copytree(elsewhere.workspace.runs, session.workspace.runs)

    def planned(session: Session) -> list[tuple[int, bool]]:
        jobs = make_plan(
            session.workspace,
            session.store,
            session.folds,
            chosen={"sample": done.variant},
            fold_numbers=[0, 1],
            seeds=[0],
            costs=lambda name, v: Cost(0.1, 1, 1000),
            workers=1,
        ).jobs
        return [(p.done_steps, p.finished) for p in jobs]

    assert [finished for _, finished in planned(session)] == [True, False]
    run = session.do(begun)
    assert run.weights.read_bytes() == elsewhere.do(begun).weights.read_bytes()
    assert planned(session) == [(12, True), (12, True)]

    other = session.workspace.root / "other"
    shutil.copytree(session.workspace.data, other / "data")
    make_folds(session.store, Workspace(other).folds_file, k=3, seed=1)
    shutil.copytree(elsewhere.workspace.runs, other / "runs")
    stranger = Session(other)
    with pytest.raises(DataError) as error:
        planned(stranger)
    assert f"folds {session.folds.hash} there, {stranger.folds.hash} now" in str(error.value)


def test_a_start_that_trained_nothing_claims_nothing(session: Session) -> None:
    job = Job("sample", small("sample"), seed=0, fold=0)
    other = replace(job, variant=replace(job.variant, lr=2e-3))
    claim(run_of(session.workspace, job), identity(job, session.store, session.folds))
    assert job_of(session.do(other)) == other


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(session: Session) -> None:
    job, other = (Job("sample", small("sample", lr=lr), seed=0, fold=0) for lr in (1e-3, 2e-3))
    with pytest.raises(Stopped):
        session.do(job, after(5))
    elsewhere = copy_of(session, "elsewhere")
    with pytest.raises(Stopped):
        elsewhere.do(other, after(5))
    ours = run_of(session.workspace, job).checkpoint
    shutil.copy(run_of(elsewhere.workspace, other).checkpoint, ours)
    with pytest.raises(DataError, match="belongs to the run"):
        session.do(job)
    ours.write_bytes(ours.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"checkpoint\.pt cannot be read"):
        session.do(job)


def test_a_checkpoint_of_another_architecture_is_refused_and_both_are_named(session: Session) -> None:
    job, other = (Job("sample", replace(small("sample"), d_model=d), seed=0, fold=0) for d in (16, 32))
    elsewhere = copy_of(session, "elsewhere")
    for place, one in ((session, job), (elsewhere, other)):
        with pytest.raises(Stopped):
            place.do(one, after(5))
    shutil.copy(run_of(elsewhere.workspace, other).checkpoint, run_of(session.workspace, job).checkpoint)
    with pytest.raises(DataError, match=r"another model \(.*d_model 32.*than sample-s0 fold 0 trains \(.*d_model 16"):
        session.do(job)


def test_a_log_cut_by_a_kill_is_continued(session: Session) -> None:
    job = Job("sample", replace(small("sample"), batch=60), seed=0, fold=0)
    with pytest.raises(Stopped):
        session.do(job, after(7))  # two of the looks are those of the validations at steps 2 and 4
    run = run_of(session.workspace, job)
    with open(run.log, "a") as file:
        file.write('{"step": 9, "accuracy": 0.5}\n{"step": 1')
    run = session.do(job)
    assert [line["step"] for line in run.log_lines() if "accuracy" in line] == [2, 4, 7, 9]


@pytest.mark.parametrize("calls", [3, 4, 7])
def test_a_validation_that_was_stopped_is_made_up_for(session: Session, calls: int) -> None:
    """The looks are those after a step, and at every batch of the validations at steps 2, 4, 7 and 9."""
    job = Job("sample", replace(small("sample"), batch=60), seed=0, fold=0)
    undisturbed = copy_of(session, "undisturbed").do(job)
    for stop in (calls, 1, 2):  # also while it is made up for
        with pytest.raises(Stopped):
            session.do(job, after(stop))
    run = session.do(job)
    validated = [[line for line in r.log_lines() if "accuracy" in line] for r in (run, undisturbed)]
    assert validated[0] == validated[1]
    assert run.weights.read_bytes() == undisturbed.weights.read_bytes()


def test_a_training_that_is_late_ends_in_time_with_all_its_artefacts(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaggle_hw4.training.session._LEAST_SHARE", 0.0)
    job = Job("sample", small("sample", steps=100_000), seed=0, fold=0)
    failures = do_jobs(
        session.workspace, [job], session.store, session.folds, CPU, until=time.monotonic() + 0.5
    )  # fmt: skip
    run = run_of(session.workspace, job)
    assert not failures
    assert run.finished
    result = json.loads(run.result.read_text())
    assert 0 < result["steps"] < 100_000
    assert run.log_lines()[-1]["step"] == result["steps"]
    assert np.load(run.oof).shape == (result["utterances"], 4)
