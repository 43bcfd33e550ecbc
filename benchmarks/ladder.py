"""The report's ladder on a workspace's data, beside the published column: the table of docs/results.md.

    python -m benchmarks.ladder --root DIR [--output FILE] [--docs]

Adds what is trained of the rungs in DIR, with seed 0, to the figures in FILE (trainings take hours, on more than one
machine), and prints their table: accuracy on the held-out utterances, whole and on 128-frame crops. Then those
neighbours on the ladder that change places, with the difference on the utterances that both have named and its 95 %
interval. With `--docs` it is written into docs/results.md.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import run_command, write_between
from benchmarks.ablate import load
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import Folds, load_folds
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.variants import Entry, entries
from kaggle_hw4.workspace import Workspace, write_json

_HERE = Path(__file__).resolve().parent
_DOCS = _HERE.parent / "docs" / "results.md"
_FIGURES = _HERE / "results" / "ladder.json"
_MARKERS = ("<!-- written by `python -m benchmarks.ladder --docs` -->\n", "\n<!-- end of the ladder -->")
Figure = dict[str, Any]


def main(
    root: Annotated[Path, typer.Option(help="The workspace.")],
    output: Annotated[Path, typer.Option(help="The figures; goes on where it stands.")] = _FIGURES,
    docs: Annotated[bool, typer.Option("--docs", help="Write the table of docs/results.md.")] = False,
) -> None:
    workspace = Workspace(root.resolve())
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)
    new = [figure for entry in _rungs() for figure in _trained(workspace, entry, store, folds)]
    known = {_key(figure): figure for figure in [*load(output), *new]}
    figures = [known[key] for key in sorted(known)]
    ours = [figure for figure in figures if (figure["data"], figure["folds"]) == (store.hash, folds.hash)]
    if not ours:
        raise DataError(f"no rung of the ladder is trained in {workspace.root}", "Run `kaggle-hw4 train` first.")
    write_json(output, figures)
    print(table(ours))
    if docs:
        write_between(_MARKERS, _DOCS, table(ours))


def _rungs() -> list[Entry]:
    return sorted((entry for entry in entries() if entry.rung), key=lambda entry: entry.rung or 0)


def _key(figure: Figure) -> tuple[Any, ...]:
    return tuple(figure[part] for part in ("data", "folds", "variant", "fold"))


def _trained(workspace: Workspace, entry: Entry, store: Store, folds: Folds) -> list[Figure]:
    """What each finished training of a rung scored; `right` says of each held-out utterance whether it was named."""
    figures = []
    for fold in range(folds.k):
        run = run_of(workspace, Job(entry.name, entry.variant, 0, fold))
        if run.finished:
            result, rows = run.read_result(), folds.validation_rows(fold)
            right = np.load(run.oof).argmax(1) == store.labels[rows]
            kept = {key: result[key] for key in ("steps", "crop_accuracy", "train_seconds", "hardware", "torch")}
            name = {"data": store.hash, "folds": folds.hash, "variant": entry.name, "fold": fold}
            figures.append(name | kept | {"n": len(rows), "right": np.packbits(right).tobytes().hex()})
    return figures


def right_of(figure: Figure) -> np.ndarray:
    """Whether each held-out utterance was named rightly, (n,)."""
    bits = np.frombuffer(bytes.fromhex(figure["right"]), np.uint8)
    return np.unpackbits(bits, count=figure["n"]).astype(bool)


def table(figures: list[Figure]) -> str:
    """The rungs that there are figures of, and where neighbours change places, as Markdown."""
    mine = {entry.name: {f["fold"]: f for f in figures if f["variant"] == entry.name} for entry in _rungs()}
    lines = [
        "| rung | variant | published: val | private | steps | folds | n | whole utterances | on crops | s a step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    trained = [entry for entry in _rungs() if mine[entry.name]]
    lines += [_row(entry, list(mine[entry.name].values())) for entry in trained] + [""]
    for lower, upper in pairwise(trained):
        both = mine[lower.name].keys() & mine[upper.name].keys()
        gains = [right_of(mine[upper.name][fold]) * 100.0 - right_of(mine[lower.name][fold]) * 100.0 for fold in both]
        gain = np.concatenate(gains or [np.zeros(0)])
        if len(gain) and (gain.mean() < 0) != ((upper.val or 0) < (lower.val or 0)):
            difference = f"{gain.mean():+.2f} ± {1.96 * gain.std(ddof=1) / np.sqrt(len(gain)):.2f} points"
            lines.append(f"- `{upper.name}` against `{lower.name}`: {difference} (n = {len(gain):,})")
    hardware = sorted({f"{figure['hardware']}, torch {figure['torch']}" for figure in figures})
    return "\n".join([*lines, "", f"Trained on: {'; '.join(hardware)}."])


def _row(entry: Entry, figures: list[Figure]) -> str:
    n = sum(figure["n"] for figure in figures)
    whole = sum(right_of(figure).sum() for figure in figures) / n
    crops = sum(figure["crop_accuracy"] * figure["n"] for figure in figures) / n
    seconds = sum(figure["train_seconds"] for figure in figures) / sum(figure["steps"] for figure in figures)
    private = f"{entry.private:.5f}" if entry.private else ""
    folds = ", ".join(str(figure["fold"]) for figure in figures)
    return (
        f"| {entry.rung} | {entry.name} | {entry.val:.4f} | {private} | {figures[0]['steps']:,} | "
        f"{folds} | {n:,} | {whole:.4f} | {crops:.4f} | {seconds:.3f} |"
    )


if __name__ == "__main__":
    run_command(main)
