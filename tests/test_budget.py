"""`train --budget`: what fits into a time, on costs that are given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, HW4Error, UsageError
from kaggle_hw4.folds import Folds, make_folds
from kaggle_hw4.jobs.budget import Allotment, allot, kept, parse_duration
from kaggle_hw4.jobs.calibrate import Cost, measure
from kaggle_hw4.jobs.engine import part_of_the_time, rounds_left
from kaggle_hw4.jobs.plan import Plan, PlannedJob, job_seconds, make_plan
from kaggle_hw4.jobs.work import work
from kaggle_hw4.runs import Job
from kaggle_hw4.variants import Variant, expand, variant
from kaggle_hw4.views import plan_lines
from kaggle_hw4.workspace import Workspace, write_json

VARIANTS = {name: replace(variant(name), batch=2, crop=8) for name in expand(["default"])}
HOUR = 3600.0


def per_step(**seconds: float) -> Callable[[str, Variant], Cost]:
    return lambda name, v: Cost(seconds.get(name.split("-")[0], 0.1), 1, 1000)


COSTS = per_step(transformer=0.1, conformer=0.2)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Store, Folds]:
    store = tiny.store(tmp_path)
    return store, make_folds(store, Workspace(tmp_path).folds_file, k=3)


def allotted(data: tuple[Store, Folds], budget: float, seeds: list[int] | None = None, workers: int = 2) -> Allotment:
    store, folds = data
    return allot(
        VARIANTS, [0, 1, 2], seeds, budget=budget, costs=COSTS, workers=workers, store=store, folds=folds
    )  # fmt: skip


def wall(data: tuple[Store, Folds], made: Allotment, workers: int, tmp_path: Path) -> float:
    """What the plan of an allotment says it takes."""
    store, folds = data
    plan = make_plan(
        Workspace(tmp_path),
        store,
        folds,
        chosen=made.chosen,
        fold_numbers=[0, 1, 2],
        seeds=made.seeds,
        costs=COSTS,
        workers=workers,
        member_by_member=True,
    )
    return plan.seconds


@pytest.mark.parametrize("hours", [0.6, 1, 3, 10, 60, 200])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_plan_ends_in_time_and_uses_it(
    data: tuple[Store, Folds], hours: float, workers: int, tmp_path: Path
) -> None:
    made = allotted(data, hours * HOUR, workers=workers)
    took = wall(data, made, workers, tmp_path)
    assert took <= 0.85 * hours * HOUR
    everything = hours >= 60
    assert took > (0.3 if everything else 0.8) * 0.85 * hours * HOUR


def test_little_time_leaves_variants_out_before_it_cuts_the_steps_too_short(data: tuple[Store, Folds]) -> None:
    assert list(allotted(data, 10 * HOUR).chosen) == list(reversed(VARIANTS))
    some = allotted(data, 0.6 * HOUR).chosen
    assert 0 < len(some) < 4
    assert "conformer-full" in some
    assert min(v.steps for v in some.values()) >= 2000
    (only,) = allotted(data, 600).chosen.items()
    assert only[0] == "conformer-full"
    assert 100 <= only[1].steps < 2000


def test_time_to_spare_goes_into_seeds_unless_they_are_given(data: tuple[Store, Folds]) -> None:
    rich = allotted(data, 300 * HOUR)
    assert len(rich.seeds) > 1
    assert all(v.steps == 70_000 for v in rich.chosen.values())
    assert allotted(data, 300 * HOUR, seeds=[7]).seeds == [7]


def test_too_short_says_what_the_least_is(data: tuple[Store, Folds]) -> None:
    with pytest.raises(UsageError, match=r"too short: conformer-full on 3 folds") as error:
        allotted(data, 20)
    least = int(error.value.remedy.split("at least ")[1].split("m")[0])
    assert allotted(data, least * 60).chosen


@pytest.mark.parametrize(("text", "seconds"), [("50m", 3000), ("2h", 7200), ("1h30m", 5400), ("90s", 90)])
def test_durations_are_read_in_their_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "50", "m", "1.5h", "-3m", "30m1h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)


def test_the_same_request_goes_on_with_what_was_allotted(data: tuple[Store, Folds], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = kept(workspace, {"budget": "1h"}, lambda: allotted(data, HOUR))
    slower = lambda: allotted(data, 0.7 * HOUR)  # noqa: E731
    assert kept(workspace, {"budget": "1h"}, slower) == first
    assert kept(workspace, {"budget": "42m"}, slower) != first
    write_json(workspace.runs / "budget.json", {"request": {"budget": "1h"}, "chosen": {"a": {"b": 1}}, "seeds": []})
    with pytest.raises(DataError, match=r"budget\.json is damaged"):
        kept(workspace, {"budget": "1h"}, slower)


def test_calibration_times_real_steps(data: tuple[Store, Folds]) -> None:
    cost = measure(replace(VARIANTS["conformer-full"], layers=1), data[0], torch.device("cpu"), wanted=6)
    assert 0 < cost.step < 10
    assert cost.together == 1  # on CPU
    assert cost.parameters > 10_000


def planned(*jobs: Job) -> list[PlannedJob]:
    return [PlannedJob(job, 0, 1.0, False) for job in jobs]


def test_a_last_stage_of_longer_crops_takes_longer(data: tuple[Store, Folds]) -> None:
    store, folds = data
    usual = replace(variant("conformer-full"), steps=10_000)
    staged = replace(usual, final_share=0.25, final_crop=3 * usual.crop)
    cost = Cost(0.1, 1, 1000)
    plain, longer = (job_seconds(Job("v", v, 0, 0), 0, cost, store, folds) for v in (usual, staged))
    assert plain == pytest.approx(1000, rel=0.01)  # the steps; predictions are few here
    assert longer - plain == pytest.approx(0.25 * 2 * 1000, rel=0.01)


def test_on_a_gpu_jobs_of_a_variant_go_together_in_equal_parts() -> None:
    jobs = [Job(name, VARIANTS[name], 0, fold) for fold in range(5) for name in VARIANTS]
    plan = Plan(planned(*jobs), 1, 0, dict.fromkeys(VARIANTS, 4))
    assert sorted(len(group) for group in plan.groups) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert all(len({p.job.name for p in group}) == 1 for group in plan.groups)
    alone = Plan(planned(*jobs), 1, 0, dict.fromkeys(VARIANTS, 1))
    assert [p.job for (p,) in alone.groups] == jobs


def test_long_trainings_are_compiled_on_a_gpu_and_take_half_as_long(data: tuple[Store, Folds]) -> None:
    store, folds = data
    long, short = (Job(name, replace(variant("sample"), steps=n), 0, 0) for name, n in (("a", 100_000), ("b", 99_999)))
    gpu, cpu = (Plan(planned(long, short), 1, 0, {"a": 1, "b": 1}, compiles) for compiles in (True, False))
    assert gpu.compiled == ["a"]
    assert cpu.compiled == []
    assert "compiled first (a)" in plan_lines(gpu, torch.device("cuda"))
    assert "compiled" not in plan_lines(cpu, torch.device("cpu"))
    seconds = [job_seconds(job, 0, Cost(0.1, 1, 1000, True), store, folds) for job in (long, short)]
    assert seconds[0] == pytest.approx(seconds[1] / 2, rel=0.01)


def test_out_of_memory_halves_the_group(data: tuple[Store, Folds], monkeypatch: pytest.MonkeyPatch) -> None:
    store, folds = data
    workspace = Workspace(store.folder.parents[1])
    jobs = [Job("sample", variant("sample"), 0, fold) for fold in (0, 1, 2)]
    tried: list[list[int]] = []

    def crowded(workspace: Workspace, jobs: list[Job], *_: object) -> dict[Job, HW4Error]:
        tried.append([job.fold for job in jobs])
        if len(jobs) > 1 or jobs[0].fold == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr("kaggle_hw4.jobs.work.do_jobs", crowded)
    with pytest.raises(DataError, match="out of memory"):
        work(workspace, jobs, store, folds, torch.device("cpu"), lambda: False)
    assert tried == [[0, 1, 2], [0], [1, 2], [1], [2]]


def test_a_late_group_leaves_their_time_to_those_after_it() -> None:
    assert [rounds_left(number, 5, 2) for number in range(5)] == [3, 3, 2, 2, 1]
    assert part_of_the_time(315, rounds=3, closing=10) == 300 / 3 - 20
