"""The other side: the way of the course's sample code, from one file per utterance, with PyTorch's own layers."""

import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.competition import ARCHIVES, FOLDER, Sizes
from benchmarks.timing import Task, timed
from kaggle_hw4.competition import N_MELS
from kaggle_hw4.variants import Variant, variant

WORKERS = (2, 8)  # of the loader: as suits a small machine, and as in the sample code
_PADDING = -20.0  # about the log-mel of silence
_PREFETCH = 2  # batches that each worker of a loader keeps ready
_IN_MEMORY = 4  # batches that a training goes round

Batch = tuple[Tensor, Tensor]  # log-mels (batch, time, 40), classes (batch,)


class Crops(Dataset[tuple[Tensor, int]]):
    """A random crop of each labelled utterance, read from its file every time."""

    def __init__(self, folder: Path, crop: int) -> None:
        speakers = json.loads((folder / "metadata.json").read_text())["speakers"]
        numbers = json.loads((folder / "mapping.json").read_text())["speaker2id"]
        self.crop = crop
        self.items = [
            (folder / entry["feature_path"], numbers[speaker])
            for speaker, entries in speakers.items()
            for entry in entries
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, speaker = self.items[index]
        mel = torch.load(path, weights_only=True)
        start = random.randint(0, max(len(mel) - self.crop, 0))
        return mel[start : start + self.crop], speaker


def collate(samples: list[tuple[Tensor, int]]) -> Batch:
    mels, speakers = zip(*samples, strict=True)
    return pad_sequence(list(mels), batch_first=True, padding_value=_PADDING), torch.tensor(speakers)


class StockConformer(torchaudio.models.Conformer):
    """torchaudio's, told that every row is full."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, torch.full((x.shape[0],), x.shape[1], device=x.device))[0]


class StockClassifier(nn.Module):
    """The architecture of a variant with full self-attention pooling and a linear head, of stock layers."""

    def __init__(self, v: Variant, n_speakers: int) -> None:
        super().__init__()
        self.projection = nn.Linear(N_MELS, v.d_model)
        self.encoder: nn.Module
        if v.backbone == "transformer":
            options = (v.d_model, v.heads, v.feedforward, v.dropout)
            layers = (nn.TransformerEncoderLayer(*options, batch_first=True) for _ in range(v.layers))
            self.encoder = nn.Sequential(*layers)
        else:
            self.encoder = StockConformer(v.d_model, v.heads, v.feedforward, v.layers, v.kernel, v.dropout)
        self.pooling = nn.Sequential(nn.Linear(v.d_model, v.attention_size), nn.Tanh(), nn.Linear(v.attention_size, 1))
        self.head = nn.Linear(v.d_model, n_speakers)

    def forward(self, mels: Tensor) -> Tensor:
        x = self.encoder(self.projection(mels))
        return self.head((x * self.pooling(x).softmax(1)).sum(1))


def stock_model(name: str, n_speakers: int) -> StockClassifier:
    """The model of the variant `name`, with the same weights at every call: both sides begin with them."""
    torch.manual_seed(0)
    return StockClassifier(variant(name), n_speakers)


@torch.inference_mode()
def predict_each(model: nn.Module, utterances: list[Tensor], device: torch.device) -> Tensor:
    """Logits of whole utterances, one at a time."""
    model.eval()
    return torch.cat([model(mel[None].to(device)).cpu() for mel in utterances])


def reference_tasks(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, Task]:
    """All that is timed here, by name; `folder` is that of `write_competition`."""
    data = folder / FOLDER
    entries = json.loads((data / "testdata.json").read_text())["utterances"]
    utterances = [torch.load(data / entry["feature_path"], weights_only=True) for entry in entries]
    batches = list(islice(_endless_batches(data, 0), _IN_MEMORY))
    tasks: dict[str, Task] = {"load": partial(timed, partial(_load_all, sorted(data.glob("*.pt"))))}
    for workers in WORKERS:
        loader = _endless_batches(data, workers)
        tasks[f"loader_{workers}_workers"] = partial(_time_loader, loader, _PREFETCH * workers, sizes.batches)
    for backbone in ("transformer", "conformer"):
        name = f"{backbone}-full"
        step = _training_step(name, stock_model(name, sizes.speakers).to(device), batches, device)
        tasks[f"{backbone}_step"] = partial(timed, step, repeats=sizes.steps)
        model = stock_model(name, sizes.speakers).to(device)
        tasks[f"{backbone}_inference"] = partial(timed, partial(predict_each, model, utterances, device))
    for kind, archive in ARCHIVES.items():
        tasks[f"unpack_{kind}"] = partial(_time_unpacking, folder / archive, folder / "unpacked")
    return tasks


def _endless_batches(folder: Path, workers: int) -> Iterator[Batch]:
    """A loader's batches; it never ends, so that no round pays for the start of an epoch."""
    v = variant("conformer-full")
    data = Crops(folder, v.crop)
    order = RandomSampler(data, replacement=True, num_samples=2**40)
    # Eight workers on a small machine draw a warning.
    warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
    return iter(DataLoader(data, v.batch, sampler=order, num_workers=workers, collate_fn=collate))


def _time_loader(batches: Iterator[Batch], in_flight: int, count: int) -> list[float]:
    for _ in range(in_flight):
        next(batches)  # made since the last round, while nobody waited for them
    seconds = timed(partial(next, batches), together=count)
    time.sleep(2 * in_flight * max(seconds))  # the workers make as many again: not in another's turn
    return seconds


def _training_step(name: str, model: nn.Module, batches: list[Batch], device: torch.device) -> Callable[[], None]:
    """A step on batches that are in memory already."""
    v, endless = variant(name), cycle(batches)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=v.lr)

    def step() -> None:
        mels, speakers = next(endless)
        loss = criterion(model(mels.to(device)), speakers.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), v.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _load_all(paths: list[Path]) -> None:
    for path in paths:
        torch.load(path, weights_only=True)


def _time_unpacking(archive: Path, folder: Path) -> list[float]:
    seconds = timed(partial(shutil.unpack_archive, archive, folder))
    shutil.rmtree(folder)
    return seconds
