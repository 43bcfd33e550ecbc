"""Pictures of what the models hear: where they listen, and which speakers lie near each other. These run the models."""

from typing import TYPE_CHECKING

import numpy as np

from kaggle_hw4.errors import DataError
from kaggle_hw4.report.material import Material, Training
from kaggle_hw4.report.svg import FRAMES_PER_SECOND, MUTED, PAPER, SEQUENTIAL, SERIES, bare, panels, scale_of, show_mels
from kaggle_hw4.views import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kaggle_hw4.models.classifier import SpeakerClassifier

_VARIANTS = 5  # that are listened to
_WANTED_FRAMES = 250  # of the utterance
_EMBEDDED = 1_200  # utterances, at most 8 of a speaker
_LINKS = 8  # pairs of speakers joined by a line


def listening(material: Material, which: int) -> "tuple[Figure, str]":
    """Attention-pooling weights over the spectrogram of a held-out utterance, of the `which`-th speaker looked at."""
    trainings = _one_of_each_variant(material)
    fold = trainings[0].job.fold
    row = _utterance(material, fold, which)
    mels = np.asarray(
        material.store.frames[(start := material.store.offsets[row]) : start + material.store.lengths[row]]
    )
    found = {}
    for training in trainings:
        material.tick(f"listening as {training.job.member}")
        weights = pooling_weights(_model(material, training), mels.astype(np.float32))
        if weights is not None:
            found[training.job.name] = np.repeat(weights, training.job.variant.stride)[: len(mels)] * len(weights)
    if not found:
        names = ", ".join(training.job.name for training in trainings)
        raise DataError(f"no variant trained here pools with attention: {names}")
    figure, axes = panels(len(found), height=0.55 + 0.95 * len(found), sharex=True)
    from matplotlib.patheffects import Stroke, withStroke

    for panel, (name, weights) in zip(axes, found.items(), strict=True):
        show_mels(panel, mels.astype(np.float32))
        over = panel.twinx()
        bare(over)
        over.set_yticks([])
        over.set_ylim(0, max(2.0, 1.1 * weights.max()))
        effect: list[Stroke] = [withStroke(linewidth=3.2, foreground="#000000")]
        over.plot(np.arange(len(weights)), weights, color="#ffffff", linewidth=1.3, path_effects=effect)
        panel.set_title(f"{name}: up to {weights.max():.1f} × the mean weight")
        panel.set_yticks([])
        panel.set_xlim(-0.5, len(mels) - 0.5)
    seconds = np.arange(0, len(mels) / FRAMES_PER_SECOND, 0.5)
    axes[-1].set_xticks(seconds * FRAMES_PER_SECOND, [f"{second:g}" for second in seconds])
    axes[-1].set_xlabel("time, s")
    half = {name: _frames_of_half(weights) for name, weights in found.items()}
    narrow = min(half, key=lambda name: half[name])
    wide = max(half, key=lambda name: half[name])
    level = mels.astype(np.float32).mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        louder = float(np.corrcoef(level, found[narrow])[0, 1])
    speaker = material.store.speakers[material.store.labels[row]]
    sentence = f"{speaker}: {narrow} puts half of its weight on {100 * half[narrow]:.0f} % of the frames"
    if wide != narrow:
        sentence += f", {wide} on {100 * half[wide]:.0f} %"
    if np.isfinite(louder):
        kind = "louder" if louder > 0.2 else "softer" if louder < -0.2 else "neither louder nor softer"
        sentence += f"; what {narrow} listens to is {kind} than the rest (correlation {louder:+.2f})"
    return figure, sentence + "."


def _frames_of_half(weights: np.ndarray) -> float:
    """Share of the frames that bear half of the weight: 0.5 where all are alike."""
    sorted_down = np.sort(weights)[::-1].cumsum()
    return float((np.searchsorted(sorted_down, sorted_down[-1] / 2) + 1) / len(weights))


def _one_of_each_variant(material: Material) -> list[Training]:
    """The best member of each variant, trained on one fold that they have in common if there is one."""
    best = {member.finished[0].job.name: member for member in reversed(material.members) if member.finished}
    if not best:
        raise DataError("no training is finished", "Run: kaggle-hw4 train --fold all")
    members = sorted(best.values(), key=lambda member: -(member.accuracy or 0.0))[:_VARIANTS]
    folds = [training.job.fold for member in members for training in member.finished]
    common = max(sorted(set(folds)), key=folds.count)
    return [training for member in members for training in member.finished if training.job.fold == common]


def _model(material: Material, training: Training) -> "SpeakerClassifier":
    from kaggle_hw4.training.artefacts import trained_model

    return trained_model(material.workspace, training.job, material.store, material.folds).eval()


def _utterance(material: Material, fold: int, which: int) -> int:
    """A held-out utterance of a length that can be looked at; each `which` is of another speaker."""
    store, rows = material.store, material.folds.validation_rows(fold)
    near = rows[np.argsort(np.abs(store.lengths[rows] - _WANTED_FRAMES), kind="stable")]
    _, first = np.unique(store.labels[near], return_index=True)
    if len(first) <= which:
        raise DataError(f"fold {fold} holds out {len(first)} speakers only")
    return int(near[np.sort(first)[which]])


def pooling_weights(model: "SpeakerClassifier", mels: np.ndarray) -> np.ndarray | None:
    """Weight of each pooled frame, summing to 1 (mean over heads or features); None where pooling has no attention."""
    import torch

    score = getattr(model.pooling, "score", None)
    if score is None:
        return None
    scores: list[torch.Tensor] = []
    handle = score.register_forward_hook(lambda module, inputs, output: scores.append(output))
    with torch.inference_mode():
        model(torch.from_numpy(mels)[None])
    handle.remove()
    weights: np.ndarray = scores[0].softmax(1).mean(2)[0].numpy()
    return weights


def speaker_map(material: Material) -> "tuple[Figure, str]":
    """Speakers by their mean embedding on held-out utterances, laid out so that neighbours stay neighbours."""
    training = _one_of_each_variant(material)[0]
    material.tick(f"embedding speakers by {training.job.member}")
    classes, means = _mean_embeddings(material, training)
    if len(classes) < 3:
        raise DataError("a map needs three speakers or more")
    places, how = _laid_out(means)
    distances = 1 - means @ means.T
    figure, (axes,) = panels(height=3.5)
    bare(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    naming = material.naming
    speakers, counts, right = naming.by_speaker()
    share = dict(zip(speakers.tolist(), (100 * right / counts).tolist(), strict=True))
    position = {material.store.speakers[c]: i for i, c in enumerate(classes)}
    pairs = [pair for pair in material.confused if pair["a"] in position and pair["b"] in position][:_LINKS]
    links = [(position[pair["a"]], position[pair["b"]]) for pair in pairs]
    for i, j in links:
        axes.plot(*places[[i, j]].T, color=SERIES[1], linewidth=1.2, zorder=1)
    size = 34 if len(classes) <= 100 else 14
    values = [share.get(c, np.nan) for c in classes.tolist()]
    dots = axes.scatter(
        places[:, 0], places[:, 1], c=values, cmap=SEQUENTIAL, s=size, edgecolors=MUTED, linewidths=0.5, zorder=2
    )
    for i in sorted({i for link in links[:4] for i in link}):
        name = short(material.store.speakers[classes[i]], 12)
        box = {"boxstyle": "square,pad=0.05", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.75}
        axes.annotate(name, places[i], (0, 5), textcoords="offset points", ha="center", va="bottom", bbox=box)
    scale_of(figure, axes, dots, "named rightly, %")
    sentence = f"Each dot is a speaker as {training.job.member} hears them ({how}, {len(classes)} speakers)."
    if links:
        others = distances[np.triu_indices(len(classes), 1)]
        nearer = [float((others < distances[i, j]).mean()) for i, j in links]
        sentence += (
            f" The {len(links)} pairs most often confused by {naming.by} (lines) lie nearer to each other than "
            f"{100 * (1 - float(np.median(nearer))):.0f} % of all pairs, in the median."
        )
    return figure, sentence


def _mean_embeddings(material: Material, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the mean of their normalised embeddings, normalised again: (speakers, features)."""
    import torch
    from torch import nn

    from kaggle_hw4.data.crops import Frames
    from kaggle_hw4.inference import predict

    store, rows = material.store, material.folds.validation_rows(training.job.fold)
    most = int(np.clip(_EMBEDDED // len(store.speakers), 1, 8))
    chosen = np.concatenate([rows[store.labels[rows] == c][:most] for c in np.unique(store.labels[rows])])
    model = _model(material, training)
    model.head = nn.Identity()
    embeddings = _normalised(predict(model, Frames(store, torch.device("cpu")), chosen))
    classes, of = np.unique(store.labels[chosen], return_inverse=True)
    sums = np.zeros((len(classes), embeddings.shape[1]))
    np.add.at(sums, of, embeddings)
    return classes, _normalised(sums)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _laid_out(means: np.ndarray) -> tuple[np.ndarray, str]:
    """Places (speakers, 2): by t-SNE, of few speakers by principal components."""
    if len(means) < 12:
        from sklearn.decomposition import PCA

        return PCA(2, random_state=0).fit_transform(means), "principal components"
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(means) - 1) / 3)
    tsne = TSNE(2, metric="cosine", init="pca", perplexity=perplexity, random_state=0)
    return tsne.fit_transform(means.astype(np.float32)), "t-SNE"
