"""Many models at once: each as if it trained alone, also when stopped, or when another one diverges."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs_done import CPU, Session, after, busy, copy_of, small, trainer_of

from kaggle_hw4 import variants
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.training import trainer
from kaggle_hw4.training.precision import LossScale
from kaggle_hw4.training.stopping import Stopped


@pytest.mark.parametrize("name", variants.SETS["best"])
@pytest.mark.parametrize("start_over", [False, True])
def test_many_of_the_best_at_once_train_as_one_by_one(session: Session, name: str, start_over: bool) -> None:
    """All that their recipes do besides, in steps of every length of crops: no model sees the others."""
    v = busy(name, dropout=0.0, start_over=start_over)
    group = trainer_of(session, v, [3, 4])
    alone = [trainer_of(session, v, [seed]) for seed in (3, 4)]
    for _ in range(2):
        for each in (group, *alone):
            each.dtype = torch.float32  # some processors would take bf16
            each.losses.zero_()
            each.train_step()
        for m, one in enumerate(alone):
            assert group.losses[m].item() == pytest.approx(one.losses.item(), rel=1e-4)
    together, lone = group.group.weights.grad, alone[1].group.weights.grad
    assert together is not None
    assert lone is not None
    assert (together[1] - lone[0]).norm() < 1e-3 * lone[0].norm()


@pytest.mark.parametrize("subsampling", [2, 4])
def test_padded_crops_that_subsampling_does_not_divide_train(session: Session, subsampling: int) -> None:
    v = replace(small("conformer-full", dropout=0.0), crop=51, subsampling=subsampling)
    group = trainer_of(session, v, [3, 4])
    alone = [trainer_of(session, v, [seed]) for seed in (3, 4)]
    for each in (group, *alone):
        each.dtype = torch.float32
        each.train_step()
    assert group.losses.tolist() == pytest.approx([one.losses.item() for one in alone], rel=1e-5)


@pytest.mark.parametrize("crop", [16, 50])  # shorter than every utterance; longer than many: padded
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["conformer-full", "transformer-simple"])
def test_many_at_once_train_as_one_by_one(session: Session, name: str, dtype: torch.dtype, crop: int) -> None:
    """Stacked: the same losses, gradients and running statistics as alone, within the rounding of the type."""
    v = replace(small(name, dropout=0.0), crop=crop)
    group = trainer_of(session, v, [3, 4, 5])
    alone = [trainer_of(session, v, [seed]) for seed in (3, 4, 5)]
    for each in (group, *alone):
        each.dtype = dtype
        if dtype == torch.float16:
            each.scale = LossScale(len(each.seeds), CPU)
            each.scale.value.fill_(256.0)  # the first one overflows
        each.train_step()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    for m, one in enumerate(alone):
        assert group.losses[m].item() == pytest.approx(one.losses.item(), rel=tolerance)
        together, lone = group.group.weights.grad, one.group.weights.grad
        assert together is not None
        assert lone is not None
        assert (together[m] - lone[0]).norm() < tolerance * lone[0].norm()
        for name, buffer in one.group.buffers.items():
            torch.testing.assert_close(group.group.buffers[name][m], buffer[0], rtol=tolerance, atol=tolerance)
    assert not torch.equal(*group.group.weights.detach()[:2])


def test_dropout_draws_for_each_model_of_a_group(session: Session) -> None:
    group = trainer_of(session, small("transformer-full"), [3, 3])
    group.train_step()
    assert group.losses[0] != group.losses[1]


def test_an_overflow_in_fp16_costs_one_model_one_step() -> None:
    scale = LossScale(2, CPU)
    before = scale.value.clone()
    gradient = torch.ones(2, 5)
    gradient[1, 2] = torch.inf
    scale.take_out(gradient)
    assert gradient[0].tolist() == [1 / 2**16] * 5
    assert gradient[1].tolist() == [0] * 5
    assert scale.value[0] > before[0]
    assert scale.value[1] == before[1] / 2
    assert scale.apply(torch.ones(2)).tolist() == scale.value.tolist()


def test_jobs_done_together_give_what_each_gives_alone(session: Session) -> None:
    v = small("conformer-full")
    jobs = [Job("conformer-full", v, seed, fold) for seed, fold in ((0, 0), (0, 1), (1, 0))]
    alone = copy_of(session, "alone")
    with pytest.raises(Stopped):
        session.do(jobs[1], after(5))  # stands elsewhere: trained apart from the others
    assert not session.do_together(jobs)
    for job in jobs:
        run = run_of(session.workspace, job)
        np.testing.assert_allclose(np.load(run.oof), np.load(alone.do(job).oof), atol=0.02)
    together = [json.loads(run_of(session.workspace, job).result.read_text())["together"] for job in jobs]
    assert together == [2, 1, 2]


def test_a_stopped_group_goes_on_alone_or_together(session: Session) -> None:
    jobs = [Job("conformer-full", small("conformer-full"), 0, fold) for fold in (0, 1)]
    elsewhere = copy_of(session, "elsewhere")
    for place in (session, elsewhere):
        with pytest.raises(Stopped):
            place.do_together(jobs, after(5))
    session.do_together(jobs)
    for job in jobs:
        run = elsewhere.do(job)
        np.testing.assert_allclose(np.load(run.oof), np.load(run_of(session.workspace, job).oof), atol=0.02)


def test_a_diverged_model_leaves_the_others_of_its_group(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("conformer-full", small("conformer-full"), 0, fold) for fold in (0, 1, 2)]
    expected = copy_of(session, "expected")
    expected.do_together([jobs[0], jobs[2]])
    plan = trainer.Trainer._plan

    def poisoned(self: trainer.Trainer) -> None:
        plan(self)
        if len(self.seeds) == 3:
            with torch.no_grad():
                self.group.weights[1, 0] = torch.nan

    monkeypatch.setattr(trainer.Trainer, "_plan", poisoned)
    failures = session.do_together(jobs)
    assert list(failures) == [jobs[1]]
    assert "the loss is nan at step 12" in str(failures[jobs[1]])
    assert not run_of(session.workspace, jobs[1]).finished
    for job in (jobs[0], jobs[2]):
        logits, others = (np.load(run_of(s.workspace, job).oof) for s in (session, expected))
        np.testing.assert_allclose(logits, others, atol=0.02)
