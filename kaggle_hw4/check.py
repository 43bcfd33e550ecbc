"""`kaggle-hw4 check`: what in the data will hurt, and what each finding means for the score."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.data.pooled import pooled
from kaggle_hw4.data.store import Store
from kaggle_hw4.data.twins import Pair, exact_twins, near_twins
from kaggle_hw4.ensemble.members import complete_members, load_fold
from kaggle_hw4.folds import Folds
from kaggle_hw4.runs import Run
from kaggle_hw4.workspace import Workspace

_SHOWN = 10  # pairs of speakers or utterances
_MOST_ROWS = 20_000  # for the classifier of train against test
_ROWS_FOR_THREADS = 5_000
_SIGNIFICANT = 0.01
# One person under two ids: so large a share of the two speakers' utterances is named as the other, by who is right with
# so many of all others. Who knows no voice well takes different people for each other as often.
_ONE_PERSON, _KNOWS_VOICES = 0.25, 0.8


@dataclass(frozen=True)
class Finding:
    """`name` was looked at; `found` says what there is, `meaning` what that does to the score; `ok` if nothing."""

    name: str
    ok: bool
    found: str
    meaning: str
    figures: dict[str, Any]


def check_data(workspace: Workspace, store: Store, folds: Folds, tick: Callable[[str], None]) -> list[Finding]:
    """All findings. Raises DataError when a member's logits cannot be read."""
    tick("pooling statistics")
    statistics = pooled(store)
    tick("train against test")
    findings = [adversarial(store, statistics), *drift(store, statistics)]
    tick("twins")
    exact = exact_twins(store)
    near = near_twins(store, statistics, tick)
    findings += [
        _twins(store, "twins", exact),
        _twins(store, "near-twins", near),
        _across_speakers(store, exact + near),
    ]
    tick("confusions")
    return [*findings, confusions(workspace, store, folds, statistics)]


def _untold(name: str, **figures: Any) -> Finding:
    return Finding(name, True, "too few utterances to tell", "Nothing is known.", figures)


def adversarial(store: Store, statistics: np.ndarray) -> Finding:
    """Can a classifier tell train from test by pooled statistics and length? Area under the ROC curve, 5-fold."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    features = np.column_stack([statistics, np.log(store.lengths)])
    is_test = (store.labels < 0).astype(int)
    rng = np.random.default_rng(0)
    spare = max(_MOST_ROWS - int(is_test.sum()), 1_000)
    chosen = np.concatenate([store.test_rows, rng.permutation(store.train_rows)[:spare]])
    smaller = int(min(is_test[chosen].sum(), len(chosen) - is_test[chosen].sum()))
    if smaller < 10:
        return _untold("train against test", auc=None)
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    splitter = StratifiedKFold(5, shuffle=True, random_state=0)
    # On a busy machine threads that wait for each other at every split take minutes for what one does in seconds.
    with threadpool_limits(None if len(chosen) >= _ROWS_FOR_THREADS else 1, "openmp"):
        said = cross_val_predict(model, features[chosen], is_test[chosen], cv=splitter, method="predict_proba")[:, 1]
    auc = float(roc_auc_score(is_test[chosen], said))
    n, m = int(is_test[chosen].sum()), int((1 - is_test[chosen]).sum())
    error = ((n + m + 1) / (12 * n * m)) ** 0.5  # of the AUC, were there nothing to tell (Mann and Whitney)
    drifts = auc > 0.5 + 2.6 * error and auc > 0.55
    return Finding(
        "train against test",
        not drifts,
        f"a classifier tells them apart with an AUC of {auc:.3f} (0.5 is chance, ± {error:.3f})",
        "The test is recorded otherwise than the training data: cross-validation may promise too much."
        if drifts
        else "Test and training utterances are alike: cross-validation foretells the leaderboard.",
        {"auc": auc, "standard_error": error, "utterances": len(chosen)},
    )


def drift(store: Store, statistics: np.ndarray) -> list[Finding]:
    """Two-sample Kolmogorov–Smirnov tests of lengths (frames) and levels (mean log mel) of train and test."""
    from scipy.stats import ks_2samp

    findings = []
    levels = statistics[:, :N_MELS].mean(1)
    for name, values, unit in (("length", store.lengths, "frames"), ("level", levels, "log mel")):
        train, test = values[store.train_rows], values[store.test_rows]
        found = ks_2samp(train, test)
        medians = float(np.median(train)), float(np.median(test))
        differs = bool(found.pvalue < _SIGNIFICANT and found.statistic > 0.05)
        harder = name == "length" and medians[1] < medians[0]
        findings.append(
            Finding(
                f"{name} of train and test",
                not differs,
                f"medians {medians[0]:.4g} and {medians[1]:.4g} {unit}; largest gap of the distributions "
                f"{found.statistic:.3f} (p = {found.pvalue:.2g})",
                (
                    "Shorter utterances are harder: expect the test below cross-validation."
                    if harder
                    else "They differ: where the test is unlike, cross-validation says less."
                )
                if differs
                else "No difference that matters.",
                {"train": medians[0], "test": medians[1], "gap": float(found.statistic), "p": float(found.pvalue)},
            )
        )
    return findings


def _twins(store: Store, name: str, pairs: list[Pair]) -> Finding:
    across = [pair for pair in pairs if (store.labels[pair.a] < 0) != (store.labels[pair.b] < 0)]
    train = sum(store.labels[pair.a] >= 0 and store.labels[pair.b] >= 0 for pair in pairs)
    points = 100 * len({max(pair.a, pair.b) for pair in across}) / len(store.test_rows)
    meaning = "Every utterance is a recording of its own."
    if pairs:
        together = (
            "stay in one fold, so that validation stays honest"
            if name == "twins"
            else ("may be in two folds, which flatters cross-validation by as much as their share")
        )
        meaning = (
            f"A model that saw the twin in training names {points:.2f} % of the test for sure; twins within the "
            f"training data {together}."
        )
    return Finding(
        name,
        not pairs,
        f"{len(pairs)} pairs: {len(across)} across train and test, {train} within train, "
        f"{len(pairs) - len(across) - train} within test",
        meaning,
        {"pairs": [_named(store, pair) for pair in pairs], "across": len(across), "test_percent": points},
    )


def _across_speakers(store: Store, pairs: list[Pair]) -> Finding:
    """Twins under two speaker ids."""
    labels = store.labels
    mixed = [p for p in pairs if min(labels[p.a], labels[p.b]) >= 0 and labels[p.a] != labels[p.b]]
    ids = sorted({tuple(sorted((store.speakers[labels[p.a]], store.speakers[labels[p.b]]))) for p in mixed})
    some = "; ".join(" and ".join(pair) for pair in ids[:_SHOWN])
    return Finding(
        "one recording under two speakers",
        not mixed,
        f"{len(mixed)} pairs{': ' + some if mixed else ''}",
        "They are one person under two ids, or a label is wrong: whatever a model says, one of the two is lost."
        if mixed
        else "No label contradicts another.",
        {"pairs": [_named(store, pair) for pair in mixed]},
    )


def _named(store: Store, pair: Pair) -> dict[str, Any]:
    def one(row: int) -> dict[str, Any]:
        label = store.labels[row]
        return {"id": str(store.index["id"].iloc[row]), "speaker": store.speakers[label] if label >= 0 else None}

    return {"a": one(pair.a), "b": one(pair.b), "likeness": pair.likeness}


def confusions(workspace: Workspace, store: Store, folds: Folds, statistics: np.ndarray) -> Finding:
    """The pairs of speakers most often named as each other, out of fold: by the best of the members trained on every
    fold and a linear classifier on pooled statistics."""
    labels = store.labels[store.train_rows]
    if min(len(folds.training_rows(fold)) for fold in range(folds.k)) <= len(store.speakers):
        return _untold("speakers most confused", by=None, pairs=[], points=None)  # no classifier can be fitted
    by, picks = _picks(workspace, store, folds, statistics)
    rows = confused_pairs(store.speakers, labels, picks)
    same = [
        row for row in rows if row["share"] >= _ONE_PERSON and _others_right(store, labels, picks, row) >= _KNOWS_VOICES
    ]
    cost = 100 * sum(row["a_as_b"] + row["b_as_a"] for row in rows) / len(labels)
    some = "; ".join(f"{r['a']} and {r['b']} ({r['a_as_b']} + {r['b_as_a']})" for r in rows[:5])
    if len(rows) > 5:
        some += f"; and {len(rows) - 5} more"
    these = "This pair costs" if len(rows) == 1 else f"These {len(rows)} pairs cost"
    meaning = f"{these} {cost:.2f} points of the accuracy out of fold ({by})."
    if not rows:
        meaning = f"No two speakers are taken for each other ({by})."
    if same:
        pairs = "; ".join(f"{row['a']} and {row['b']}" for row in same)
        meaning += f" So often confused that they may be one person: {pairs}."
    return Finding(
        "speakers most confused", not same, some or "none", meaning, {"by": by, "pairs": rows, "points": cost}
    )


def _others_right(store: Store, labels: np.ndarray, picks: np.ndarray, pair: dict[str, Any]) -> float:
    """The accuracy on the utterances of all speakers but a pair; 0 where there are none."""
    others = ~np.isin(labels, [store.speakers.index(pair["a"]), store.speakers.index(pair["b"])])
    return float((picks == labels)[others].mean()) if others.any() else 0.0


def confused_pairs(speakers: list[str], labels: np.ndarray, picks: np.ndarray) -> list[dict[str, Any]]:
    """The pairs of speakers most often named as each other, worst first: ids `a` and `b`, how often each was named
    as the other, and the share of the two speakers' utterances that are. `labels` and `picks` are (utterances,)."""
    count = len(speakers)
    wrong = np.flatnonzero(picks != labels)
    table = np.bincount(labels[wrong] * count + picks[wrong], minlength=count * count).reshape(count, count)
    both = np.triu(table + table.T, 1)
    sizes = np.bincount(labels, minlength=count)
    rows = []
    for place in np.argsort(-both, axis=None, kind="stable")[:_SHOWN].tolist():
        a, b = divmod(place, count)
        if both[a, b]:
            share = both[a, b] / (sizes[a] + sizes[b])
            named = {"a": speakers[a], "b": speakers[b]}
            rows.append(named | {"a_as_b": int(table[a, b]), "b_as_a": int(table[b, a]), "share": float(share)})
    return rows


def _picks(workspace: Workspace, store: Store, folds: Folds, statistics: np.ndarray) -> tuple[str, np.ndarray]:
    """Who names, and the class of each training utterance (train utterances,) out of fold."""
    labels = store.labels[store.train_rows]
    best, picks = "linear classifier on pooled statistics", _linear_picks(labels, folds, statistics)
    right = float((picks == labels).mean())
    for name in complete_members(workspace, folds.k)[0]:
        found = np.full(len(labels), -1)
        for fold in range(folds.k):
            run, rows = Run(workspace.runs / name / f"fold{fold}"), folds.validation_rows(fold)
            record = run.read_record()
            if isinstance(record, dict) and record.get("folds") != folds.hash:
                break  # of another split
            oof = load_fold(workspace, store, folds, name, fold).oof
            assert oof, "no refit"
            found[rows] = np.concatenate([part.argmax(1) for part in np.array_split(oof.array, len(rows) // 4096 + 1)])
        if (found >= 0).all() and (accuracy := float((found == labels).mean())) > right:
            best, picks, right = name, found, accuracy
    return best, picks


def _linear_picks(labels: np.ndarray, folds: Folds, statistics: np.ndarray) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    picks = np.empty(len(labels), int)
    for fold in range(folds.k):
        rows, others = folds.validation_rows(fold), folds.training_rows(fold)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(statistics[others], labels[others])
        picks[rows] = model.predict(statistics[rows])
    return picks
