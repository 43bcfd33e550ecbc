"""Crops and batches: inside their utterances, every utterance once an epoch, any step to be had again."""

from pathlib import Path

import numpy as np
import tiny
import torch

from kaggle_hw4.data.crops import CropSampler, Frames, length_buckets, random_crops


def test_crops_lie_inside_their_utterance_and_short_ones_are_whole(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    frames = Frames(store, torch.device("cpu"))
    rows = store.train_rows
    x, lengths = frames.pieces(*random_crops(frames, rows, 40, np.random.default_rng(0)))
    assert lengths is not None
    np.testing.assert_array_equal(lengths, np.minimum(store.lengths[rows], 40))
    for i, row in enumerate(rows):
        start = store.offsets[row]
        utterance = store.frames[start : start + store.lengths[row]].astype(np.float32)
        crop = x[i, : lengths[i]].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(utterance, len(crop), axis=0).swapaxes(1, 2)
        assert (windows == crop).all((1, 2)).any()


def test_every_epoch_visits_every_row_once_and_any_step_can_be_had_again(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    rows = store.train_rows  # 24, in batches of 10: an epoch ends inside a batch
    make = lambda: CropSampler(store, rows, crop=16, batch=10, seed=3)  # noqa: E731
    everything = make().batches(0, 12)
    order = np.argsort(store.offsets)
    seen = order[np.searchsorted(store.offsets[order], everything.starts.ravel(), side="right") - 1]
    for epoch in range(5):
        assert sorted(seen[epoch * 24 : epoch * 24 + 24]) == sorted(rows)
    np.testing.assert_array_equal(everything.labels.ravel(), store.labels[seen])
    ends = everything.starts.ravel() + everything.lengths.ravel()
    assert (ends <= (store.offsets + store.lengths)[seen]).all()
    one = make()
    one.batches(9, 12)
    for step in (7, 2):
        for a, b in zip(one.batches(step, step + 1), everything, strict=True):
            np.testing.assert_array_equal(a[0], b[step])
    assert not np.array_equal(everything.starts[:2], everything.starts[2:4])


def test_buckets_hold_every_utterance_once_within_bounds() -> None:
    lengths = np.random.default_rng(0).integers(91, 7193, 500)
    buckets = length_buckets(lengths, tokens=16_384, attention=4_000_000)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(500))
    for bucket in buckets:
        longest = lengths[bucket].max()
        assert len(bucket) == 1 or (len(bucket) * longest <= 16_384 and len(bucket) * longest**2 <= 4_000_000)


def test_pieces_longer_than_their_utterance_start_over_when_asked_to(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    frames = Frames(store, torch.device("cpu"))
    starts, lengths = torch.tensor(store.offsets[:3]), torch.tensor([7, 20, 15])
    padded, repeated = (frames.gather(starts, lengths, 20, start_over=over) for over in (False, True))
    for row, length in enumerate(lengths.tolist()):
        once = torch.from_numpy(store.frames[store.offsets[row] : store.offsets[row] + length].astype("float32"))
        assert torch.equal(repeated[row], torch.cat([once] * 3)[:20])
        assert torch.equal(padded[row], torch.cat([once, once[-1:].expand(20 - length, 40)]))


def test_each_step_can_have_crops_of_its_own_length(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    sampler = CropSampler(store, store.train_rows, crop=20, batch=6, seed=0)
    crops = np.array([10, 30, 20])
    mixed = sampler.batches(5, 8, crops)
    for step, crop in enumerate(crops):
        alone = CropSampler(store, store.train_rows, crop=int(crop), batch=6, seed=0).batches(5 + step, 6 + step)
        for one, other in zip(mixed, alone, strict=True):
            np.testing.assert_array_equal(one[step], other[0])
