"""Pictures of who is named as whom: how sure, how long an utterance it takes, which speakers are mistaken."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError
from kaggle_hw4.report.material import Material
from kaggle_hw4.report.naming import Judged
from kaggle_hw4.report.svg import FAINT, FRAMES_PER_SECOND, INK, MUTED, SERIES, panels, show_mels, whole_numbers
from kaggle_hw4.views import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 10
_LENGTHS = 8  # bins of equal numbers of utterances
_EXAMPLES = 3  # pairs of speakers
_EXCERPT = 200  # frames of an example


def reliability(material: Material) -> "tuple[Figure, str]":
    """Share named rightly by the probability given, without and with temperatures."""
    naming = material.naming
    figure, axes = panels(1, 2, height=2.7, sharex=True, sharey=True)
    sides: list[list[Judged | None]] = [[found.before for found in naming.calibrations]]
    sides.append([found.after for found in naming.calibrations])
    markers = ("o", "s", "^", "D")
    for panel, side, title in zip(axes, sides, ("without temperatures", "with temperatures"), strict=True):
        panel.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=":")
        panel.set_title(title)
        for judged, found, colour, marker in zip(side, naming.calibrations, SERIES, markers, strict=False):
            if judged:
                sure, right, _ = _binned(judged)
                name = "the ensemble" if found.name == naming.by and len(sides[0]) > 1 else short(found.name)
                panel.plot(
                    100 * sure, 100 * right, color=colour, marker=marker, markersize=3.5, label=name, linewidth=1.2
                )
        if not any(side):
            panel.text(50, 50, "none fitted", ha="center", va="center", color=MUTED)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    axes[0].set_xlabel("probability given, %")
    axes[0].set_ylabel("named rightly, %")
    worst = max(naming.calibrations, key=lambda found: _gap(found.before))
    sentence = f"Without temperatures {worst.name} is off by {100 * _gap(worst.before):.1f} points on average"
    if worst.after:
        sentence += f", with its temperature, fitted to these utterances, by {100 * _gap(worst.after):.1f}"
    else:
        sentence += "; temperatures are fitted by kaggle-hw4 ensemble"
    return figure, sentence + " (expected calibration error; the dotted line is a namer who is as right as sure)."


def _binned(judged: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share named rightly and number of utterances of each bin that has any."""
    bins = np.minimum((judged.sure * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    there = counts > 0
    sure = np.bincount(bins, judged.sure, _BINS)[there] / counts[there]
    right = np.bincount(bins, judged.right, _BINS)[there] / counts[there]
    return sure, right, counts[there]


def _gap(judged: Judged) -> float:
    """Expected calibration error (Guo et al. 2017), 10 bins."""
    sure, right, counts = _binned(judged)
    return float(np.average(np.abs(sure - right), weights=counts))


def accuracy_by_length(material: Material) -> "tuple[Figure, str]":
    """Accuracy of short and long utterances, with 95 % (Wilson) intervals."""
    from scipy.stats import binomtest

    naming = material.naming
    seconds = material.store.lengths[naming.rows] / FRAMES_PER_SECOND
    order = np.argsort(seconds, kind="stable")
    parts = np.array_split(order, max(1, min(_LENGTHS, len(order) // 12)))
    middles = np.array([np.median(seconds[part]) for part in parts])
    accuracy = np.array([naming.right[part].mean() for part in parts])
    bounds = np.array(
        [binomtest(int(naming.right[part].sum()), len(part)).proportion_ci(method="wilson") for part in parts]
    )
    figure, (axes,) = panels(height=2.3)
    reach = 100 * np.abs(bounds.T - accuracy)
    axes.errorbar(middles, 100 * accuracy, reach, color=SERIES[0], marker="o", markersize=4, capsize=0, elinewidth=1)
    axes.axhline(100 * naming.right.mean(), color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlabel(f"length, s (groups of about {len(parts[0])} utterances)")
    axes.set_ylabel("named rightly, %")
    difference = 100 * (accuracy[-1] - accuracy[0])
    return figure, (
        f"The shortest utterances (about {middles[0]:.1f} s) are named rightly in {100 * accuracy[0]:.1f} % of cases, "
        f"the longest ({middles[-1]:.1f} s) in {100 * accuracy[-1]:.1f} %: {difference:+.1f} points. Dotted: all."
    )


def speaker_accuracy(material: Material) -> "tuple[Figure, str]":
    """Accuracy of every speaker, worst first."""
    naming = material.naming
    speakers, counts, right = naming.by_speaker()
    shares = right / counts
    order = np.argsort(shares, kind="stable")
    figure, (axes,) = panels(height=2.2)
    places = np.arange(len(order) + 1)
    axes.stairs(100 * shares[order], places, fill=True, color=SERIES[0], alpha=0.75)
    axes.axhline(100 * naming.right.mean(), color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlim(0, len(order))
    axes.set_ylim(0, 100)
    whole_numbers(axes)
    axes.set_xlabel(f"{len(order)} speakers, worst first")
    axes.set_ylabel("named rightly, %")
    wrong = (counts - right)[order]
    worst = material.store.speakers[speakers[order[0]]]
    if not wrong.sum():
        return figure, "Every speaker is always named rightly."
    tenth = max(1, len(order) // 10)
    return figure, (
        f"The worst tenth of the speakers makes {100 * wrong[:tenth].sum() / wrong.sum():.0f} % of the errors; hardest "
        f"is {worst} ({100 * shares[order[0]]:.0f} % named rightly). Never mistaken: {int((shares == 1).sum())}."
    )


def confusions(material: Material) -> "tuple[Figure, str]":
    """The pairs of speakers most often taken for each other."""
    pairs = _some_pairs(material)
    figure, (axes,) = panels(height=1.1 + 0.26 * len(pairs))
    places = np.arange(len(pairs))
    there, back = ([pair[key] for pair in pairs] for key in ("a_as_b", "b_as_a"))
    axes.barh(places, there, 0.62, color=SERIES[0], label="first named as second")
    axes.barh(places, back, 0.62, left=there, color=SERIES[1], label="second named as first")
    axes.set_yticks(places, [f"{short(pair['a'], 14)} · {short(pair['b'], 14)}" for pair in pairs], color=INK)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("utterances")
    whole_numbers(axes)
    figure.legend(loc="outside lower center", ncols=1)
    worst, wrong = pairs[0], int((~material.naming.right).sum())
    share = 100 * sum(there + back) / wrong
    return figure, (
        f"{worst['a']} and {worst['b']} are taken for each other in {worst['a_as_b'] + worst['b_as_a']} utterances, "
        f"{100 * worst['share']:.0f} % of what they said; these {len(pairs)} pairs make {share:.0f} % of all errors."
    )


def _some_pairs(material: Material) -> list[dict[str, Any]]:
    if not material.confused:
        raise DataError(f"no utterance is named wrongly by {material.naming.by}")
    return material.confused


def confused_spectrograms(material: Material) -> "tuple[Figure, str]":
    """An utterance that was named as another speaker, beside one of that speaker."""
    naming, store = material.naming, material.store
    pairs = _some_pairs(material)[:_EXAMPLES]
    figure, axes = panels(len(pairs), 2, height=0.4 + 1.2 * len(pairs))
    number = {name: i for i, name in enumerate(store.speakers)}
    for i, pair in enumerate(pairs):
        said, named = (pair["a"], pair["b"]) if pair["a_as_b"] >= pair["b_as_a"] else (pair["b"], pair["a"])
        mistaken = (naming.labels == number[said]) & (naming.picks == number[named])
        typical = (naming.labels == number[named]) & naming.right
        typical = typical if typical.any() else naming.labels == number[named]
        for panel, which, title in (
            (axes[2 * i], mistaken, f"{short(said, 12)}, named {short(named, 12)}"),
            (axes[2 * i + 1], typical, short(named, 22)),
        ):
            show_mels(panel, _excerpt(store, naming.rows[which]))
            panel.set_title(title)
            panel.set_xticks([])
            panel.set_yticks([])
    figure.supxlabel("time: up to 2 s", fontsize="medium", color=MUTED)
    figure.supylabel("mel band", fontsize="medium", color=MUTED)
    return figure, (
        "Left an utterance that was named wrongly, right one of the speaker it was taken for: look for the same bands "
        f"of energy. {pairs[0]['a']} and {pairs[0]['b']} are the pair most often confused."
    )


def _excerpt(store: Store, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The middle of the longest of these utterances: (frames, 40)."""
    row = max(rows, key=lambda row: store.lengths[row])
    skipped = max(0, int(store.lengths[row]) - _EXCERPT) // 2
    start = store.offsets[row] + skipped
    return np.asarray(store.frames[start : start + min(_EXCERPT, int(store.lengths[row]))], np.float32)


def lengths(material: Material) -> "tuple[Figure, str]":
    """How long training and test utterances are."""
    store = material.store
    seconds = store.lengths / FRAMES_PER_SECOND
    train, test = seconds[store.train_rows], seconds[store.test_rows]
    edges = np.linspace(0, np.percentile(seconds, 99.5), 33)
    figure, (axes,) = panels(height=2.1)
    for values, colour, name, style in ((train, SERIES[0], "training", "-"), (test, SERIES[1], "test", "--")):
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(100 * shares, edges, color=colour, linewidth=1.6, linestyle=style, label=name)
        axes.axvline(float(np.median(values)), color=colour, linewidth=0.8, linestyle=style)
    axes.set_xlabel("length, s")
    axes.set_ylabel("utterances, %")
    axes.legend()
    axes.axhline(0, color=FAINT, linewidth=0.8)
    return figure, (
        f"Half of the {len(train):,} training utterances are longer than {np.median(train):.2f} s, half of the "
        f"{len(test):,} test utterances longer than {np.median(test):.2f} s (thin lines)."
    )
