"""A predictor in one file: the ensemble's logits again, and the speaker of a recording through the real front end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from command_line import run
from safetensors import safe_open
from sounds import tone, write_wav
from written import Bench

from kaggle_hw4 import export, identify
from kaggle_hw4.data.frontend import log_mel
from kaggle_hw4.data.recording import read_recording
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.ensemble.recorded import read_record, recorded_blend
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds, make_folds
from kaggle_hw4.predictor import Predictor
from kaggle_hw4.rehearsal.make import make
from kaggle_hw4.rehearsal.voices import draw_speaker, utterance
from kaggle_hw4.runs import REFIT, Job, run_of
from kaggle_hw4.training.session import do_jobs
from kaggle_hw4.variants import variant
from kaggle_hw4.verbs import blend, get_data
from kaggle_hw4.workspace import Workspace, with_checksum

SPEAKERS, UTTERANCES, SEED, FOLDS = 3, 8, 5, 2


class Trained:
    """The embedded competition, two small members trained on it for a few steps, one with a refit; their ensemble."""

    def __init__(self, root: Path) -> None:
        make(root / "kaggle", speakers=SPEAKERS, utterances=UTTERANCES, seed=SEED, progress=lambda done, of: None)
        self.workspace = Workspace(root)
        self.store: Store = get_data(self.workspace, root / "kaggle" / "ml2023springhw4.zip")
        self.folds: Folds = make_folds(self.store, self.workspace.folds_file, k=FOLDS)
        for name in ("conformer-full", "ecapa"):
            small = {"layers": 1, "d_model": 16, "crop": 60, "also_crops": (), "batch": 8, "steps": 8, "warmup": 1}
            v = replace(variant(name), **small, test_crops=2 if name == "ecapa" else 0)
            jobs = [Job(name, v, 0, fold) for fold in range(FOLDS)] + [Job(name, v, 0, REFIT)] * (name == "ecapa")
            assert not do_jobs(self.workspace, jobs, self.store, self.folds, torch.device("cpu"))
        self.made = blend(self.workspace, weights="conformer-full-s0=1,ecapa-s0=3")
        self.file = root / "predictor.safetensors"
        self.predictor = export(self.workspace, self.made.name)

    def ensemble_logits(self) -> np.ndarray:
        return recorded_blend(self.workspace, self.store, self.folds, read_record(self.made.file)).test(FOLDS)

    def mel(self, row: int) -> np.ndarray:
        start = self.store.offsets[row]
        return np.asarray(self.store.frames[start : start + self.store.lengths[row]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def voices() -> list[np.ndarray]:
    """The waveforms behind the embedded competition, in the order in which it was made."""
    _, *speakers = np.random.default_rng(SEED).spawn(SPEAKERS + 1)
    drawn = [(draw_speaker(rng), rng) for rng in speakers]
    return [utterance(speaker, one) for speaker, rng in drawn for one in rng.spawn(UTTERANCES)]


def test_exported_logits_are_the_ensembles_test_logits(trained: Trained) -> None:
    expected = trained.ensemble_logits()
    found = Predictor.load(trained.file).logits([trained.mel(row) for row in trained.store.test_rows])
    assert found.shape == (SPEAKERS * UTTERANCES // 4, SPEAKERS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_voice_written_as_wav_has_the_features_and_the_name_of_the_stored_one(
    trained: Trained, voices: list[np.ndarray], tmp_path: Path
) -> None:
    """16 bits hold a voice exactly; the store rounds log-mels to float16, which is off by 2**-7 at most at -20."""
    lengths = trained.store.lengths.tolist()
    found: dict[Path, int] = {}  # its row, told by its length where no other has it
    for number, wave in enumerate(voices):
        file = write_wav(tmp_path / f"{number}.wav", wave)
        mel = log_mel(read_recording(file)).numpy()
        if lengths.count(len(mel)) == 1:
            found[file] = lengths.index(len(mel))
            np.testing.assert_allclose(mel, trained.mel(found[file]), atol=2**-7)
    assert len(found) > UTTERANCES
    logits = trained.predictor.logits([trained.mel(row) for row in found.values()])
    named = identify(list(found), trained.file, top=SPEAKERS)
    for one, row, own in zip(named, found.values(), logits, strict=True):
        assert one.speaker == trained.store.speakers[own.argmax()]
        assert one.seconds == pytest.approx((lengths[row] - 1) / 100)
        p = np.exp(own - own.max())
        shown = {candidate.speaker: candidate.probability for candidate in one.candidates}
        np.testing.assert_allclose([shown[s] for s in trained.store.speakers], p / p.sum(), atol=0.01)


def test_the_command_names_each_file_and_prints_json(
    trained: Trained, voices: list[np.ndarray], tmp_path: Path
) -> None:
    files = [str(write_wav(tmp_path / f"{number}.wav", voices[number])) for number in (0, 9)]
    root = trained.workspace.root
    result = run("identify", *files, "--top", "2", "--json", root=root)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [one["file"] for one in found] == files
    for one in found:
        assert one["speaker"] == one["candidates"][0]["speaker"]
        assert one["speaker"] in trained.store.speakers
        assert one["candidates"][0]["probability"] >= one["candidates"][1]["probability"]
        assert len(one["candidates"]) == 2
    shown = run("identify", *files, root=root)
    assert all(one["speaker"] in shown.stdout for one in found)


def test_the_file_carries_its_configuration_and_model_card_and_repeats(trained: Trained, tmp_path: Path) -> None:
    with safe_open(trained.file, "pt") as file:
        content = json.loads(file.metadata()["kaggle-hw4"])
    assert content["speakers"] == trained.store.speakers
    card, record = content["card"], read_record(trained.made.file)
    assert (card["data"], card["folds"]) == (trained.store.hash, trained.folds.hash)
    assert card["out_of_fold"]["accuracy"] == record["accuracy"] == trained.made.estimate.accuracy
    assert [part["name"] for part in content["parts"]] == ["conformer-full-s0", "ecapa-s0"]
    assert [part["models"] for part in content["parts"]] == [FOLDS, FOLDS + 1]
    assert [part["recipe"]["backbone"] for part in content["parts"]] == ["conformer", "ecapa"]
    assert [member["weight"] for member in card["members"]] == [0.25, 0.75]
    for key in ("intended_use", "limits", "licence"):
        assert len(card[key]) > 50
    assert {"kaggle-hw4", "python", "torch"} <= set(card["versions"])
    export(trained.workspace, trained.made.name, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == trained.file.read_bytes()


def test_members_are_blended_first_and_one_without_weight_is_left_out(trained: Trained, tmp_path: Path) -> None:
    root, output = trained.workspace.root, tmp_path / "one.safetensors"
    result = run("export", "ecapa", "--output", str(output), "--json", root=root)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["bytes"] == output.stat().st_size
    assert [member["name"] for member in facts["card"]["members"]] == ["ecapa-s0"]
    made = blend(trained.workspace, weights="conformer-full-s0=1,ecapa-s0=0")
    assert [part.name for part in export(trained.workspace, made.name, output).parts] == ["conformer-full-s0"]
    assert "conformer-full-s0" in run("export", made.name, "--output", str(output), root=root).stdout


def test_a_recording_longer_than_any_utterance_is_looked_at_in_parts(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    mel = np.concatenate([trained.mel(0)] * 2)
    whole = trained.predictor.logits([trained.mel(0)])
    monkeypatch.setattr("kaggle_hw4.predictor._LONGEST", len(mel) // 2)
    np.testing.assert_allclose(trained.predictor.logits([mel]), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "damage", ["empty", "text", "other", "cut", "bit", "newer", "recipe", "speakers", "beta", "models"]
)
def test_a_file_that_is_no_sound_predictor_is_one_message(trained: Trained, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    file = tmp_path / "bad.safetensors"
    blob = bytearray(trained.file.read_bytes())
    if damage in ("newer", "recipe", "speakers", "beta", "models"):
        with safe_open(trained.file, "pt") as opened:
            content = json.loads(opened.metadata()["kaggle-hw4"])
        content["format"] += damage == "newer"
        content["parts"][0]["recipe"]["layers"] += damage == "recipe"
        if damage == "recipe":
            content = with_checksum(content)
        elif damage == "speakers":
            content["speakers"].reverse()
        elif damage == "beta":
            content["parts"][0]["beta"] *= -1
        elif damage == "models":
            content["parts"][0]["models"] -= 1
        save_file(load_file(trained.file), file, {"kaggle-hw4": json.dumps(content)})
    elif damage == "other":
        save_file({"a": torch.zeros(2)}, file)
    else:
        blob[-1000] ^= 4 if damage == "bit" else 0
        file.write_bytes({"empty": b"", "text": b"weights", "cut": blob[:-100], "bit": blob}[damage])
    wav = write_wav(tmp_path / "a.wav", tone(1.0))
    result = run("identify", str(wav), "--model", str(file), root=tmp_path)
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    assert str(file) in result.stderr
    assert f"kaggle-hw4 --root {tmp_path} export" in result.stderr


def test_one_file_may_be_named_by_itself_and_none_gives_none(trained: Trained, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "one.wav", tone(1.0))
    assert [one.file for one in identify(str(file), trained.file)] == [file]
    assert identify([], trained.file) == []


def test_bad_recordings_end_with_3_and_one_message_naming_the_file(trained: Trained, tmp_path: Path) -> None:
    root = trained.workspace.root
    good = write_wav(tmp_path / "good.wav", tone(1.0))
    (tmp_path / "text.wav").write_text("no sound")
    for name, wave in (("silent", np.zeros(16_000)), ("short", tone(0.05)), ("one", tone(1)[1:2]), ("none", tone(0))):
        write_wav(tmp_path / f"{name}.wav", wave)
    write_wav(tmp_path / "8.wav", np.tile(tone(0.5)[:, None], 8))
    write_wav(tmp_path / "none44.wav", tone(0), 44_100)
    words = {"text": "cannot be read", "silent": "is silent", "short": "no 0.1 s of sound", "one": "no 0.1 s of sound"}
    for name, said in (
        words | {"none": "no samples", "none44": "no samples", "8": "8 channels", "missing": "no such file"}
    ).items():
        result = run("identify", str(good), str(tmp_path / f"{name}.wav"), root=root)
        assert result.exit_code == 3, result.output
        assert result.stdout == ""
        assert f"{name}.wav" in result.stderr
        assert said in result.stderr
        assert "good.wav" not in result.stderr
    assert run("identify", str(good), "--top", "0", root=root).exit_code == 2
    high = write_wav(tmp_path / "96.wav", tone(1.0, rate=96_000), 96_000, "PCM_24")
    assert run("identify", str(high), root=root).exit_code == 0
    phone = write_wav(tmp_path / "gsm.wav", tone(1.0, rate=8_000), 8_000, "GSM610")  # of telephones: no seeking in it
    assert run("identify", str(phone), root=root).exit_code == 0


def test_what_cannot_be_exported_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no member 'nobody'"):
        export(trained.workspace, "nobody")
    with pytest.raises(DataError, match="there is no predictor"):
        identify([tmp_path / "a.wav"], tmp_path / "none.safetensors")
    shutil.copytree(trained.workspace.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy")
    weights = copy.runs / "ecapa-s0" / "fold1" / "weights.safetensors"
    shutil.copy(copy.runs / "ecapa-s0" / "fold0" / "weights.safetensors", weights)
    with pytest.raises(DataError, match=r"fold1.weights\.safetensors is not the file that was written"):
        export(copy, trained.made.name)
    with pytest.raises(DataError, match=r"fold1.weights\.safetensors is not the file that was written"):
        export(copy, f"{trained.made.name}.csv")  # named with its ending


def test_a_member_from_elsewhere_has_no_models_to_export(tmp_path: Path) -> None:
    tiny.store(tmp_path)
    bench = Bench(tmp_path)
    oof, test = tmp_path / "oof.npy", tmp_path / "test.npy"
    np.save(oof, np.eye(4)[bench.labels])
    np.save(test, np.eye(4)[bench.answers])
    made = blend(bench.workspace, added=[("theirs", oof, test)])
    with pytest.raises(DataError, match="members from elsewhere, of which only logits are known: theirs"):
        export(bench.workspace, made.name)
    assert open_store(bench.workspace.store).hash == bench.store.hash
    assert not bench.workspace.predictor.exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_verifying_a_chain_finds_test_logits_that_are_damaged(trained: Trained, damage: str) -> None:
    test = run_of(trained.workspace, Job("ecapa", variant("ecapa"), 0, 1)).test
    written = test.read_bytes()
    try:
        test.write_bytes(written[:100] if damage == "cut" else written[:-1] + bytes([written[-1] ^ 1]))
        if damage == "gone":
            test.unlink()
        result = run("explain", trained.made.name, "--verify", "--json", root=trained.workspace.root)
    finally:
        test.write_bytes(written)
    assert result.exit_code == 3, result.output
    states = {link["link"]: link for link in json.loads(result.stdout)["links"]}
    for link in ("logits ecapa-s0", "checkpoints ecapa-s0"):
        assert states[link]["state"] == "differs"
        assert "test.npy" in states[link]["found"]
