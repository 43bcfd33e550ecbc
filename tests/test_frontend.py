"""The front end: level, silence, mels, and the WAV files it takes; SoX, which made the data, is the judge."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import bursts, tone, write_wav

from kaggle_hw4.data import frontend
from kaggle_hw4.data.frontend import SAMPLE_RATE
from kaggle_hw4.data.recording import read_recording
from kaggle_hw4.errors import DataError
from kaggle_hw4.rehearsal.voices import draw_speaker, utterance

LOG_FLOOR = np.float32(np.log(1e-9))
# What `sox bursts.wav out.wav norm -3 silence 1 0.1 1% -1 0.1 1%` keeps of `bursts(seed)`: samples, sum of squares.
SOX_KEPT = {
    0: (52895, 1084.25),
    1: (51775, 1806.39),
    2: (73331, 2381.85),
    3: (46837, 1164.05),
    4: (86888, 3160.11),
    5: (38034, 991.75),
    6: (54872, 1374.32),
    7: (65298, 1202.0),
}


def test_hops_are_counted_and_the_level_does_not_matter() -> None:
    mel = frontend.log_mel(tone(1.005))  # of which the first samples are no sound yet
    assert mel.shape == (101, 40)
    assert mel.dtype == torch.float32
    torch.testing.assert_close(frontend.log_mel(tone(1.005, 0.05)), mel, atol=1e-2, rtol=0)


def test_the_floor_is_log_1e_9() -> None:
    """0.1 s of digital silence stays within speech, and reads as the smallest value there is."""
    mel = frontend.log_mel(np.concatenate([tone(0.5), np.zeros(1600, np.float32), tone(0.5)]))
    assert mel.min() == LOG_FLOOR
    assert mel[54:57].max() == LOG_FLOOR


def test_a_tone_is_found_in_its_band() -> None:
    # 40 mel bands between 50 and 8,000 Hz: 440 Hz is 549.6 mel, nearest to the centre of the 7th.
    assert frontend.log_mel(tone(0.5))[10:-10].mean(0).argmax() == 6


def test_the_peak_is_minus_3_db() -> None:
    assert np.abs(frontend.normalise(tone(0.1, 0.02))).max() == pytest.approx(0.7079, abs=1e-4)


def test_silence_is_dropped_where_it_lasts_a_tenth_of_a_second() -> None:
    long, short = np.zeros(SAMPLE_RATE, np.float32), np.zeros(1000, np.float32)
    kept = frontend.remove_silence(np.concatenate([long, tone(0.5), short, tone(0.5), long, tone(0.5), long]))
    assert len(kept) == pytest.approx(3 * 8000 + 1000, abs=900)  # each end hangs on for the 20 ms of the window
    assert len(frontend.remove_silence(tone(2.0))) == pytest.approx(2 * SAMPLE_RATE, abs=20)


def test_a_click_is_not_sound_but_a_tenth_of_a_second_is() -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    assert len(frontend.remove_silence(np.concatenate([silence, tone(0.06), silence]))) == 0
    assert len(frontend.remove_silence(np.concatenate([silence, tone(0.12), silence]))) > 1600


@pytest.mark.parametrize("seed", SOX_KEPT)
def test_silence_is_removed_as_sox_did_sample_by_sample(seed: int) -> None:
    kept = frontend.remove_silence(frontend.normalise(bursts(seed)))
    samples, energy = SOX_KEPT[seed]
    assert len(kept) == samples
    assert np.square(kept, dtype=np.float64).sum() == pytest.approx(energy, abs=0.01)


@pytest.mark.skipif(not shutil.which("sox"), reason="needs the program sox")
def test_this_machines_sox_keeps_the_same_of_voices_and_bursts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        wave = bursts(number) if number % 2 else utterance(draw_speaker(rng), rng)
        write_wav(tmp_path / "in.wav", wave)
        effects = ["norm", "-3", "silence", "1", "0.1", "1%", "-1", "0.1", "1%"]
        command = ["sox", "-D", tmp_path / "in.wav", "-b", "32", "-e", "float", tmp_path / "out.wav", *effects]
        subprocess.run(command, check=True)
        theirs, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
        np.testing.assert_allclose(frontend.remove_silence(frontend.normalise(wave)), theirs, atol=1e-6)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "wave",
    [np.zeros(16_000), np.zeros(0), tone(0.02), np.full(16_000, 1e-42, np.float32)],
    ids=["zeros", "empty", "20 ms", "next to zero"],
)
def test_what_holds_no_sound_is_refused(wave: np.ndarray) -> None:
    with pytest.raises(DataError):
        frontend.log_mel(wave)


@pytest.mark.parametrize(("subtype", "tolerance"), [("PCM_16", 2**-15), ("PCM_24", 2**-23), ("FLOAT", 0.0)])
def test_every_width_of_sample_is_read(tmp_path: Path, subtype: str, tolerance: float) -> None:
    read = read_recording(write_wav(tmp_path / "a.wav", tone(0.5), subtype=subtype))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, tone(0.5), atol=tolerance, rtol=0)


def test_two_channels_are_averaged(tmp_path: Path) -> None:
    both = np.stack([tone(0.5, 0.6), tone(0.5, 0.2)], axis=1)
    read = read_recording(write_wav(tmp_path / "a.wav", both, subtype="FLOAT"))
    np.testing.assert_allclose(read, tone(0.5, 0.4), atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_another_sample_rate_gives_the_same_sound(tmp_path: Path, rate: int) -> None:
    read = read_recording(write_wav(tmp_path / "a.wav", tone(1.0, rate=rate), rate, "FLOAT"))
    assert len(read) == SAMPLE_RATE
    np.testing.assert_allclose(read[500:-500], tone(1.0)[500:-500], atol=1e-3)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_is_no_usable_recording_is_one_message(tmp_path: Path) -> None:
    for name, content in (("noise.wav", b"\x00\x01" * 500), ("empty.wav", b""), ("cut.wav", b"RIFF\x00\x00")):
        (tmp_path / name).write_bytes(content)
    soundfile.write(tmp_path / "a.mp3", tone(0.5), SAMPLE_RATE, format="MP3")
    shutil.copy(tmp_path / "a.mp3", tmp_path / "mp3.wav")
    write_wav(tmp_path / "8.wav", np.tile(tone(0.5)[:, None], 8))
    write_wav(tmp_path / "rate.wav", tone(0.5), 44_101)
    write_wav(tmp_path / "slow.wav", tone(0.5), 4_000)
    write_wav(tmp_path / "long.wav", np.zeros(601 * 8_000), 8_000)
    write_wav(tmp_path / "huge.wav", np.stack([3e38 * tone(0.5, 1.0)] * 2, axis=1), subtype="FLOAT")
    unfinished = bytearray(write_wav(tmp_path / "whole.wav", tone(0.5)).read_bytes())
    place = unfinished.index(b"data") + 4
    unfinished[place : place + 4] = bytes(4)  # as a recorder leaves it that was killed
    (tmp_path / "unfinished.wav").write_bytes(unfinished)
    write_wav(tmp_path / "nan.wav", np.full(9_000, np.nan, np.float32), subtype="FLOAT")
    for name, words in (
        ("none.wav", "there is no such file"),
        (".", "is a folder"),
        ("noise.wav", "cannot be read as a WAV file"),
        ("empty.wav", "cannot be read as a WAV file"),
        ("cut.wav", "cannot be read as a WAV file"),
        ("a.mp3", "is MP3, not a WAV file"),
        ("mp3.wav", "is MP3, not a WAV file"),
        ("8.wav", "has 8 channels"),
        ("rate.wav", "sample rate 44101 Hz"),
        ("slow.wav", "sample rate 4000 Hz"),
        ("long.wav", "601 s long, more than 600"),
        ("nan.wav", "no finite numbers"),
        ("huge.wav", "far too large"),
        ("unfinished.wav", "holds no samples"),
    ):
        with pytest.raises(DataError, match=words) as refusal:
            read_recording(tmp_path / name)
        assert refusal.value.remedy
