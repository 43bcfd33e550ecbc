"""Pictures of the training: how loss and accuracy went, and what each fold came to."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from kaggle_hw4.errors import DataError
from kaggle_hw4.report.material import Curve, Material, Member
from kaggle_hw4.report.svg import FAINT, INK, MUTED, SEQUENTIAL, SERIES, bare, panels, scale_of
from kaggle_hw4.views import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = 6  # members with curves of their own
_POINTS = 120  # of a curve
_ROWS = 24  # members in the heat map
_CELLS_WITH_TEXT = 60


def loss_curves(material: Material) -> "tuple[Figure, str]":
    """Training loss by step."""
    figure, members = _curves(material, "loss")
    best = members[0]
    steps, values = _together([training.loss for training in best.trainings])
    begun = sum(not training.result for member in material.members for training in member.trainings)
    first, last = np.nanmean(values[:, 0]), np.nanmean(values[:, -1])
    way = "fell" if last < first else "rose"
    course = f"{way} from {first:.2f} at step {steps[0]:,} to" if len(steps) > 1 else "is"
    sentence = (
        f"The loss of {best.name} {course} {last:.2f} at step {steps[-1]:,} "
        "(mean of its folds; the band is all that they span)."
    )
    if begun:
        sentence += f" {begun} training{'s are' if begun > 1 else ' is'} not finished."
    return figure, sentence


def accuracy_curves(material: Material) -> "tuple[Figure, str]":
    """Accuracy on held-out utterances by step; the last point is that of the finished training."""
    figure, members = _curves(material, "accuracy")
    best = members[0]
    curves = [_with_result(training.accuracy, training.result) for training in best.trainings]
    # Of folds that ended, where any did: those at work have no end yet, and other utterances to name. Fold by fold, for
    # they need not have ended, or been looked at, at the same steps.
    ended = [curve for curve, training in zip(curves, best.trainings, strict=True) if training.result]
    ends = [curve for curve in ended or curves if curve]
    last = 100 * np.mean([curve[-1][1] for curve in ends])
    sentence = f"{best.name} ends at {last:.1f} % of held-out utterances named rightly"
    if longer := [curve[-2:] for curve in ends if len(curve) > 1]:
        gained = 100 * np.mean([end - before for (_, before), (_, end) in longer])
        verdict = "it was still learning" if gained > 1 else "more steps promise little"
        sentence += f", {gained:+.1f} points since step {min(curve[0][0] for curve in longer):,}: {verdict}"
    return figure, sentence + "."


def _curves(material: Material, what: Literal["loss", "accuracy"]) -> "tuple[Figure, list[Member]]":
    """A panel for each of the best members, the others in grey behind it."""
    curves = {
        member.name: [
            training.loss if what == "loss" else _with_result(training.accuracy, training.result)
            for training in member.trainings
        ]
        for member in material.members
    }
    curves = {name: kept for name, folds in curves.items() if (kept := [curve for curve in folds if curve])}
    members = [member for member in material.members if member.name in curves][:_PANELS]
    if not members:
        raise DataError(f"no training has logged its {what} yet", "Wait for the first of `kaggle-hw4 train`.")
    drawn = {member.name: _together(curves[member.name]) for member in members}
    rows = -(-len(members) // 2)
    figure, axes = panels(rows, min(len(members), 2), height=0.5 + 1.35 * rows, sharex=True, sharey=True)
    factor = 100 if what == "accuracy" else 1
    for panel, member in zip(axes, members, strict=False):
        for steps, values in drawn.values():
            panel.plot(steps, factor * np.nanmean(values, axis=0), color=FAINT, linewidth=1)
        steps, values = drawn[member.name]
        values = factor * values
        panel.fill_between(steps, np.nanmin(values, 0), np.nanmax(values, 0), color=SERIES[0], alpha=0.3, linewidth=0)
        marker = "o" if len(steps) <= 12 else None
        panel.plot(steps, np.nanmean(values, axis=0), color=SERIES[0], marker=marker, markersize=3)
        panel.set_title(short(member.name, 24))
        panel.margins(x=0.02)
    low, high = axes[0].get_ylim()
    if what == "loss" and min(np.nanmin(values) for _, values in drawn.values()) * 20 < high:
        axes[0].set_yscale("log")
    elif what == "loss":
        axes[0].set_ylim(0, high)
    else:
        axes[0].set_ylim(max(low, 0), min(high, 100))
    for panel in axes[len(members) :]:
        panel.remove()
    figure.supxlabel("step", fontsize="medium", color=MUTED)
    figure.supylabel("training loss" if what == "loss" else "held-out accuracy, %", fontsize="medium", color=MUTED)
    return figure, members


def _with_result(curve: Curve, result: dict[str, float] | None) -> Curve:
    end = [(int(result["steps"]), result["accuracy"])] if result and "steps" in result else []
    return [point for point in curve if not end or point[0] < end[0][0]] + end


def _together(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,) and the values of every fold (folds, points), NaN where it has none; long curves in bins."""
    by_step = [dict(curve) for curve in curves if curve]
    steps = np.array(sorted(set().union(*by_step)))
    values = np.array([[curve.get(step, np.nan) for step in steps.tolist()] for curve in by_step])
    bins = np.array_split(np.arange(len(steps)), min(_POINTS, len(steps)))
    with np.errstate(invalid="ignore"):
        sums = [np.nansum(values[:, part], axis=1) / (~np.isnan(values[:, part])).sum(1) for part in bins]
    return np.array([steps[part[-1]] for part in bins]), np.stack(sums, axis=1)


def fold_map(material: Material) -> "tuple[Figure, str]":
    """Accuracy of every member on every fold."""
    members = material.members[:_ROWS]
    table = np.full((len(members), material.k), np.nan)
    for row, member in enumerate(members):
        for training in member.finished:
            table[row, training.job.fold] = 100 * (training.final or 0.0)
    if np.isnan(table).all():
        raise DataError("no training is finished", "Run: kaggle-hw4 train --fold all")
    figure, (axes,) = panels(height=min(0.8 + 0.27 * len(members), 5.5))
    bare(axes)
    axes.set_facecolor(FAINT)
    image = axes.imshow(table, aspect="auto", cmap=SEQUENTIAL, interpolation="nearest")
    axes.set_xticks(range(material.k), [f"fold {fold}" if material.k <= 6 else str(fold) for fold in range(material.k)])
    axes.set_yticks(range(len(members)), [short(member.name) for member in members])
    axes.tick_params(axis="y", colors=INK)
    if table.size <= _CELLS_WITH_TEXT:
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
        for (row, fold), value in np.ndenumerate(table):
            text, colour = (
                ("–", INK) if np.isnan(value) else (f"{value:.1f}", "#000000" if value > middle else "#ffffff")
            )
            axes.text(fold, row, text, ha="center", va="center", color=colour)
    scale_of(figure, axes, image, "accuracy, %")
    return figure, _fold_sentence(table, len(material.members) - len(members))


def _fold_sentence(table: np.ndarray, more: int) -> str:
    folds = np.flatnonzero(~np.isnan(table).all(0))
    compared = table[:, folds]
    compared = compared[~np.isnan(compared).any(1)]  # by the same members: the weak ones may have some folds only
    if len(folds) == 1:
        sentence = f"Only fold {folds[0]} is done: how far folds differ is not known yet."
    elif not len(compared):
        sentence = "No member is done on all of these folds: how far they differ is not known yet."
    else:
        means = compared.mean(axis=0)
        hard, easy = int(means.argmin()), int(means.argmax())
        sentence = (
            f"Fold {folds[hard]} is the hardest ({means[hard]:.1f} % on average), fold {folds[easy]} the easiest "
            f"({means[easy]:.1f} %); a difference between members below that between folds says little."
        )
    lacking = int(np.isnan(table).sum())
    if lacking:
        sentence += f" {lacking} of {table.size} cells are still to be trained (grey)."
    return sentence + (f" The best {len(table)} members are shown, {more} are not." if more > 0 else "")
