"""Pictures of scores: leaderboard and cross-validation, and what each member is worth in the ensemble."""

from typing import TYPE_CHECKING

import numpy as np

from kaggle_hw4.board import SubmissionLine, best_first
from kaggle_hw4.errors import DataError
from kaggle_hw4.ledger import number
from kaggle_hw4.report.material import Material
from kaggle_hw4.report.svg import FAINT, INK, MUTED, PAPER, SEQUENTIAL, SERIES, bare, panels, scale_of
from kaggle_hw4.views import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUBMISSIONS = 12
_MEMBERS = 15
_NAMES = 12  # members beside a matrix


def leaderboard(material: Material) -> "tuple[Figure, str]":
    """Cross-validation, expected band and scores of every submission, and the course's lines."""
    board = material.board
    sent = sorted(board.submissions, key=best_first)
    lines = [*sent, *board.unsent][:_SUBMISSIONS]
    if not lines:
        raise DataError("there is no submission, and no ensemble to be one", "Run: kaggle-hw4 submit")
    figure, (axes,) = panels(height=1.35 + 0.52 * len(lines))
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    for row, line in enumerate(lines):
        if line.band:
            axes.barh(row, line.band.high - line.band.low, 0.34, line.band.low, color=FAINT, label="expected, 95 %")
        if line.accuracy is not None:
            low, high = line.interval or (line.accuracy, line.accuracy)
            reach = [[line.accuracy - low], [high - line.accuracy]]
            axes.errorbar(line.accuracy, row + 0.16, xerr=reach, fmt="o", color=INK, markersize=4, label="CV, 95 %")
        for score, place, marker, colour, name in (
            (number(line.public), row - 0.12, "D", SERIES[1], "public"),
            (number(line.private), row + 0.02, "s", SERIES[0], "private"),
        ):
            if score is not None:
                axes.plot(score, place, marker, color=colour, markersize=5.5, markeredgecolor=PAPER, label=name)
        paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # a course's line would run through the name
        axes.text(0, row - 0.27, short(line.name, 44), transform=axes.get_yaxis_transform(), va="bottom", bbox=paper)
    for place, (name, score) in enumerate(board.competition.baselines.items()):
        axes.axvline(score, color=MUTED, linestyle=":", linewidth=1.1)
        # In two rows: on a wide range of scores the names of neighbours would cover each other.
        axes.annotate(
            name,
            (score, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 12 * (place % 2)),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=MUTED,
        )
    axes.set_ylim(len(lines) - 0.6, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("accuracy")
    once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=4, columnspacing=1, handletextpad=0.3)
    more = len(board.submissions) + len(board.unsent) - len(lines)
    return figure, _leaderboard_sentence(material, lines) + (f" {more} more are in the table." if more > 0 else "")


def _leaderboard_sentence(material: Material, lines: list[SubmissionLine]) -> str:
    best, baselines = lines[0], material.board.competition.baselines
    public = number(best.public)
    if public is None:
        dotted = "dotted lines are the course's, " if baselines else ""
        return f"Nothing is scored yet; {dotted}grey bars where 95 % of public scores should fall."
    sentence = f"{best.name} scores {public:.5f} in public"
    if baselines:
        passed = [name for name, score in baselines.items() if public >= score]
        which = f"the {passed[-1]} line" if passed else "none of the course's lines (dotted)"
        sentence += f" and passes {which}"
    if best.band and best.band.z is not None:
        inside = best.band.low <= public <= best.band.high
        where = "within" if inside else "outside"
        sentence += f"; that is {where} what its cross-validation foretells ({best.band.z:+.1f} standard deviations)"
    return sentence + "."


def weights(material: Material) -> "tuple[Figure, str]":
    """Weight of every member, and the ensemble's change without it."""
    record = material.ensemble
    members = sorted(record["members"], key=lambda member: (-member["weight"], member["without"] or 0.0))
    shown = members[:_MEMBERS]
    names = [short(member["name"]) for member in shown]
    figure, (left, right) = panels(1, 2, height=0.8 + 0.24 * len(shown), sharey=True)
    places = np.arange(len(shown))
    without = [np.nan if member["without"] is None else 100 * member["without"] for member in shown]
    for axes, values, label in (
        (left, [member["weight"] for member in shown], "weight"),
        (right, without, "without it, points"),
    ):
        axes.barh(places, values, 0.62, color=SERIES[0])
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        axes.set_xlabel(label)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    right.margins(x=0.15)
    left.set_yticks(places, names, color=INK)
    left.invert_yaxis()
    known = [member for member in members if member["without"] is not None]
    needed = min(known, key=lambda member: member["without"], default=None)
    sentence = f"{record['name']} ({record['method']} weights)"
    if needed is None or needed["without"] >= 0:
        sentence += " loses nothing without any single member."
    else:
        sentence += f" would lose most without {needed['name']}: {-100 * needed['without']:.2f} points."
    spare = [member["name"] for member in known if member["without"] >= 0]
    if spare:
        sentence += f" Each of {len(spare)} of the {len(members)} members could be left out at no loss, in sample."
    return figure, sentence + (
        f" The first {len(shown)} of {len(members)} are shown." if len(members) > len(shown) else ""
    )


def error_correlation(material: Material) -> "tuple[Figure, str]":
    """How alike the ensemble's members err."""
    names = material.ensemble["pairs"]["names"]
    table = np.array(material.ensemble["pairs"]["error_correlation"], dtype=float)
    count = len(names)
    if not np.isfinite(table[~np.eye(count, dtype=bool)]).any():
        raise DataError("no two members err, so that their errors cannot be compared")
    np.fill_diagonal(table, np.nan)
    figure, (axes,) = panels(height=2.2 if count <= 6 else 3.3)
    bare(axes)
    axes.set_facecolor(FAINT)
    image = axes.imshow(table, aspect="auto", cmap=SEQUENTIAL, interpolation="nearest")
    if count <= _NAMES:
        axes.set_xticks(range(count), [str(i + 1) for i in range(count)])
        axes.set_yticks(range(count), [f"{short(name)}  {i + 1}" for i, name in enumerate(names)], color=INK)
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                dark = value > (np.nanmin(table) + np.nanmax(table)) / 2
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="#000000" if dark else "#ffffff")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylabel(f"{count} members, by name")
    scale_of(figure, axes, image, "correlation")
    least, most = (np.unravel_index(found(table), table.shape) for found in (np.nanargmin, np.nanargmax))
    return figure, (
        f"Errors are most alike in {names[most[0]]} and {names[most[1]]} ({table[most]:.2f}), least in "
        f"{names[least[0]]} and {names[least[1]]} ({table[least]:.2f}): the less alike, the more a blend gains."
    )
