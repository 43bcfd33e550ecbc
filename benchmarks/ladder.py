"""The report's ladder on a workspace's data beside the published column, as the Markdown of docs/results.md.

    python -m benchmarks.ladder --root DIR > table.md

Of each rung the folds that are trained with seed 0: accuracy on the held-out utterances, whole and on 128-frame
crops. Then the neighbours on the ladder that change places, with the paired difference on the utterances that both
have named and its 95 % interval.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import run_command
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import Folds, load_folds
from kaggle_hw4.runs import Job, Run, run_of
from kaggle_hw4.variants import Entry, entries
from kaggle_hw4.workspace import Workspace


def main(root: Annotated[Path, typer.Option(help="The workspace.")]) -> None:
    workspace = Workspace(root.resolve())
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)
    rungs = sorted((entry for entry in entries() if entry.rung), key=lambda entry: entry.rung or 0)
    trained = {entry.name: runs for entry in rungs if (runs := _runs(workspace, entry, folds))}
    if not trained:
        raise DataError(f"no rung of the ladder is trained in {workspace.root}", "Run `kaggle-hw4 train` first.")
    print("| rung | variant | published: val | private | steps | folds | n | whole utterances | on crops | s a step |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for entry in rungs:
        if entry.name in trained:
            print(_row(entry, trained[entry.name]))
    print()
    right = {name: _right(runs, store, folds) for name, runs in trained.items()}
    for lower, upper in pairwise(entry for entry in rungs if entry.name in trained):
        both = sorted(right[lower.name].keys() & right[upper.name].keys())
        gain = np.array([right[upper.name][row] - right[lower.name][row] for row in both]) * 100.0
        reach = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        if (gain.mean() < 0) != ((upper.val or 0) < (lower.val or 0)):
            difference = f"{gain.mean():+.2f} ± {reach:.2f} points"
            print(f"- `{upper.name}` against `{lower.name}`: {difference} (n = {len(both):,})")


def _runs(workspace: Workspace, entry: Entry, folds: Folds) -> dict[int, Run]:
    """Finished runs by fold."""
    runs = {fold: run_of(workspace, Job(entry.name, entry.variant, 0, fold)) for fold in range(folds.k)}
    return {fold: run for fold, run in runs.items() if run.finished}


def _row(entry: Entry, runs: dict[int, Run]) -> str:
    results = [run.read_result() for run in runs.values()]
    n = sum(result["utterances"] for result in results)
    whole, crops = (
        sum(result[key] * result["utterances"] for result in results) / n for key in ("accuracy", "crop_accuracy")
    )
    steps = sum(result["steps"] for result in results)
    seconds = sum(result["train_seconds"] for result in results) / steps
    private = f"{entry.private:.5f}" if entry.private else ""
    return (
        f"| {entry.rung} | {entry.name} | {entry.val:.4f} | {private} | {results[0]['steps']:,} | "
        f"{', '.join(map(str, runs))} | {n:,} | {whole:.4f} | {crops:.4f} | {seconds:.3f} |"
    )


def _right(runs: dict[int, Run], store: Store, folds: Folds) -> dict[int, bool]:
    """Whether each held-out utterance, by row, was named rightly."""
    found: dict[int, bool] = {}
    for fold, run in runs.items():
        rows = folds.validation_rows(fold)
        named = np.load(run.oof).argmax(1)
        found |= dict(zip(rows.tolist(), (named == store.labels[rows]).tolist(), strict=True))
    return found


if __name__ == "__main__":
    run_command(main)
