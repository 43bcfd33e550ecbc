"""The chain from a score back to the data: whole where nothing changed, broken at the first link that did."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from written import Bench

from kaggle_hw4.data.store import Store
from kaggle_hw4.ensemble.blend import Ensemble, make_ensemble
from kaggle_hw4.ensemble.members import choose_members
from kaggle_hw4.ensemble.submission import record_of
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.explain import Chain, explain
from kaggle_hw4.folds import Folds
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.runs import Job, identity, run_of
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, file_hash, read_json, write_json

SLUG = "ml2023springhw4"
MEMBERS = ("sample", "conformer-full")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tiny.packed(tiny.as_folder(tmp_path / "source", tiny.files(train=30)), tmp_path / "data" / "store", "float32")
    bench = Bench(tmp_path)
    for seed, name in enumerate(MEMBERS):
        bench.member(name, seed=seed)
    return bench


def make(bench: Bench) -> Ensemble:
    return make_ensemble(bench.workspace, bench.store, bench.folds, [], method="convex")


def sent(bench: Bench, made: Ensemble) -> Row:
    row = Row("hw4-1", SLUG, made.name, str(made.file), file_hash(made.file), "2026-01-01T00:00:00Z", "complete", 7)
    ledger = Ledger(bench.workspace.ledger)
    ledger.add(row)
    return ledger.update("hw4-1", public="0.95", private="0.94", ensemble=made.name)


def chain(bench: Bench, name: str, verify: bool = True) -> Chain:
    return explain(bench.workspace, SLUG, name, verify)


def test_the_whole_chain_is_shown_with_hashes_and_holds(bench: Bench) -> None:
    made = make(bench)
    sent(bench, made)
    for name in (made.name, str(made.file), "7"):
        found = chain(bench, name)
        assert found.broken is None
        states = {link.link: link.state for link in found.links}
        for link in ("score", "file", "weights", "logits sample-s0", "variant sample-s0", "folds", "data"):
            assert states[link] == "matches"
        assert states["checkpoints sample-s0"] == "not checked"  # nobody trained: there are none
        assert next(iter(states)) == "score"
        assert list(states)[-1] == "code"
    hashes = {link.link: link.hash for link in found.links}
    assert hashes["data"] == bench.store.hash
    assert hashes["folds"] == bench.folds.hash
    assert hashes["file"] == file_hash(made.file)
    assert {link.state for link in chain(bench, made.name, verify=False).links} == {"recorded"}


def edit_csv(bench: Bench, made: Ensemble) -> None:
    made.file.write_text(made.file.read_text() + "\n")


def edit_weights(bench: Bench, made: Ensemble) -> None:
    record = read_json(record_of(made.file), "")
    record["members"][0]["weight"] += 0.1
    write_json(record_of(made.file), record)


def edit_temperatures_and_hash(bench: Bench, made: Ensemble) -> None:
    from kaggle_hw4.ensemble.blend import weights_hash

    record = read_json(record_of(made.file), "")
    record["members"][0]["temperature"] *= 1.1
    record["weights"] = weights_hash(record)
    write_json(record_of(made.file), record)


def edit_logits(bench: Bench, made: Ensemble) -> None:
    path = bench.workspace.runs / "sample-s0" / "fold1" / "oof.npy"
    logits = np.load(path)
    logits[0, 0] += 1
    np.save(path, logits)


def edit_recipe(bench: Bench, made: Ensemble) -> None:
    path = bench.workspace.runs / "sample-s0" / "fold0" / "run.json"
    record = read_json(path, "")
    record["recipe"]["lr"] *= 2
    write_json(path, record)


def edit_folds(bench: Bench, made: Ensemble) -> None:
    content = read_json(bench.workspace.folds_file, "")
    content["seed"] = 5
    write_json(bench.workspace.folds_file, content)


def edit_frames(bench: Bench, made: Ensemble) -> None:
    path = bench.workspace.store / "frames.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("edit", "link", "words"),
    [
        (edit_csv, "score", "the file now has the hash"),
        (edit_weights, "weights", "the record was edited"),
        (edit_temperatures_and_hash, "weights", "fitted again"),
        (edit_logits, "logits sample-s0", "its checksum differs"),
        (edit_recipe, "logits sample-s0", "was made from something else: its recipe does not have its hash"),
        (edit_frames, "data", "frames.bin is damaged: the checksum of uttr-"),
    ],
)
def test_the_first_link_that_does_not_match_is_named(
    bench: Bench, edit: Callable[[Bench, Ensemble], None], link: str, words: str
) -> None:
    made = make(bench)
    sent(bench, made)
    edit(bench, made)
    broken = chain(bench, made.name).broken
    assert broken is not None
    assert broken.link == link
    assert words in broken.found


def states(found: Chain) -> dict[str, str]:
    return {link.link: link.state for link in found.links}


def trained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as a training would leave them, which a spot check finds to be those of the logits."""
    for folder in bench.workspace.runs.glob("*/fold*"):
        (folder / "weights.safetensors").write_bytes(b"weights")
        result = read_json(folder / "result.json", "")
        write_json(folder / "result.json", result | {"weights": file_hash(folder / "weights.safetensors")})

    def spot_check(workspace: Workspace, job: Job, store: Store, folds: Folds) -> float:
        return float(0 * store.frames[0, 0])

    monkeypatch.setattr("kaggle_hw4.training.artefacts.spot_check", spot_check)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_of_a_split_that_is_gone_no_other_link_is_blamed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    trained(bench, monkeypatch)
    made = make(bench)
    damage(bench.workspace.folds_file)
    found = chain(bench, made.name)
    assert [link.link for link in found.links if link.state == "differs"] == ["folds"]
    needing = ["file", "weights", *(f"{kind} {name}-s0" for kind in ("logits", "checkpoints") for name in MEMBERS)]
    for link in [link for link in found.links if link.link in needing]:
        assert (link.state, "the split cannot be read" in link.found) == ("not checked", True)


def test_of_damaged_frames_no_checkpoint_is_blamed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(bench, monkeypatch)
    made = make(bench)
    assert states(chain(bench, made.name))["checkpoints sample-s0"] == "matches"
    edit_frames(bench, made)
    with open(bench.workspace.runs / "conformer-full-s0" / "fold2" / "weights.safetensors", "ab") as file:
        file.write(b".")  # which needs no data to be seen
    found = chain(bench, made.name)
    assert [link.link for link in found.links if link.state == "differs"] == ["checkpoints conformer-full-s0", "data"]
    (link,) = [link for link in found.links if link.link == "checkpoints sample-s0"]
    assert (link.state, "frames.bin is damaged" in link.found) == ("not checked", True)


def test_a_hash_that_is_recorded_nowhere_is_not_shown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(bench, monkeypatch)
    made = make(bench)
    (bench.workspace.runs / "sample-s0" / "fold1" / "result.json").unlink()
    for verify in (False, True):
        hashes = {link.link: link.hash for link in chain(bench, made.name, verify).links}
        assert hashes["checkpoints sample-s0"] == ""
        assert len(hashes["checkpoints conformer-full-s0"]) == 16


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_damaged_record_of_a_run_marks_links_and_loses_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, fold: int
) -> None:
    trained(bench, monkeypatch)
    made = make(bench)
    whole = [link.link for link in chain(bench, made.name).links]
    path = bench.workspace.runs / "sample-s0" / f"fold{fold}" / name
    path.write_text("{")
    assert [link.link for link in chain(bench, made.name, verify=False).links] == whole
    found = chain(bench, made.name)
    assert [link.link for link in found.links] == whole
    marked = {link.link: link.found for link in found.links if link.state == "differs"}
    first_record = (name, fold) == ("run.json", 0)
    needing = ["logits sample-s0", "checkpoints sample-s0", *(["variant sample-s0"] if first_record else [])]
    assert list(marked) == needing
    assert all(f"{path} cannot be read" in problem for problem in marked.values())


def test_a_reference_stands_for_the_file_that_was_sent_under_it(bench: Bench, tmp_path: Path) -> None:
    """The file was edited and sent again: the first score is not of what it holds now."""
    made = make(bench)
    row = sent(bench, made)
    made.file.write_text(made.file.read_text() + "\n")
    again = replace(row, id="hw4-2", ref=8, csv_hash=file_hash(made.file), public="0.99")
    Ledger(bench.workspace.ledger).add(again)
    for ref, state, public in (("7", "differs", "0.95"), ("8", "matches", "0.99")):
        (score,) = [link for link in chain(bench, ref).links if link.link == "score"]
        assert (score.state, score.what) == (state, f"public {public}, private 0.94 (ref {ref})")


def test_another_split_breaks_the_chain(bench: Bench) -> None:
    made = make(bench)
    edit_folds(bench, made)
    broken = {link.link for link in chain(bench, made.name).links if link.state == "differs"}
    assert "folds" in broken


def test_a_file_made_elsewhere_ends_the_chain(bench: Bench, tmp_path: Path) -> None:
    made = make(bench)
    other = tmp_path / "other.csv"
    other.write_bytes(made.file.read_bytes())
    assert "made elsewhere" in chain(bench, str(other)).links[-1].what
    with pytest.raises(UsageError, match="no submission 'nobody'"):
        chain(bench, "nobody")


def test_a_score_of_rows_that_nobody_knows_is_not_checked(bench: Bench) -> None:
    """Sent on Kaggle's site, under the name of a file of the workspace."""
    name = make(bench).file.name
    row = Row("kaggle-9", SLUG, name, name, "", "2026-01-01T00:00:00Z", "complete", 9, "0.95")
    Ledger(bench.workspace.ledger).add(row)
    states = {link.link: link.state for link in chain(bench, name).links}
    assert (states["score"], states["file"]) == ("not checked", "matches")


def test_data_that_is_gone_is_said(bench: Bench) -> None:
    made = make(bench)
    store: Store = bench.store
    (store.folder / "store.json").unlink()
    found = chain(bench, made.name)
    assert found.broken is not None
    assert found.broken.link == "data"


def test_a_workspace_that_was_copied_explains_its_own_file(bench: Bench, tmp_path: Path) -> None:
    made = make(bench)
    sent(bench, made)
    copy = shutil.copytree(bench.workspace.root, tmp_path.with_name(f"{tmp_path.name}-copy"))
    for name in (made.name, "7"):
        (file,) = [link for link in explain(Workspace(copy), SLUG, name, False).links if link.link == "file"]
        assert file.what == str(copy / "submissions" / made.file.name)


def test_an_unrelated_record_beside_a_file_elsewhere_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    made = make(bench)
    elsewhere = tmp_path / "elsewhere" / "mine.csv"
    elsewhere.parent.mkdir()
    shutil.copy(made.file, elsewhere)
    elsewhere.with_suffix(".json").write_text('{"my": "notes"}')
    assert "made elsewhere" in chain(bench, str(elsewhere)).links[-1].what


def test_a_variant_of_a_scripts_own_is_not_checked(bench: Bench) -> None:
    job = Job("mine", variant("sample"), 0, 0)
    for fold in range(bench.folds.k):
        ours, run = (run_of(bench.workspace, replace(job, name=name, fold=fold)) for name in ("mine", "sample"))
        shutil.copytree(run.folder, ours.folder)
        write_json(ours.record, identity(replace(job, fold=fold), bench.store, bench.folds))
    found = chain(bench, make(bench).name)
    assert found.broken is None
    assert {link.link: link.state for link in found.links}["variant mine-s0"] == "not checked"
    shutil.rmtree(bench.workspace.runs / "mine-s0" / "fold1")
    with pytest.raises(DataError, match=r"mine-s0: fold 1(.|\n)*--variant mine --steps 70000"):
        choose_members(bench.workspace, bench.folds.k, ["mine-s0"])
