"""Verbs about a predictor in one file: export it, identify speakers with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kaggle_hw4.errors import UsageError
from kaggle_hw4.verbs.data import Names, listed, open_split
from kaggle_hw4.verbs.scoring import blend
from kaggle_hw4.workspace import Workspace

if TYPE_CHECKING:
    from kaggle_hw4.identification import Identification
    from kaggle_hw4.predictor import Predictor


def export(workspace: Workspace, names: Names = (), output: Path | str | None = None) -> "Predictor":
    """Write a predictor in one safetensors file, by default <workspace>/predictor.safetensors; gives it.

    One name may be an ensemble in submissions/; members, variants or sets are blended first. Without `names` all
    members of the workspace, as `blend` takes them.
    The predictor's logits are those of the ensemble: of every member with a weight all models, a refit among them.

    Raises:
        UsageError: an unknown member.
        DataError: a member that lacks folds or comes from elsewhere, or what an ensemble cannot be made from.
    """
    from kaggle_hw4.ensemble.recorded import read_record
    from kaggle_hw4.ensemble.submission import has_record
    from kaggle_hw4.exporting import predictor_of
    from kaggle_hw4.submission_file import submission_named
    from kaggle_hw4.terminal import stage

    chosen = listed(names)
    csv = submission_named(workspace, chosen[0]) if len(chosen) == 1 else None
    if csv is None or not has_record(workspace, csv):
        csv = blend(workspace, chosen).file
    store, split = open_split(workspace)
    with stage() as tick:
        predictor = predictor_of(workspace, store, split, read_record(csv), tick)
    predictor.save(Path(output or workspace.predictor))
    return predictor


def identify(files: Path | str | Sequence[Path | str], model: Path | str, *, top: int = 5) -> "list[Identification]":
    """Who speaks in each WAV file: the `top` most probable speakers of the predictor in the file `model`.

    Raises:
        UsageError: `top` below 1.
        DataError: no predictor, or a file that cannot be read or holds no sound; none is named then.
    """
    from kaggle_hw4.identification import identify_recordings
    from kaggle_hw4.predictor import Predictor
    from kaggle_hw4.terminal import progress_bar

    if top < 1:
        raise UsageError(f"top {top}", "At least 1.")
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    predictor = Predictor.load(Path(model))
    with progress_bar("listening") as update:
        return identify_recordings(paths, predictor, top, update) if paths else []
