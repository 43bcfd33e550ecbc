"""What a workspace's trainings scored, as the Markdown of docs/results.md.

    python -m benchmarks.results --root DIR [MEMBER …] > table.md

Out-of-fold figures of the members (all complete ones unless named) and of their ensemble.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import run_command
from kaggle_hw4.data.store import open_store
from kaggle_hw4.ensemble.blend import make_ensemble
from kaggle_hw4.folds import load_folds
from kaggle_hw4.runs import Run
from kaggle_hw4.workspace import Workspace, read_json


def main(
    root: Annotated[Path, typer.Option(help="The workspace.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[MEMBER …]")] = None,
) -> None:
    workspace = Workspace(root.resolve())
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)
    made = make_ensemble(workspace, store, folds, names or []).summary()
    rows, total, hardware = [], 0.0, set()
    for member in made["members"]:
        folder = workspace.runs / member["name"]
        results = [read_json(Run(folder / f"fold{fold}").result, "") for fold in range(folds.k)]
        seconds = [result["train_seconds"] for result in results]
        total += sum(seconds)
        hardware |= {f"{result['hardware']}, torch {result['torch']}" for result in results}
        rows.append(
            f"| {member['name']} | {results[0]['steps']:,} | {member['accuracy']:.4f} | "
            f"{_spread([result['accuracy'] for result in results])} | "
            f"{_spread([result['crop_accuracy'] for result in results])} | {member['log_loss']:.3f} | "
            f"{member['temperature']:.2f} | {np.mean(seconds):.0f} ± {np.std(seconds, ddof=1):.0f} |"
        )
    print(
        f"{len(store.speakers)} speakers, {len(store.train_rows):,} labelled utterances, "
        f"{store.total_frames:,} frames with the test's; data `{store.hash}`, folds `{folds.hash}` (k={folds.k}).\n"
        f"Per job: {'; '.join(sorted(hardware))}. All trainings together: {total / 3600:.1f} h.\n"
    )
    print("| member | steps | accuracy, all folds | mean ± sd over folds | on crops | log loss | T | s per job |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    for method in made["methods"]:
        print(f"| blend, {method['method']} | | {method['accuracy']:.4f} | | | {method['log_loss']:.3f} | | |")
    low, high = made["interval"]
    print(f"\nThe ensemble ({made['method']}): {made['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}.")


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


if __name__ == "__main__":
    run_command(main)
