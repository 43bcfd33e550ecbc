"""One change against a shared base, in pairs: the rows of docs/ablations.md.

    python -m benchmarks.ablate ROW [ROW …] --root DIR [--steps N] [--base VARIANT]
    python -m benchmarks.ablate [--base VARIANT]       (lists the rows that change it)
    python -m benchmarks.ablate --docs                 (writes the table from the figures)

Run i trains on all folds but i, with seed i: base and change see the same crops in the same order, and name
the same held-out utterances whole. One thread. Two changes are joined as `mixed-crops+noise`, those of a
base as `--base ecapa+long-crops`. What a change costs is measured by itself: steps of both, taking turns
(benchmarks/ablation_times.py). Runs lie in DIR/ablations; what is done is not done again, and a run that
was stopped goes on. Start the command twice to use two cores: they share the work.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from filelock import FileLock, Timeout
from scipy import stats
from scipy.optimize import minimize_scalar

from benchmarks import run_command, write_between
from benchmarks.ablation_rows import ROWS, base_of, changes, words
from benchmarks.ablation_times import step_ratio
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.errors import UsageError
from kaggle_hw4.folds import Folds, load_folds
from kaggle_hw4.inference import log_loss
from kaggle_hw4.jobs.command import check_fits
from kaggle_hw4.jobs.plan import choose_device
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job, run_of, with_steps
from kaggle_hw4.terminal import say
from kaggle_hw4.training.artefacts import hardware
from kaggle_hw4.training.session import do_jobs
from kaggle_hw4.workspace import Workspace, read_json, write_json

_HERE = Path(__file__).resolve().parent
_DOCS = _HERE.parent / "docs" / "ablations.md"
_FIGURES = _HERE / "results" / "ablations.json"
_MARKERS = ("<!-- written by `python -m benchmarks.ablate --docs` -->\n", "\n<!-- end of what is written -->")
PAIRS = 3
_FULL_EPOCHS = 43.5  # the report's 70,000 steps of 32 crops, on nine tenths of 56,666 utterances
Figure = dict[str, Any]


def main(
    rows: Annotated[list[str] | None, typer.Argument(metavar="[ROW …]")] = None,
    root: Annotated[Path | None, typer.Option(help="A workspace with data and folds.")] = None,
    steps: int = 1500,
    base: Annotated[str, typer.Option(help="The variant that is changed.")] = "conformer-full",
    pairs: Annotated[int, typer.Option(min=2, help="Paired runs of each row.")] = PAIRS,
    device: str = "cpu",
    output: Annotated[Path, typer.Option(help="The figures; goes on where it stands.")] = _FIGURES,
    docs: Annotated[bool, typer.Option("--docs", help="Write the table of docs/ablations.md.")] = False,
) -> None:
    if rows:
        screen(rows, root, steps, base, pairs, device, output)
    if docs:
        write_between(_MARKERS, _DOCS, table(load(output), load(times_beside(output))))
    elif rows:
        figures = [figure for figure in load(output) if figure["row"] in ("base", *rows)]
        print(table(figures, load(times_beside(output))))
    else:
        changed = {row: words(row, base_of(base)) for row in ROWS}
        print("\n".join(f"{row:22} {fields}" for row, fields in changed.items() if fields))


def screen(rows: list[str], root: Path | None, steps: int, base: str, pairs: int, device: str, output: Path) -> None:
    """Train what is missing of the base and of `rows`, and add it to the figures in `output`.

    Raises:
        UsageError: an unknown row, one that contradicts the base, too few folds, no workspace given.
        DataError: a run was made from something else.
    """
    if root is None:
        raise UsageError("rows need a workspace", "Give --root DIR.")
    target = choose_device(device)
    torch.set_num_threads(1)
    workspace = Workspace(root.resolve())
    ours = Workspace(workspace.root / "ablations")  # an ensemble of "all members" is not to find these
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)
    if pairs > folds.k:
        raise UsageError(f"{pairs} pairs need as many folds; there are {folds.k}", "Choose fewer --pairs.")
    try:
        recipes = {"base": base_of(base)}
        recipes |= {row: replace(recipes["base"], **changes(row)) for row in rows}
    except KeyError as error:
        raise UsageError(f"no row {error.args[0]!r}", f"There are: {', '.join(ROWS)}.") from None
    recipes = {row: with_steps(v, steps) for row, v in recipes.items()}
    for row, v in recipes.items():
        check_fits(row, v, store)
    _measure_times(recipes, base, folds.training_rows(0), store, target, times_beside(output))
    # Pair by pair, so that an early stop leaves comparable work; what another process does, last.
    waiting = [(pair, row, _job(base, row, v, pair)) for pair in range(pairs) for row, v in recipes.items()]
    while waiting:
        free = (place for place, (_, _, job) in enumerate(waiting) if not _at_work(ours, job))
        pair, row, job = waiting.pop(next(free, 0))
        name = {"base": base, "row": row, "steps": steps, "pair": pair, "data": store.hash}
        if _key(name) not in {_key(figure) for figure in load(output)}:
            figure = name | _train(ours, job, store, folds, target)
            _add(output, figure, _key)
            say(f"{row} {pair}: accuracy {figure['accuracy']:.4f}, {figure['seconds']:.0f} s")


def _job(base: str, row: str, v: Variant, pair: int) -> Job:
    return Job(f"{base}-{v.steps}" if row == "base" else f"{base}+{row}-{v.steps}", v, pair, pair)


def _at_work(workspace: Workspace, job: Job) -> bool:
    """Whether another process trains this now."""
    lock = run_of(workspace, job).lock
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _train(workspace: Workspace, job: Job, store: Store, folds: Folds, device: torch.device) -> Figure:
    v = job.variant
    for failure in do_jobs(workspace, [job], store, folds, device).values():
        raise failure
    run = run_of(workspace, job)
    result = read_json(run.result, f"Delete {run.folder}.")
    logits, held_out = np.load(run.oof), folds.validation_rows(job.fold)
    temperature, loss = tempered(logits, store.labels[held_out])
    return {
        "recipe": v.recipe(),
        "epochs": round(v.steps * v.batch / len(folds.training_rows(job.fold)), 1),
        "utterances": len(held_out),
        "accuracy": result["accuracy"],
        "log_loss": loss,
        "temperature": temperature,
        "seconds": result["train_seconds"],
        "hardware": result["hardware"],
        "torch": result["torch"],
    }


def _measure_times(
    recipes: dict[str, Variant], base: str, train: np.ndarray, store: Store, device: torch.device, output: Path
) -> None:
    """Add to `output` what a step of each row takes, where it is not in it: lengths of training may differ in that."""
    known = {_time_key(figure) for figure in load(output)}
    for row, v in recipes.items():
        name = {"base": base, "row": row, "steps": v.steps, "data": store.hash}
        if row != "base" and _time_key(name) not in known:
            measured = {"ratio": step_ratio(v, recipes["base"], store, train, device)}
            _add(output, name | measured | {"hardware": hardware(device), "torch": torch.__version__}, _time_key)


def times_beside(output: Path) -> Path:
    return output.with_name(f"{output.stem}-times.json")


def tempered(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The temperature of least log loss, and that loss: heads with a margin are not calibrated otherwise."""
    fit = minimize_scalar(lambda t: log_loss(logits / np.float32(np.exp(t)), labels), bounds=(-4, 4), method="bounded")
    return float(np.exp(fit.x)), float(fit.fun)


def _key(figure: Figure) -> tuple[Any, ...]:
    return tuple(figure[part] for part in ("base", "row", "steps", "pair", "data"))


def _time_key(figure: Figure) -> tuple[Any, ...]:
    return tuple(figure[part] for part in ("base", "row", "steps", "data"))


def load(path: Path) -> list[Figure]:
    figures: list[Figure] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return figures


def _add(path: Path, figure: Figure, key: Callable[[Figure], tuple[Any, ...]]) -> None:
    """Add a figure to those in `path`, or put it in the place of its key; another process may do the same meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        others = [other for other in load(path) if key(other) != key(figure)]
        write_json(path, [*others, figure])


@dataclass(frozen=True)
class Comparison:
    """Changed minus base, over the pairs: accuracy in points, log loss in nats; and a step's time as a ratio."""

    row: str
    changed: str
    steps: int
    epochs: float
    accuracy: np.ndarray
    log_loss: np.ndarray
    time: float | None  # not measured

    @property
    def verdict(self) -> str:
        """What the pairs say of the accuracy: by Student's t at 95 %, or else by their signs."""
        n, mean = len(self.accuracy), float(self.accuracy.mean())
        if n == 1:
            return "open: one pair"
        reach = stats.t.ppf(0.975, n - 1) * self.accuracy.std(ddof=1) / np.sqrt(n)
        word = "gains" if mean > 0 else "loses"
        if abs(mean) > reach:
            return word
        same = np.all(self.accuracy > 0) or np.all(self.accuracy < 0)
        return f"seems to {word[:-1]}" if same else "no difference seen"

    @property
    def confirmed(self) -> str:
        standing = "full length" if self.epochs >= _FULL_EPOCHS else "screened only"
        return f"{standing}, n = {len(self.accuracy)}"


def compare(figures: Iterable[Figure], times: Iterable[Figure] = ()) -> list[Comparison]:
    """Every row with a pair, the longest trainings first and of these the best."""
    known = {_key(figure): figure for figure in figures}
    ratios = {_time_key(figure): figure["ratio"] for figure in times}
    kinds = dict.fromkeys((f["base"], f["row"], f["steps"], f["data"]) for f in known.values() if f["row"] != "base")
    found = []
    for base, row, steps, data in kinds:
        pairs = [
            (ours, known[base, "base", steps, pair, data])
            for (b, r, s, pair, d), ours in known.items()
            if (b, r, s, d) == (base, row, steps, data) and (base, "base", steps, pair, data) in known
        ]
        if not pairs:
            continue
        there, ours = pairs[0][1]["recipe"], pairs[0][0]["recipe"]
        changed = ", ".join(f"{field} {value}" for field, value in ours.items() if there[field] != value)
        found.append(
            Comparison(
                row if base == "conformer-full" else f"{base}: {row}",
                changed,
                steps,
                pairs[0][0]["epochs"],
                np.array([100 * (ours["accuracy"] - base["accuracy"]) for ours, base in pairs]),
                np.array([ours["log_loss"] - base["log_loss"] for ours, base in pairs]),
                ratios.get((base, row, steps, data)),
            )
        )
    return sorted(found, key=lambda c: (-c.steps, -float(c.accuracy.mean())))


def table(figures: list[Figure], times: list[Figure]) -> str:
    """The comparisons, and the figures of the bases, as Markdown."""
    lines = [
        "| change | fields | steps (epochs) | accuracy, points | log loss | time of a step | verdict | standing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in compare(figures, times):
        time = "" if c.time is None else f"{c.time:.2f} ×"
        lines.append(
            f"| {c.row} | {c.changed} | {c.steps:,} ({c.epochs:.0f}) | {_spread(c.accuracy, '+.2f', '.2f')} | "
            f"{_spread(c.log_loss, '+.3f', '.3f')} | {time} | {c.verdict} | {c.confirmed} |"
        )
    bases: dict[tuple[str, int], list[Figure]] = {}
    for figure in figures:
        if figure["row"] == "base":
            bases.setdefault((figure["base"], figure["steps"]), []).append(figure)
    for (base, steps), runs in sorted(bases.items()):
        accuracies, losses = (np.array([run[key] for run in runs]) for key in ("accuracy", "log_loss"))
        seconds = np.mean([run["seconds"] for run in runs])
        spread = f"{_spread(accuracies, '.4f', '.4f')}, log loss {_spread(losses, '.3f', '.3f')}"
        hardware = ", ".join(sorted({f"{run['hardware']}, torch {run['torch']}" for run in runs}))
        lines.append(f"\nBase `{base}`, {steps:,} steps: accuracy {spread}, {seconds:.0f} s a run ({hardware}).")
    return "\n".join(lines)


def _spread(values: np.ndarray, mean: str, sd: str) -> str:
    return f"{values.mean():{mean}}" + (f" ± {values.std(ddof=1):{sd}}" if len(values) > 1 else " (one run)")


if __name__ == "__main__":
    run_command(main)
