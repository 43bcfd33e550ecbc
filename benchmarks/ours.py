"""Our side: what `kaggle-hw4 data` does with an archive, and a worker of `kaggle-hw4 train` with the packed store."""

import itertools
import shutil
from functools import partial
from pathlib import Path

import torch

from benchmarks.competition import ARCHIVES, FOLDER, Sizes
from benchmarks.reference import stock_model
from benchmarks.timing import Task, timed
from kaggle_hw4.competition import DEFAULT_SLUG
from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.pack import pack
from kaggle_hw4.data.store import Store
from kaggle_hw4.inference import predict
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.models.layers import from_torchaudio
from kaggle_hw4.training.trainer import Trainer
from kaggle_hw4.variants import variant

_PACKINGS = 4  # in a round: together about as long as the reference's reading, which pays less for a cold start


def training_tasks(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, Task]:
    """What is timed in a process with the environment of a training worker, by name."""
    frames = Frames(_pack(folder / FOLDER, folder / "store"), device)
    tasks: dict[str, Task] = {"loader": _loader_task(frames, sizes.batches)}
    for backbone in ("transformer", "conformer"):
        name = f"{backbone}-full"
        trainer = Trainer(variant(name), frames, [_sampler(frames.store, name)], [0])
        tasks[f"{backbone}_step"] = partial(timed, trainer.train_step, repeats=sizes.steps)
        model = our_model(name, sizes.speakers).to(device)
        tasks[f"{backbone}_inference"] = partial(timed, partial(predict, model, frames, frames.store.test_rows))
    return tasks


def packing_tasks(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, Task]:
    """What is timed in a process with a plain environment, by name."""
    sources = {"pack": FOLDER} | {f"pack_{kind}": archive for kind, archive in ARCHIVES.items()}
    return {name: partial(_time_packing, folder / source, folder / "packed" / name) for name, source in sources.items()}


def our_model(name: str, n_speakers: int) -> SpeakerClassifier:
    """Our model of the variant `name`, with the weights of the reference's."""
    stock = stock_model(name, n_speakers)
    encoder = {f"encoder.{key}": value for key, value in from_torchaudio(stock.encoder.state_dict()).items()}
    pooling = {f"pooling.score.{key}": value for key, value in stock.pooling.state_dict().items()}
    rest = {key: value for key, value in stock.state_dict().items() if key.startswith(("projection.", "head."))}
    model = SpeakerClassifier(variant(name), n_speakers)
    model.load_state_dict(rest | encoder | pooling)
    return model


def _sampler(store: Store, name: str) -> CropSampler:
    v = variant(name)
    return CropSampler(store, store.train_rows, crop=v.crop, batch=v.batch, seed=0)


def _loader_task(frames: Frames, count: int) -> Task:
    sampler, first = _sampler(frames.store, "conformer-full"), itertools.count(step=count)

    def load() -> None:
        start = next(first)
        starts, lengths, _ = map(torch.from_numpy, sampler.batches(start, start + count))
        for step in range(count):
            frames.gather(starts[step], lengths[step], sampler.crop)

    return lambda: [seconds / count for seconds in timed(load)]


def _pack(source: Path, store: Path) -> Store:
    return pack(source, store, competition=DEFAULT_SLUG, dtype="float16", progress=lambda done, total: None)


def _time_packing(source: Path, store: Path) -> list[float]:
    seconds = []
    for _ in range(_PACKINGS):
        seconds += timed(partial(_pack, source, store))
        shutil.rmtree(store)
    return seconds
