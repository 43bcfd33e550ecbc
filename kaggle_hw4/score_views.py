"""How ensembles, the board and what explains it look in a terminal."""

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kaggle_hw4.views import table_of

if TYPE_CHECKING:
    from kaggle_hw4.check import Finding
    from kaggle_hw4.diff import Report
    from kaggle_hw4.ensemble.blend import Ensemble
    from kaggle_hw4.explain import Chain

_MATRIX_MEMBERS = 8  # more do not fit beside each other


def ensemble_table(made: "Ensemble") -> Group:
    """The members, the methods that were compared, what the blend is honestly worth."""
    summary = made.summary()
    parts: list[Any] = [_members(summary), _methods(summary)]
    if 2 <= len(made.members) <= _MATRIX_MEMBERS:
        parts.append(_pairs(summary["pairs"]))
    parts.append(_seeds(summary["seeds"]))
    legend = (
        "Members out of fold. T: temperature; w/o: the blend's change without it, in points; corr., diff.: correlation "
        "of errors with the others, and share of utterances named otherwise (means); p: paired, against equal weights."
    )
    return Group(*parts, Text(legend, style="dim"), *_verdict(summary), Text(summary["file"]))


def _members(summary: dict[str, Any]) -> Table:
    columns = ("CV", "loss", "T", "weight", "w/o", "corr.", "diff.")
    table = table_of("member", *columns, right=columns)
    for m in summary["members"]:
        table.add_row(
            m["name"] + (" + refit" if m["refit"] else ""),
            f"{m['accuracy']:.4f}",
            f"{m['log_loss']:.3f}",
            f"{m['temperature']:.2f}",
            f"{m['weight']:.3f}",
            points(m["without"]),
            "" if m["error_correlation"] is None else f"{m['error_correlation']:.2f}",
            "" if m["disagreement"] is None else f"{m['disagreement']:.3f}",
        )
    return table


def _methods(summary: dict[str, Any]) -> Table:
    columns = ("CV", "95 % interval", "loss", "p")
    table = table_of("refitted without each fold", *columns, right=columns)
    for m in summary["methods"]:
        p = "" if m["method"] == "equal" else f"{m['p']:.2g}"
        used = " ←" if m["method"] == summary["method"] else ""
        table.add_row(m["method"] + used, f"{m['accuracy']:.4f}", span(m["interval"]), f"{m['log_loss']:.3f}", p)
    table.add_row("best single member", f"{summary['best_single']['accuracy']:.4f}")
    return table


def _pairs(pairs: dict[str, Any]) -> Table:
    names = pairs["names"]
    numbers = [str(i + 1) for i in range(len(names))]
    table = table_of("corr. of errors \\ differ", *numbers, right=tuple(numbers))
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            value = pairs["error_correlation" if j < i else "disagreement"][i][j]
            cells.append("" if i == j or value is None else f"{value:.2f}".replace("0.", "."))
        table.add_row(f"{i + 1} {name}", *cells)
    return table


def _seeds(seeds: dict[str, Any]) -> Group:
    columns = ("seeds", "CV", "to the best", "± seeds alone")
    table = table_of("variant", *columns, right=columns)
    for v in seeds["variants"]:
        difference = points(v["difference"]) if v["difference"] else ""
        noise = "" if v["noise"] is None else f"{100 * v['noise']:.2f}"
        table.add_row(v["name"], str(v["seeds"]), f"{v['accuracy']:.4f}", difference, noise)
    if seeds["sd"] is None:
        note = (
            "How far seeds of one variant spread is not known: train --seed 1, with the options of the first, adds one."
        )
    else:
        note = f"Seeds of one variant spread by {100 * seeds['sd']:.2f} points (standard deviation)."
    return Group(table, Text(note))


def _verdict(summary: dict[str, Any]) -> list[Text]:
    single, equal, method = summary["best_single"], summary["equal"], summary["method"]
    lines = [
        f"Honest accuracy {summary['accuracy']:.4f} ({span(summary['interval'])}; in sample "
        f"{summary['in_sample_accuracy']:.4f}): {points(single['gain'])} points against the best single member "
        f"({span(single['interval'], points=True)}; p = {single['p']:.2g})."
    ]
    if method == "equal":
        others = [m for m in summary["methods"] if m["method"] != "equal"]
        lines += [f"{m['method']} is not better than equal weights (p = {m['p']:.2g})." for m in others]
    elif equal["gain"] > 0 and equal["p"] < 0.05:
        lines.append(f"{method} is better than equal weights by {points(equal['gain'])} points (p = {equal['p']:.2g}).")
    else:
        lines.append(
            f"{method} is not better than equal weights (p = {equal['p']:.2g}; {points(equal['gain'])} points)."
        )
    if any(m["refit"] for m in summary["members"]):
        lines.append(
            "A refit (trained on all labels) has no cross-validation of its own: T and weight are its folds' models', "
            "and it only helps to name the test."
        )
    gain = summary["averaging"]
    added = f"{points(gain['gain'])} ± {100 * gain['sd']:.2f} points"
    lines.append(f"Averaging the folds' models should add {added} in the test.")
    return [Text(line) for line in lines]


def points(value: float | None) -> str:
    """A difference of accuracies in points, signed."""
    return "" if value is None else f"{100 * value:+.2f}"


def span(interval: list[float], points: bool = False) -> str:
    low, high = interval
    return f"{100 * low:+.2f} to {100 * high:+.2f}" if points else f"{low:.4f} to {high:.4f}"


def difference_text(report: "Report") -> Group:
    """Rows that differ, what that can do to the score, the utterances named most confidently differently."""
    d = report.difference
    lines = [
        f"{report.a} and {report.b} name {d.differ:,} of {d.rows:,} test utterances differently.",
        f"The score on all rows can move by {100 * d.most:.2f} points at most, the public one ({d.public:,} rows) by "
        f"{100 * d.most_public:.2f}; standard error of the public difference: {100 * d.standard_error:.2f} points.",
    ]
    if d.expected is not None:
        lines.append(f"Expected from cross-validation: {points(d.expected)} points for {report.b}.")
    lines += [d.sentence, *report.notes]
    if not report.utterances:
        return Group(*map(Text, lines))
    table = table_of("named differently, by the less sure", report.a, "p", report.b, "p ", right=("p", "p "))
    for u in report.utterances:
        sure = ["" if u[key] is None else f"{u[key]:.2f}" for key in ("a_sure", "b_sure")]
        table.add_row(u["id"], u["a"], sure[0], u["b"], sure[1])
    return Group(*map(Text, lines), table)


def chain_table(chain: "Chain") -> Table:
    """The links of a chain, from the score to the code."""
    table = table_of("", "link", "what", "hash", title=chain.name)
    for link in chain.links:
        mark = {"recorded": "", "matches": "ok", "differs": "!!", "not checked": "–"}[link.state]
        kind, _, of = link.link.partition(" ")
        what = f"{of}: {link.what}" if of else link.what
        table.add_row(mark, kind, f"{what} ({link.found})" if link.found else what, link.hash)
    return table


def check_table(findings: "list[Finding]") -> Table:
    """What `check` found, and what it means for the score."""
    table = table_of("", "looked at", "found", "what it means for the score")
    for finding in findings:
        table.add_row("ok" if finding.ok else "!!", finding.name, finding.found, finding.meaning)
    return table
