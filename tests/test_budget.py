"""`train --budget`: what fits into a time, on costs that are given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from command_line import run
from typer.testing import Result

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds, make_folds
from kaggle_hw4.jobs.budget import Allotment, allot, parse_duration, recall, remember
from kaggle_hw4.jobs.calibrate import Cost, measure
from kaggle_hw4.jobs.plan import Costs, Plan, PlannedJob, job_seconds, last_step, make_plan
from kaggle_hw4.runs import Job, Run, claim, identity, run_of, with_steps
from kaggle_hw4.training.capture import COMPILED_SHARE, COMPILING_SECONDS, can_compile, worth_compiling
from kaggle_hw4.training.schedules import validation_steps
from kaggle_hw4.variants import Variant, expand, variant
from kaggle_hw4.views import plan_lines
from kaggle_hw4.workspace import Workspace, read_json, write_json

VARIANTS = {name: replace(variant(name), batch=2, crop=8) for name in expand(["default"])}
HOUR = 3600.0


def per_step(**seconds: float) -> Callable[[str, Variant], Cost]:
    """A prediction takes a third of the time of a step."""
    of = lambda name: seconds.get(name.split("-")[0], 0.1)  # noqa: E731
    return lambda name, v: Cost(of(name), 1, 1000, frame=of(name) / (v.batch * v.crop) / 3)


COSTS = per_step(transformer=0.1, conformer=0.2)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Store, Folds]:
    store = tiny.store(tmp_path)
    return store, make_folds(store, Workspace(tmp_path).folds_file, k=3)


def allotted(
    data: tuple[Store, Folds], budget: float, seeds: list[int] | None = None, workers: int = 2, costs: Costs = COSTS
) -> Allotment:
    store, folds = data
    return allot(
        VARIANTS, [0, 1, 2], seeds, budget=budget, costs=costs, workers=workers, store=store, folds=folds
    )  # fmt: skip


def wall(data: tuple[Store, Folds], made: Allotment, workers: int, tmp_path: Path, costs: Costs = COSTS) -> float:
    """What the plan of an allotment says it takes."""
    store, folds = data
    plan = make_plan(
        Workspace(tmp_path),
        store,
        folds,
        chosen=made.chosen,
        fold_numbers=[0, 1, 2],
        seeds=made.seeds,
        costs=costs,
        workers=workers,
        member_by_member=True,
    )
    return plan.seconds


@pytest.mark.parametrize("hours", [0.6, 1, 3, 10, 60, 200])
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("together", [1, 3])  # on GPUs the workers take the folds of a variant at once
def test_the_plan_ends_in_time_and_uses_it(
    data: tuple[Store, Folds], hours: float, workers: int, together: int, tmp_path: Path
) -> None:
    costs = lambda name, v: replace(COSTS(name, v), together=together)  # noqa: E731
    made = allotted(data, hours * HOUR, workers=workers, costs=costs)
    took = wall(data, made, workers, tmp_path, costs)
    assert took <= 0.85 * hours * HOUR
    if all(v.steps == 70_000 for v in made.chosen.values()):  # more is another seed only, of which there are 10
        took *= 10 if len(made.seeds) == 10 else 1 + 1 / len(made.seeds)
    assert took > 0.8 * 0.85 * hours * HOUR


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


@pytest.mark.parametrize("text", ["", "50", "m", "1.5h", "-3m", "30m1h", "٣m", "1" + 400 * "0" + "h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)


def test_the_same_request_goes_on_with_what_was_allotted(data: tuple[Store, Folds], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    hour, less = allotted(data, HOUR), allotted(data, 0.7 * HOUR)
    assert recall(workspace, {"budget": "1h"}) is None
    remember(workspace, {"budget": "1h"}, hour)
    remember(workspace, {"budget": "42m"}, less)
    assert recall(workspace, {"budget": "1h"}) == hour != less == recall(workspace, {"budget": "42m"})
    # Two commands measured at once, each a little otherwise: both go on with what the first began.
    assert remember(workspace, {"budget": "1h"}, less) == hour
    assert recall(workspace, {"budget": "1h"}) == hour
    (path,) = [p for p in workspace.runs.glob("budget-*.json") if read_json(p, "")["request"] == {"budget": "1h"}]
    refused = variant("sample").recipe() | {"warmup": 1_000_000}
    for recipe in ({"b": 1}, refused):
        write_json(path, {"request": {"budget": "1h"}, "chosen": {"a": recipe}, "seeds": []})
        with pytest.raises(DataError, match=rf"{path.name} is damaged"):
            recall(workspace, {"budget": "1h"})


def test_a_plan_that_cannot_be_recorded_says_where(data: tuple[Store, Folds], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.runs.write_text("no folder")
    with pytest.raises(DataError, match=str(workspace.runs)):
        remember(workspace, {"budget": "1h"}, allotted(data, HOUR))


def test_looking_at_another_budget_leaves_the_one_under_way_alone(data: tuple[Store, Folds]) -> None:
    root = data[0].folder.parents[1]

    def planned(budget: str, *options: str) -> Result:
        arguments = ["train", "--budget", budget, "--variant", "sample", "--device", "cpu"]
        return run(*arguments, "--fold", "0", *options, root=root)

    assert planned("2h", "--dry-run").exit_code == 0
    assert not (root / "runs").exists()
    store, folds = data
    begun = allot({"sample": with_steps(variant("sample"), 150)}, [0], [0], budget=300, costs=COSTS, workers=1,
                  store=store, folds=folds)  # fmt: skip
    request = {"budget": "2h", "variants": ["sample"], "folds": [0], "seeds": None, "steps": None}
    remember(Workspace(root), request | {"data": store.hash, "split": folds.hash}, begun)
    begun_run = run_of(Workspace(root), job := Job("sample", begun.chosen["sample"], 0, 0))
    claim(begun_run, identity(job, store, folds))
    begun_run.checkpoint.touch()
    before = sorted(path.name for path in (root / "runs").iterdir())
    assert planned("3h").exit_code == 3
    assert planned("3h", "--dry-run").exit_code == 3
    assert sorted(path.name for path in (root / "runs").iterdir()) == before
    result = planned("2h", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "150 steps" in result.stderr


@pytest.mark.parametrize("budget", [150, 180, 200, 240, 400])
def test_the_most_steps_that_fit_are_found_where_a_gpu_begins_to_compile(
    data: tuple[Store, Folds], budget: float
) -> None:
    store, folds = data
    cost = Cost(0.01, 5, 1000, compiles=True)
    v = {"a": replace(VARIANTS["conformer-full"], steps=40_000)}
    options = {"costs": lambda name, v: cost, "workers": 1, "store": store, "folds": folds}
    made = allot(v, [0, 1, 2], [0], budget=budget, **options)
    steps = made.chosen["a"].steps
    usable = 0.85 * budget - 15

    def seconds(steps: int) -> float:
        return sum(
            job_seconds(Job("a", with_steps(v["a"], steps), 0, fold), 0, cost, store, folds, 3) for fold in range(3)
        )

    assert seconds(steps) <= usable
    assert not [more for more in range(steps + 50, 40_001, 50) if seconds(more) <= usable]


def test_calibration_times_real_steps(data: tuple[Store, Folds]) -> None:
    cost = measure(replace(VARIANTS["conformer-full"], layers=1), data[0], torch.device("cpu"), wanted=6)
    assert 0 < cost.step < 10
    assert cost.together == 1  # on CPU
    assert cost.parameters > 10_000
    assert 0 < cost.frame < cost.step  # a step is of thousands of frames


@pytest.mark.parametrize("minutes", [3, 5, 8])
def test_a_plan_is_of_the_groups_that_the_workers_take(data: tuple[Store, Folds], minutes: int, tmp_path: Path) -> None:
    """Two workers take three folds as 1 and 2, where 2 were measured: compiled is what is long for its group."""
    cost = Cost(0.004, 2, 1000, compiles=True)
    costs = lambda name, v: cost  # noqa: E731
    store, folds = data
    v = {"a": replace(VARIANTS["conformer-full"], steps=70_000)}
    made = allot(v, [0, 1, 2], [0], budget=60 * minutes, costs=costs, workers=2, store=store, folds=folds)
    plan = make_plan(
        Workspace(tmp_path), store, folds, chosen=made.chosen, fold_numbers=[0, 1, 2], seeds=[0], costs=costs, workers=2
    )
    assert sorted(map(len, plan.groups)) == [1, 2]
    took = []
    for group in plan.groups:
        v = group[0].job.variant
        compiled = worth_compiling(v, len(group))
        took.append(v.steps * cost.step * (COMPILED_SHARE if compiled else 1) + compiled * COMPILING_SECONDS)
    assert max(took) <= plan.seconds <= 0.85 * 60 * minutes
    assert plan.seconds == pytest.approx(max(took), rel=0.05)  # and the predictions


def planned(*jobs: Job) -> list[PlannedJob]:
    return [PlannedJob(job, 0, 1.0, False) for job in jobs]


def test_what_a_kill_between_two_checkpoints_left_is_begun(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log.write_text('{"step": 40}\n')
    assert last_step(run) == 0
    run.previous_checkpoint.touch()
    assert last_step(run) == 40


def test_each_job_predicts_by_itself(data: tuple[Store, Folds]) -> None:
    store, folds = data
    job = Job("v", with_steps(variant("sample"), 100), 0, 0)
    held_out, test = (int(store.lengths[rows].sum()) for rows in (folds.validation_rows(0), store.test_rows))
    cost, alone = Cost(0.5, 5, 1000, frame=0.01), Cost(0.5, 5, 1000)
    done = [job_seconds(job, 100, cost, store, folds, together) for together in (1, 5)]
    assert done == pytest.approx([0.01 * (held_out + test)] * 2)
    looks = len(validation_steps(job.variant, held_out))
    begun, without = (job_seconds(job, 0, c, store, folds, 5) for c in (cost, alone))
    assert without == pytest.approx(100 * 0.5 / 5)
    assert begun - without == pytest.approx(0.01 * ((looks + 1) * held_out + test))


def test_a_last_stage_of_longer_crops_takes_longer(data: tuple[Store, Folds]) -> None:
    store, folds = data
    usual = replace(variant("conformer-full"), steps=10_000)
    staged = replace(usual, final_share=0.25, final_crop=3 * usual.crop)
    cost = Cost(0.1, 1, 1000)
    plain, longer = (job_seconds(Job("v", v, 0, 0), 0, cost, store, folds, 1) for v in (usual, staged))
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
    seconds = [job_seconds(job, 0, Cost(0.1, 1, 1000, True), store, folds, 1) for job in (long, short)]
    assert seconds[0] == pytest.approx(seconds[1] / 2 + COMPILING_SECONDS, rel=0.001)
    assert job_seconds(long, long.variant.steps, Cost(0.1, 1, 1000, True), store, folds, 1) < 1  # nothing is compiled


@pytest.mark.parametrize(("capability", "expected"), [((6, 0), False), ((7, 0), True), ((9, 0), True)])
def test_only_for_gpus_that_the_compiler_knows_compiling_is_planned(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert can_compile(torch.device("cuda")) == expected
    assert not can_compile(torch.device("cpu"))


def test_the_steps_of_a_variant_asked_for_are_its_recipe() -> None:
    own = replace(variant("sample"), steps=40, warmup=20)
    assert with_steps(own, 40) == own
    assert with_steps(own, 30).warmup == 3
