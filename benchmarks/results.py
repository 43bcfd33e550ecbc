"""What a workspace's trainings scored, as the Markdown of docs/results.md.

    python -m benchmarks.results --root DIR [MEMBER …] > table.md

Out-of-fold figures of the members (all complete ones unless named) and of their ensemble.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kaggle_hw4.data.store import open_store
from kaggle_hw4.ensemble import make_ensemble
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
    made = make_ensemble(workspace, store, folds, names or [])
    rows, total, hardware = [], 0.0, set()
    for member in made.members:
        folder = workspace.runs / member.name
        results = [read_json(Run(folder / f"fold{fold}").result, "") for fold in range(folds.k)]
        seconds = [result["train_seconds"] for result in results]
        total += sum(seconds)
        hardware |= {f"{result['hardware']}, torch {result['torch']}" for result in results}
        rows.append(
            f"| {member.name} | {results[0]['steps']:,} | {member.accuracy:.4f} | "
            f"{_spread([result['accuracy'] for result in results])} | "
            f"{_spread([result['crop_accuracy'] for result in results])} | {member.log_loss:.3f} | "
            f"{member.temperature:.2f} | {np.mean(seconds):.0f} ± {np.std(seconds, ddof=1):.0f} |"
        )
    error = np.sqrt(made.accuracy * (1 - made.accuracy) / len(member.oof))
    print(
        f"{len(store.speakers)} speakers, {len(store.train_rows):,} labelled utterances, "
        f"{store.total_frames:,} frames with the test's; data `{store.hash}`, folds `{folds.hash}` (k={folds.k}).\n"
        f"Per job: {'; '.join(sorted(hardware))}. All trainings together: {total / 3600:.1f} h.\n"
    )
    print("| member | steps | accuracy, all folds | mean ± sd over folds | on crops | log loss | T | s per job |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"| plain mean of logits | | {made.plain_accuracy:.4f} | | | | | |")
    print(f"| **ensemble** | | **{made.accuracy:.4f}** | | | {made.log_loss:.3f} | | |")
    print(f"\nStandard error of the ensemble's figure: {error:.4f} (binomial, n = {len(member.oof):,}).")


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


if __name__ == "__main__":
    typer.run(main)
