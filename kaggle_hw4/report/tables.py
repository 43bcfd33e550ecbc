"""The tables of the report, its headline and where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaggle_hw4.board import SubmissionLine, best_first
from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.explain import explain
from kaggle_hw4.ledger import number
from kaggle_hw4.report.material import Material
from kaggle_hw4.report.svg import FRAMES_PER_SECOND
from kaggle_hw4.version import code_version

Value = str | float | int | None


@dataclass(frozen=True)
class Column:
    """`form` makes text of a number; a column of texts has none."""

    name: str
    form: Callable[[float], str] | None = None


@dataclass(frozen=True)
class Table:
    """`rows` are in the order of the column `by` (its place), which `falls` or rises; the first column heads a row."""

    key: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Value]]
    by: int
    falls: bool = True

    def text(self, column: int, value: Value) -> str:
        form = self.columns[column].form
        return "" if value is None else form(float(value)) if form and not isinstance(value, str) else str(value)


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _score(value: float) -> str:
    return f"{value:.5f}"


def member_table(material: Material) -> Table:
    """Members with what their trainings and the ensemble say of them."""
    try:
        in_ensemble = {member["name"]: member for member in material.ensemble["members"]}
    except HW4Error:
        in_ensemble = {}
    rows: list[list[Value]] = []
    for member in material.members:
        found = in_ensemble.get(member.name, {})
        losses = [t.result["log_loss"] for t in member.finished if t.result and t.result.get("log_loss") is not None]
        seconds = [t.result["train_seconds"] for t in member.finished if t.result and "train_seconds" in t.result]
        steps = max((training.job.variant.steps for training in member.trainings), default=0)
        rows.append(
            [
                member.name,
                member.accuracy,
                len(member.finished),
                float(np.mean(losses)) if losses else None,
                *(found.get(key) for key in ("temperature", "weight", "without")),
                steps,
                float(np.mean(seconds)) if seconds else None,
            ]
        )
    columns = [
        Column("member"),
        Column("CV", _share),
        Column(f"folds of {material.k}", _count),
        Column("log loss", "{:.3f}".format),
        Column("T", "{:.2f}".format),
        Column("weight", "{:.3f}".format),
        Column("without, points", _points),
        Column("steps", _count),
        Column("s per fold", _count),
    ]
    caption = (
        "CV: accuracy on whole utterances, each named by a model not trained on it. T: temperature, weight, and the "
        "change of the ensemble without the member, where it is one of the ensemble's."
    )
    rows.sort(key=lambda row: -float(row[1] or 0))
    return Table("members", "Members", caption, columns, rows, 1)


def submission_table(material: Material) -> Table:
    """Submissions and ensembles that were not sent."""
    board = material.board
    lines = [*board.submissions, *board.unsent]
    if not lines:
        raise DataError("there is no submission, and no ensemble to be one", "Run: kaggle-hw4 submit")
    columns = [
        Column("submission"),
        Column("CV", _share),
        Column("± points", lambda value: f"{100 * value:.2f}"),
        Column("public", _score),
        Column("private", _score),
        Column("expected from", "{:.4f}".format),
        Column("to", "{:.4f}".format),
        Column("z", "{:+.1f}".format),
        Column("place", _count),
        Column("state"),
        Column("sent, UTC"),
    ]
    rows = [_submission(line) for line in sorted(lines, key=best_first)]
    notes = [
        f"Rank correlation of CV and {kind} score over {found.submissions} submissions: {found.rho:+.2f}."
        for kind, found in board.correlations.items()
    ]
    caption = (
        "±: half the 95 % interval. Expected: 95 % of public scores should lie there; z: standard deviations from the "
        "middle."
    )
    return Table("submissions", "Submissions", " ".join([caption, *notes]), columns, rows, 3)


def _submission(line: SubmissionLine) -> list[Value]:
    half = (line.interval[1] - line.interval[0]) / 2 if line.interval else None
    low, high, z = (line.band.low, line.band.high, line.band.z) if line.band else (None, None, None)
    sent = line.created.replace("T", " ")[:16]
    public, private = number(line.public), number(line.private)
    return [line.name, line.accuracy, half, public, private, low, high, z, line.place, line.state, sent]


def speaker_table(material: Material) -> Table:
    """Speakers, worst first, and whom they are taken for."""
    naming, names = material.naming, material.store.speakers
    rows: list[list[Value]] = []
    lengths = material.store.lengths[naming.rows]
    for c, count, right in zip(*(found.tolist() for found in naming.by_speaker()), strict=True):
        mine = naming.labels == c
        wrong = naming.picks[mine & ~naming.right]
        taken_for, times = None, None
        if len(wrong):
            others, found = np.unique(wrong, return_counts=True)
            taken_for, times = names[others[found.argmax()]], int(found.max())
        rows.append(
            [
                names[c],
                right / count,
                count,
                count - int(right),
                taken_for,
                times,
                float(np.median(lengths[mine])) / FRAMES_PER_SECOND,
            ]
        )
    rows.sort(key=lambda row: (float(row[1] or 0), -float(row[3] or 0)))
    columns = [
        Column("speaker"),
        Column("named rightly", _share),
        Column("utterances", _count),
        Column("errors", _count),
        Column("most often named"),
        Column("times", _count),
        Column("median length, s", "{:.2f}".format),
    ]
    caption = f"Named out of fold by {naming.by}; worst first."
    if naming.calibrations[0].after:
        caption += " Its weights are those fitted to all of these utterances: here it may read a little better than in "
        caption += "cross-validation, for which they are fitted without each fold."
    return Table("speakers", "Speakers", caption, columns, rows, 1, falls=False)


@dataclass(frozen=True)
class Tile:
    """A figure of the headline."""

    label: str
    value: str
    note: str = ""


def headline(material: Material) -> tuple[str, list[Tile]]:
    """What is best, in a sentence and in figures. Nothing of it raises: what is not known is left out."""
    try:
        best, baselines = material.best_submission, material.board.competition.baselines
    except HW4Error:
        best, baselines = None, {}
    tiles = []
    if best is None:
        sentence = "Nothing is submitted yet."
    else:
        public, private = number(best.public), number(best.private)
        count = sum(line.public is not None for line in material.board.submissions)
        of = f"of {count} submissions, by public score" if count > 1 else "submission"
        sentence = f"Best {of}: {best.name}." if public is not None else f"Best so far: {best.name}, {best.state}."
        if public is not None:
            passed = [name for name, line in baselines.items() if public >= line]
            note = f"passes the {passed[-1]} line" if passed else "below the simple line" if baselines else ""
            place = f"; place {best.place} of {best.teams}" if best.place else ""
            tiles.append(Tile("public", f"{public:.5f}", note + place))
        if private is not None:
            tiles.append(Tile("private", f"{private:.5f}"))
        if best.accuracy is not None:
            half = f" ± {100 * (best.interval[1] - best.interval[0]) / 2:.2f}" if best.interval else ""
            tiles.append(Tile("cross-validation", f"{100 * best.accuracy:.2f}{half} %", "95 % interval, out of fold"))
        if best.band:
            tiles.append(Tile("expected in public", f"{best.band.low:.3f}–{best.band.high:.3f}", "95 % of scores"))
    try:
        done = sum(len(member.finished) for member in material.members)
        begun = sum(len(member.trainings) for member in material.members) - done
        note = f"{done} of {len(material.members) * material.k} trainings done" + (f", {begun} begun" if begun else "")
        tiles.append(Tile("members", str(len(material.members)), note))
    except HW4Error:
        pass
    try:
        store = material.store
        note = f"{len(store.train_rows):,} labelled and {len(store.test_rows):,} test utterances"
        tiles.append(Tile("speakers", f"{len(store.speakers):,}", note))
    except HW4Error:
        pass
    return sentence, tiles


def provenance(material: Material) -> list[tuple[str, str, str]]:
    """Links from the best submission back to the code: link, what it is, its hash. Nothing of it raises."""
    root = f"{material.workspace.root}/"
    links = []
    try:
        if (best := material.best_submission) is not None:
            name = best.name if best.ref is None else str(best.ref)  # another of the same name may have been sent since
            chain = explain(material.workspace, material.edition.slug, name, verify=False)
            links = [(link.link, link.what.replace(root, ""), link.hash) for link in chain.links]
    except HW4Error as error:
        links = [("chain", error.cause.replace(root, ""), "")]
    try:
        store = material.store
        links.append(("source of the data", Path(store.source).name, store.hash))
        links.append(("split", f"{material.folds.k} folds, seed {material.folds.seed}", material.folds.hash))
    except HW4Error:
        pass
    try:
        results = [training.result for member in material.members for training in member.finished if training.result]
        for key in ("hardware", "torch"):
            for value in sorted({str(result[key]) for result in results if key in result}):
                links.append((f"trained with {key}", value, ""))
    except HW4Error:
        pass
    return [*links, ("this report", f"kaggle-hw4 {code_version()}", "")]
