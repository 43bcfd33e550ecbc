"""The embedded competition: its layout, its tensors, its voices and what it refuses."""

import csv
import io
import json
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run

from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.rehearsal.make import make
from kaggle_hw4.rehearsal.voices import SAMPLE_RATE, draw_speaker, utterance

SPEAKERS, UTTERANCES = 4, 6
LOG_FLOOR = np.float32(np.log(1e-9))


def make_quietly(folder: Path, speakers: int = SPEAKERS, utterances: int = UTTERANCES, seed: int = 3) -> None:
    make(folder, speakers=speakers, utterances=utterances, seed=seed, progress=lambda done, of: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal") / "new" / "folder"
    make_quietly(folder)
    return folder


@pytest.fixture(scope="module")
def members(made):
    """Content of every member of the archive, by name."""
    with zipfile.ZipFile(made / "ml2023springhw4.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def tables(members):
    return {n: json.loads(members[f"Dataset/{n}.json"]) for n in ("metadata", "testdata", "mapping")}


def labels_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "labels.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_next_command_can_be_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("kaggle_hw4.rehearsal.make.make", lambda folder, **options: None)
    folder = str(tmp_path / "my voices")
    said = run("rehearsal", "make", folder).stderr
    assert shlex.split(said)[-3:] == ["rehearsal", "serve", folder]


def test_layout_is_that_of_the_competition(members, tables):
    listed = [row for rows in tables["metadata"]["speakers"].values() for row in rows]
    listed += tables["testdata"]["utterances"]
    tensors = {n for n in members if re.fullmatch(r"Dataset/uttr-[0-9a-f]{32}\.pt", n)}
    assert {f"Dataset/{row['feature_path']}" for row in listed} == tensors
    assert len(listed) == len(tensors) == SPEAKERS * UTTERANCES
    others = set(members) - tensors - {f"Dataset/{name}.json" for name in tables}
    assert len(others) == 1
    assert re.fullmatch(r"Dataset/\._uttr-[0-9a-f]{32}\.pt", others.pop())
    assert tables["metadata"]["n_mels"] == tables["testdata"]["n_mels"] == 40


def test_every_speaker_has_train_rows_and_a_quarter_of_test_rows(made, tables):
    for name, rows in tables["metadata"]["speakers"].items():
        assert re.fullmatch(r"id\d{5}", name)
        assert len(rows) == 4
        assert sum(row["Category"] == name for row in labels_of(made)) == 2


def test_mapping_numbers_the_speakers_in_an_order_of_its_own(tables):
    numbers, names = tables["mapping"]["speaker2id"], tables["mapping"]["id2speaker"]
    assert names == {str(number): name for name, number in numbers.items()}
    assert sorted(numbers.values()) == list(range(SPEAKERS))
    assert list(numbers) != list(tables["metadata"]["speakers"])
    assert set(numbers) == set(tables["metadata"]["speakers"])


def test_tensors_are_those_of_the_front_end(members, tables):
    rows = [row for rows in tables["metadata"]["speakers"].values() for row in rows]
    for row in rows + tables["testdata"]["utterances"]:
        content = io.BytesIO(members[f"Dataset/{row['feature_path']}"])
        mel = torch.load(content, weights_only=True)
        assert mel.shape == (row["mel_len"], 40)
        assert mel.dtype == torch.float32
        assert mel.is_contiguous()
        assert mel.isfinite().all()
        assert mel.min() >= LOG_FLOOR
        assert 60 < len(mel) < 800
        assert -8 < mel.mean() < 3


def test_labels_cover_exactly_the_test_rows(made, tables):
    labels = labels_of(made)
    assert list(labels[0]) == ["Id", "Category"]
    assert [row["Id"] for row in labels] == [r["feature_path"] for r in tables["testdata"]["utterances"]]
    order = [row["Category"] for row in labels]
    assert order != sorted(order, key=list(tables["metadata"]["speakers"]).index)  # shuffled


def test_same_arguments_give_the_same_files_and_another_seed_others(made, tmp_path):
    make_quietly(tmp_path / "again")
    for name in ("ml2023springhw4.zip", "labels.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()
    make_quietly(tmp_path / "other", speakers=2, utterances=4, seed=4)
    assert not {r["Id"] for r in labels_of(tmp_path / "other")} & {r["Id"] for r in labels_of(made)}


def test_progress_counts_to_the_end(tmp_path):
    calls = []
    make(tmp_path, speakers=2, utterances=4, progress=lambda *call: calls.append(call))
    assert calls == [(done, 8) for done in range(1, 9)]


def test_finished_archive_is_left_alone(made):
    before = (made / "ml2023springhw4.zip").stat().st_mtime_ns
    calls = []
    make(
        made,
        speakers=SPEAKERS,
        utterances=UTTERANCES,
        seed=3,
        progress=lambda *call: calls.append(call),
    )
    assert not calls
    assert (made / "ml2023springhw4.zip").stat().st_mtime_ns == before


def test_archive_of_other_arguments_is_refused_and_kept(made):
    before = (made / "labels.csv").read_bytes()
    with pytest.raises(DataError, match=r"'seed': 3.*'seed': 5"):
        make_quietly(made, seed=5)
    assert (made / "labels.csv").read_bytes() == before


def test_archive_of_unknown_origin_is_refused_and_kept(tmp_path):
    (tmp_path / "ml2023springhw4.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="not made by"):
        make_quietly(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ml2023springhw4.zip"]


def test_interrupted_work_leaves_no_archive_and_can_be_done_again(tmp_path):
    def interrupt(done, of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, speakers=2, utterances=4, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsal.json"]
    make_quietly(tmp_path, speakers=2, utterances=4, seed=1)
    assert len(labels_of(tmp_path)) == 2


@pytest.mark.parametrize("arguments", [{"speakers": 1}, {"speakers": 10_001}, {"utterances": 3}, {"seed": -1}], ids=str)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, arguments):
    with pytest.raises(UsageError) as refusal:
        make_quietly(tmp_path, **arguments)
    assert str(next(iter(arguments.values()))) in refusal.value.cause
    assert refusal.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError):
        make_quietly(tmp_path / "file")


def test_voices_are_seeded_and_of_natural_length_and_level():
    def waves() -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [utterance(draw_speaker(rng), rng) for _ in range(12)]

    once, again = waves(), waves()
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    for wave in once:
        assert wave.dtype == np.float32
        assert wave.ndim == 1
        assert 0.04 < np.abs(wave).max() <= 0.96
        assert 1 <= len(wave) / SAMPLE_RATE <= 8
    levels = [np.abs(wave).max() for wave in once]
    assert max(levels) > 2 * min(levels)


def pitch_of(wave: np.ndarray) -> float:
    """Median pitch in Hz of the loud frames, from the peak of their autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 800)[::400]
    power = np.square(frames).mean(1)
    loud = frames[power > 0.3 * power.max()] * np.hanning(800)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(loud, 2048)) ** 2)
    return SAMPLE_RATE / np.median(50 + correlation[:, 50:230].argmax(1))


def test_speakers_differ_more_than_utterances_of_one_speaker():
    pitches = []
    for rng in np.random.default_rng(0).spawn(8):
        speaker = draw_speaker(rng)
        pitches.append([np.log2(pitch_of(utterance(speaker, child))) for child in rng.spawn(3)])
    between, within = 3 * np.var(np.mean(pitches, 1), ddof=1), np.mean(np.var(pitches, 1, ddof=1))
    assert between > 8 * within  # a ratio of 1 is expected of utterances that share nothing
