"""One job: artefacts, prediction, refusals. Small models of the real code, a few steps each."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs_done import CPU, Session, copy_of, small, trainer_of
from safetensors.torch import load_file

from kaggle_hw4 import verbs
from kaggle_hw4.data.crops import Frames
from kaggle_hw4.errors import DataError
from kaggle_hw4.inference import predict
from kaggle_hw4.jobs import calibrate
from kaggle_hw4.jobs.calibrate import Cost, measure
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.runs import REFIT, Job, job_of, run_of, with_steps
from kaggle_hw4.training.artefacts import predict_again
from kaggle_hw4.training.schedules import ema_decay, learning_rate, validation_steps
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import write_json


def test_a_finished_job_is_left_alone(session: Session) -> None:
    job = Job("sample", small("sample"), seed=0, fold=0)
    run = session.do(job)
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.suffix != ".lock"}
    session.do(job)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_artefacts_say_what_they_are(session: Session) -> None:
    job = Job("sample", small("sample"), seed=2, fold=1)
    run = session.do(job)
    record, result = json.loads(run.record.read_text()), json.loads(run.result.read_text())
    assert record["data"] == session.store.hash
    assert record["folds"] == session.folds.hash
    assert job_of(run) == job
    held_out = session.folds.validation_rows(1)
    oof, test = np.load(run.oof), np.load(run.test)
    assert oof.shape == (len(held_out), 4)
    assert test.shape == (len(session.store.test_rows), 4)
    labels = session.store.labels[held_out]
    assert result["accuracy"] == (oof.argmax(1) == labels).mean()
    steps = [line["step"] for line in run.log_lines() if "loss" in line]
    assert steps[-1] == 12


def test_logits_are_those_of_whole_utterances_one_at_a_time(session: Session) -> None:
    job = Job("conformer-full", small("conformer-full"), seed=0, fold=0)
    run = session.do(job)
    model = SpeakerClassifier(job.variant, 4)
    model.load_state_dict(load_file(run.weights))
    model.eval()
    for rows, file in ((session.folds.validation_rows(0), run.oof), (session.store.test_rows, run.test)):
        logits = np.load(file)
        for row, got in zip(rows, logits, strict=True):
            start = session.store.offsets[row]
            x = session.store.frames[start : start + session.store.lengths[row]].astype(np.float32)
            with torch.no_grad():
                expected = model(torch.from_numpy(x)[None])[0].numpy()
            np.testing.assert_allclose(got, expected, atol=1e-5)


def test_crops_at_test_time_are_averaged_with_the_whole(session: Session) -> None:
    v = replace(small("conformer-full"), test_crops=3)
    torch.manual_seed(0)
    model = SpeakerClassifier(v, 4).eval()
    rows = session.store.train_rows
    frames = Frames(session.store, CPU)
    logits = predict(model, frames, rows, crops=3, crop=40)
    lengths = session.store.lengths[rows]
    assert lengths.min() <= 40 < lengths.max()
    for row, got in zip(rows, logits, strict=True):
        start, length = session.store.offsets[row], session.store.lengths[row]
        x = torch.from_numpy(session.store.frames[start : start + length].astype(np.float32))[None]
        with torch.no_grad():
            expected = model(x)[0]
            if length > 40:
                starts = [0, (length - 40) // 2, length - 40]
                crops = [model(x[:, first : first + 40])[0] for first in starts]
                expected = (expected + torch.stack(crops).mean(0)) / 2
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
    run, plain = (session.do(Job(name, r, 0, 0)) for name, r in (("crops", v), ("plain", replace(v, test_crops=0))))
    assert run.weights.stat().st_size == plain.weights.stat().st_size
    assert run.oof.read_bytes() != plain.oof.read_bytes()


@pytest.mark.parametrize("changes", [{}, {"d_model": 8, "heads": 8}])  # attention of one feature each
def test_predicting_again_gives_the_same_logits(session: Session, changes: dict[str, int]) -> None:
    job = Job("conformer-full", small("conformer-full", **changes), seed=0, fold=0)
    run = session.do(job)
    before = run.oof.read_bytes(), run.test.read_bytes(), run.result.read_text()
    predict_again(session.workspace, job, session.store, session.folds, CPU)
    assert before == (run.oof.read_bytes(), run.test.read_bytes(), run.result.read_text())
    blob = bytearray(run.weights.read_bytes())
    blob[-1] ^= 1
    run.weights.write_bytes(blob)
    with pytest.raises(DataError, match=r"weights\.safetensors is not the file that was written"):
        predict_again(session.workspace, job, session.store, session.folds, CPU)


def test_two_folds_train_on_different_utterances_and_seeds_differ(session: Session) -> None:
    jobs = [Job("sample", small("sample"), seed, fold) for seed, fold in ((0, 0), (0, 1), (1, 0))]
    weights = [session.do(job).weights.read_bytes() for job in jobs]
    assert len(set(weights)) == 3


class Narrow(torch.nn.Module):
    """Sums of the frames of each utterance, exact in any batch; out of memory beyond so many padded frames."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.refused, self.accepted = room, 0, [0]

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        if x.shape[0] * x.shape[1] > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.accepted.append(x.shape[0] * x.shape[1])
        real = torch.full((len(x),), x.shape[1]) if lengths is None else lengths
        mask = torch.arange(x.shape[1]) < real[:, None]
        return torch.where(mask[..., None], x.round(), 0).sum(1)


def test_prediction_out_of_memory_goes_on_with_smaller_batches(session: Session) -> None:
    frames, rows = Frames(session.store, CPU), session.store.train_rows
    longest = int(session.store.lengths[rows].max())
    roomy, narrow = Narrow(10**9), Narrow(5 * longest // 2)
    expected, got = (predict(model, frames, rows, crops=3, crop=24) for model in (roomy, narrow))
    np.testing.assert_array_equal(got, expected)
    assert 0 < narrow.refused <= 8  # not once a batch: what is left is cut smaller too
    assert max(narrow.accepted) > longest  # but not to one utterance at a time
    with pytest.raises(torch.OutOfMemoryError):
        predict(Narrow(longest - 1), frames, rows)


class Refused(Narrow):
    """As where the system refuses the memory, for which PyTorch has no error of its own."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        try:
            return super().forward(x, lengths)
        except torch.OutOfMemoryError:
            return torch.empty(10**15)


def test_prediction_that_the_system_refuses_memory_goes_on_with_smaller_batches(session: Session) -> None:
    frames, rows = Frames(session.store, CPU), session.store.train_rows
    longest = int(session.store.lengths[rows].max())
    expected = predict(Narrow(10**9), frames, rows)
    np.testing.assert_array_equal(predict(Refused(5 * longest // 2), frames, rows), expected)
    with pytest.raises(MemoryError, match="tried to allocate"):
        predict(Refused(longest - 1), frames, rows)


def test_calibration_that_the_system_refuses_memory_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "_timed", lambda trainer: torch.empty(10**15))
    with pytest.raises(DataError, match=r"^cpu has too little memory: .*tried to allocate") as error:
        measure(small("sample"), session.store, CPU, wanted=5)
    assert "--device cpu" not in error.value.remedy


def test_calibration_out_of_memory_plans_fewer_models(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def timed(models: int) -> Cost:
        tried.append(models)
        if models > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Cost(0.1, models, 1000)

    monkeypatch.setattr(calibrate, "Frames", lambda store, device: None)
    monkeypatch.setattr(calibrate, "_fitting", lambda variant, frames, wanted, sharing: 7 // sharing)
    monkeypatch.setattr(calibrate, "_trainer", lambda variant, frames, models: models)
    monkeypatch.setattr(calibrate, "_timed", timed)
    cuda = torch.device("cuda")
    assert measure(small("sample"), session.store, cuda, wanted=20).together == 1
    assert tried == [7, 3, 1]
    assert measure(small("sample"), session.store, cuda, wanted=20, sharing=3).together == 2


def test_weights_of_another_architecture_are_refused_and_both_are_named(session: Session) -> None:
    job, other = (Job("sample", replace(small("sample"), layers=n), seed=0, fold=0) for n in (1, 2))
    elsewhere = copy_of(session, "elsewhere")
    run, theirs = session.do(job), elsewhere.do(other)
    shutil.copy(theirs.weights, run.weights)
    write_json(run.result, run.read_result() | {"weights": theirs.read_result()["weights"]})
    with pytest.raises(DataError, match=r"another model \(transformer of 2 layers.*trained \(transformer of 1 layers"):
        predict_again(session.workspace, job, session.store, session.folds, CPU)


def test_a_refit_trains_on_all_labels_and_says_that_it_has_no_score(session: Session) -> None:
    v = small("sample")
    job = Job("sample", v, seed=0, fold=REFIT)
    run = session.do(job)
    assert run.folder.name == "refit"
    assert len(session.folds.training_rows(REFIT)) == len(session.store.train_rows)
    result = json.loads(run.result.read_text())
    assert (result["accuracy"], result["utterances"], result["oof"]) == (None, 0, None)
    assert not run.oof.exists()
    assert np.load(run.test).shape == (len(session.store.test_rows), 4)
    assert job_of(run) == job
    before = run.test.read_bytes()
    predict_again(session.workspace, job, session.store, session.folds, CPU)
    assert run.test.read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_job(session: Session) -> None:
    with pytest.raises(DataError, match=r"the loss is nan at step \d+ \(learning rate"):
        session.do(Job("sample", small("sample", lr=1e30, clip=1e30), seed=0, fold=0))


def test_models_without_finite_logits_are_no_results(session: Session) -> None:
    """Its loss was finite to the last step."""
    jobs = [Job("sample", small("sample", lr=1e38, steps=1), seed=0, fold=fold) for fold in (0, 1)]
    failures = session.do_together(jobs)
    assert list(failures) == jobs
    assert "the logits of sample-s0 fold 0 hold NaN, infinity" in failures[jobs[0]].cause
    assert "lower learning rate" in failures[jobs[0]].remedy
    for run in (run_of(session.workspace, job) for job in jobs):
        assert not run.finished
        assert not run.oof.exists()
        assert "the logits of" in run.log_lines()[-1]["failure"]


def test_predicting_again_without_finite_logits_does_not_advise_itself(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("sample", small("sample"), seed=0, fold=0)
    before = (run := session.do(job)).oof.read_bytes()
    monkeypatch.setattr("kaggle_hw4.training.artefacts.predict", lambda *args, **options: np.full((8, 4), np.nan))
    with pytest.raises(DataError, match="the logits of sample-s0 fold 0") as error:
        predict_again(session.workspace, job, session.store, session.folds, CPU)
    assert "predict" not in str(error.value)
    assert run.oof.read_bytes() == before


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    rate = [learning_rate(step, peak=1e-3, warmup=1000, steps=70_000) for step in range(70_000)]
    assert rate[0] == pytest.approx(1e-6)
    assert rate[999] == rate[1000] == pytest.approx(1e-3)
    assert rate[35_500] == pytest.approx(0.5e-3)
    assert 0 < rate[-1] < 1e-11
    assert rate[1000:] == sorted(rate[1000:], reverse=True)


def test_validation_takes_a_tenth_of_a_training_at_most() -> None:
    full, short = variant("conformer-full"), with_steps(variant("conformer-full"), 3000)
    assert validation_steps(full, 7_400_000) == [14_000, 28_000, 42_000, 56_000]
    assert validation_steps(short, 580_000) == [600, 1200, 1800, 2400]
    assert validation_steps(short, 7_400_000) == []
    assert validation_steps(short, 2_000_000) == [1500]
    assert validation_steps(with_steps(full, 1), 1) == []


def test_short_runs_warm_up_over_a_tenth() -> None:
    assert with_steps(variant("sample"), 3000).warmup == 300
    assert with_steps(variant("sample"), 70_000).warmup == 1000
    assert with_steps(variant("sample"), 1).warmup == 1


def test_the_average_follows_the_weights(session: Session) -> None:
    assert [ema_decay(step, 0.999) for step in (0, 90, 10**6)] == [0.1, 0.91, 0.999]
    model = trainer_of(session, small("conformer-full"), [0])
    now = lambda: model.group.state_dict(0, model.group.weights, model.group.buffers)  # noqa: E731
    expected = now()
    for step in range(4):
        model.train_step()
        for name, value in now().items():
            if value.is_floating_point():
                expected[name] += (1 - ema_decay(step, 0.999)) * (value - expected[name])
    for name, value in model.averaged(0).state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


def test_what_is_damaged_or_of_other_length_names_the_command_as_it_was_begun(session: Session) -> None:
    job = Job("sample", small("sample"), 3, 1)
    run = session.do(job)
    again = f"Delete {run.folder} and train it again: kaggle-hw4 train --fold 1 --variant sample --seed 3 --steps 12"
    assert run.train_again == again
    longer = replace(job, variant=replace(job.variant, steps=20, warmup=2))
    with pytest.raises(DataError, match="steps 12 there, 20 now") as error:
        session.do(longer)
    assert "--steps 12" in error.value.remedy
    session.do(replace(job, fold=2))
    run.record.write_text("{")
    assert run.train_again == again  # by the record of the other fold
    run_of(session.workspace, replace(job, fold=2)).record.unlink()
    assert run.train_again == again.removesuffix(" --steps 12")  # by the folder's name


def test_logits_are_written_again_by_as_many_threads_as_in_training(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads add up in another order."""
    for fold in range(3):
        session.do(Job("sample", small("sample"), 0, fold))
    threads: list[int] = []
    monkeypatch.setattr(
        "kaggle_hw4.training.artefacts.predict_again", lambda *_: threads.append(torch.get_num_threads())
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        verbs.predict(session.workspace, device="cpu")
        assert (threads, torch.get_num_threads()) == ([1, 1, 1], 2)
    finally:
        torch.set_num_threads(before)
