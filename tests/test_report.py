"""The report: what it shows of a workspace, and what it says of one that lacks something."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from command_line import refused, run
from page_of import PageOf
from written import Bench, K

from kaggle_hw4.ensemble.blend import make_ensemble
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.report.material import Material
from kaggle_hw4.report.model_pictures import pooling_weights
from kaggle_hw4.report.naming_pictures import reliability
from kaggle_hw4.report.page import write_report
from kaggle_hw4.report.score_pictures import leaderboard, weights
from kaggle_hw4.report.tables import speaker_table
from kaggle_hw4.runs import Run
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, file_hash, read_json, write_json

SLUG = "ml2023springhw4"
NEEDS_WEIGHTS = {"map", "listening-0", "listening-1", "listening-2"}
OF_AN_ENSEMBLE = {"leaderboard", "weights", "correlation"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tiny.store(tmp_path, train=30, test=30)
    return Bench(tmp_path)


def with_log(run_: Run, *lines: dict[str, Any]) -> None:
    run_.log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def with_members(bench: Bench, *names: str) -> None:
    for seed, name in enumerate(names):
        bench.member(name, quality=1 + seed, seed=seed)
        for fold in range(K):
            run_ = Run(bench.workspace.runs / f"{name}-s0" / f"fold{fold}")
            with_log(run_, *({"step": step, "loss": 4 / step, "seconds": 1.0} for step in range(20, 100, 20)))


def sent(bench: Bench, name: str, file: Path, public: str) -> None:
    row = Row(f"hw4-{name}", SLUG, name, str(file), file_hash(file), "2026-01-01T00:00:00Z", "complete", 1, public)
    Ledger(bench.workspace.ledger).add(row)


def report(root: Path) -> tuple[dict[str, Any], PageOf]:
    """What the command prints as JSON, and the page."""
    result = run("report", "--json", root=root)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["file"] == str(root / "report.html")
    return made, PageOf(root / "report.html")


def keys(made: dict[str, Any]) -> set[str]:
    return {picture["key"] for picture in made["pictures"]}


def sentence(made: dict[str, Any], key: str) -> str:
    return next(str(picture["sentence"]) for picture in made["pictures"] if picture["key"] == key)


def lacking(made: dict[str, Any]) -> str:
    return " ".join(f"{missing['cause']} {missing['remedy']}" for missing in made["missing"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], PageOf]:
    """The report of a workspace that has everything, made by the commands."""
    root = tmp_path_factory.mktemp("trained")
    tiny.store(root, train=8, apart=0.2)  # hard to tell
    train = ["train", "--variant", "transformer-simple", "--variant", "transformer-full", "--steps", "2"]
    for command in (["folds", "--k", "2"], [*train, "--workers", "1"], ["ensemble"]):
        result = run(*command, root=root)
        assert result.exit_code == 0, result.output
    return report(root)


def test_every_picture_and_table_of_a_whole_workspace_is_there(trained: tuple[dict[str, Any], PageOf]) -> None:
    made, page = trained
    assert made["missing"] == []
    assert len(keys(made)) == len(made["pictures"]) >= 14
    assert keys(made) > NEEDS_WEIGHTS | OF_AN_ENSEMBLE
    assert made["tables"] == ["submissions", "members", "speakers"]
    assert made["bytes"] == page.path.stat().st_size < 5_000_000
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == len(made["pictures"])
    for svg, picture in zip(pictures, made["pictures"], strict=True):
        assert svg["aria-label"] == f"{picture['title']}. {picture['sentence']}"
        assert picture["sentence"] in page.text


def test_two_speakers_are_listened_to_and_a_third_is_missed(tmp_path: Path) -> None:
    tiny.store(tmp_path, speakers=2, train=8)
    train = ["train", "--variant", "transformer-full", "--steps", "2", "--workers", "1"]
    for command in (["folds", "--k", "2"], train):
        assert run(*command, root=tmp_path).exit_code == 0
    made, _ = report(tmp_path)
    assert {"listening-0", "listening-1"} < keys(made)
    assert "fold 0 holds out 2 speakers only" in lacking(made)


def test_the_page_is_one_file_and_asks_for_nothing(trained: tuple[dict[str, Any], PageOf]) -> None:
    page = trained[1]
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for attribute in ("src", "href", "xlink:href", "action", "srcset"):
        assert [value for value in page.values(attribute) if not value.startswith(("#", "data:"))] == []
    assert "@import" not in page.source
    assert "url(http" not in page.source


def test_the_page_can_be_read_without_eyes(trained: tuple[dict[str, Any], PageOf]) -> None:
    page = trained[1]
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = page.values("aria-labelledby") + page.values("aria-describedby")
    targets = [href[1:] for href in page.values("href") + page.values("xlink:href") if href.startswith("#")]
    assert set(named + targets) <= set(ids)
    assert len(page.all("figcaption")) == len(page.all("figure"))
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert all(heading.get("scope") in ("col", "row") for heading in page.all("th"))
    assert all(html["lang"] == "en" for html in page.all("html"))


def test_an_empty_workspace_says_what_to_do_for_every_picture(tmp_path: Path) -> None:
    made, page = report(tmp_path / "new")
    assert made["pictures"] == made["tables"] == []
    for word in ("kaggle-hw4 data", "kaggle-hw4 train --fold all", "kaggle-hw4 submit"):
        assert word in page.text
    without = [title for missing in made["missing"] for title in missing["without_it"]]
    assert len(without) == len(set(without)) >= 19
    assert "Map of the speakers" in without


def test_a_training_that_is_not_finished_has_a_curve_and_no_cell(bench: Bench) -> None:
    with_members(bench, "sample")
    unfinished = Run(bench.workspace.runs / "sample-s0" / "fold2")
    unfinished.result.unlink()
    unfinished.oof.unlink()
    unfinished.checkpoint.write_bytes(b"")
    made, page = report(bench.workspace.root)
    assert "1 training is not finished" in sentence(made, "loss")
    assert "1 of 3 cells are still to be trained" in sentence(made, "folds")
    assert {"length", "speaker", "confused", "confused-mels", "reliability"} <= keys(made)
    assert "no ensemble of two members" in lacking(made)
    assert OF_AN_ENSEMBLE.isdisjoint(keys(made))
    assert "Named out of fold by sample-s0 on fold 0, 1" in page.text


def test_whether_a_training_still_learns_is_told_by_the_folds_that_ended(bench: Bench) -> None:
    with_members(bench, "sample")
    for fold in range(3):
        run = Run(bench.workspace.runs / "sample-s0" / f"fold{fold}")
        ended, before = run.read_result(), 0.25 * fold
        run.log.write_text(json.dumps({"step": 72, "accuracy": ended["accuracy"] if fold == 0 else before}) + "\n")
        run.result.unlink()
        if fold == 0:
            write_json(run.result, {k: v for k, v in ended.items() if k != "checksum"} | {"steps": 144})
    made, _ = report(bench.workspace.root)
    assert "+0.0 points since step 72: more steps promise little" in sentence(made, "accuracy")


def test_folds_that_ended_at_different_steps_all_count(bench: Bench) -> None:
    """As trainings do that a budget ends early."""
    with_members(bench, "sample")
    ends = []
    for fold in range(3):
        run = Run(bench.workspace.runs / "sample-s0" / f"fold{fold}")
        ended = run.read_result()
        ends.append(100 * ended["accuracy"])
        run.log.write_text(json.dumps({"step": 72, "accuracy": ended["accuracy"] - 0.125}) + "\n")
        write_json(run.result, {k: v for k, v in ended.items() if k != "checksum"} | {"steps": 140 + fold})
    made, _ = report(bench.workspace.root)
    said = sentence(made, "accuracy")
    assert f"ends at {np.mean(ends):.1f} %" in said
    assert "+12.5 points since step 72: it was still learning" in said


def test_folds_are_compared_by_the_members_that_have_them_all(bench: Bench) -> None:
    with_members(bench, "sample")
    weak = bench.run("conformer-full", 0, *logits(bench, 0))  # hardly right, on one fold
    result = weak.read_result()
    write_json(weak.result, {k: v for k, v in result.items() if k != "checksum"} | {"accuracy": 0.01})
    ends = {
        fold: Run(bench.workspace.runs / "sample-s0" / f"fold{fold}").read_result()["accuracy"] for fold in range(3)
    }
    made, _ = report(bench.workspace.root)
    said = sentence(made, "folds")
    assert f"is the hardest ({100 * min(ends.values()):.1f} %" in said
    assert f"the easiest ({100 * max(ends.values()):.1f} %" in said


def test_one_fold_only_is_shown_for_what_it_is(bench: Bench) -> None:
    bench.run("sample", 1, *logits(bench, 1))
    made, page = report(bench.workspace.root)
    assert sentence(made, "folds").startswith("Only fold 1 is done")
    assert "sample-s0 on fold 1" in page.text
    members = Material(bench.workspace).naming
    assert sorted(members.rows) == sorted(bench.folds.validation_rows(1))


def logits(bench: Bench, fold: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(fold)
    oof = rng.normal(size=(len(bench.folds.validation_rows(fold)), 4))
    oof[np.arange(len(oof)), bench.labels[bench.folds.validation_rows(fold)]] += 1.5
    return oof, rng.normal(size=(len(bench.store.test_rows), 4))


def test_trainings_of_another_data_set_are_left_out_by_name(bench: Bench) -> None:
    with_members(bench, "sample", "conformer-full")
    for fold in range(K):
        record = Run(bench.workspace.runs / "conformer-full-s0" / f"fold{fold}").record
        write_json(record, read_json(record, "") | {"data": "0123456789abcdef"})
    made, _ = report(bench.workspace.root)
    assert "trained on other data or folds, and left out: conformer-full-s0" in lacking(made)
    assert "sample-s0" in sentence(made, "loss")
    assert "conformer-full" not in "".join(picture["sentence"] for picture in made["pictures"])


def test_without_the_data_the_curves_of_most_trainings_are_left(bench: Bench) -> None:
    with_members(bench, "sample")
    (bench.workspace.store / "store.json").unlink()
    made, _ = report(bench.workspace.root)
    assert {"loss", "folds"} <= keys(made)
    assert "length" not in keys(made)
    assert "kaggle-hw4 data" in lacking(made)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("runs/sample-s0/fold0/result.json", "loss"),
        ("runs/sample-s0/fold0/run.json", "loss"),
        ("runs/sample-s0/fold0/oof.npy", "folds"),
        ("submissions/ledger.sqlite", "folds"),
        ("folds/folds.json", "lengths"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(bench: Bench, file: str, shown: str) -> None:
    with_members(bench, "sample")
    path = bench.workspace.root / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"[3, not what it should be")
    made, _ = report(bench.workspace.root)
    assert str(path) in lacking(made)
    assert shown in keys(made)


def test_names_from_files_are_text_and_nothing_else(bench: Bench) -> None:
    evil = "<script>alert(1)</script>$x_$\"'&amp;"
    header = bench.workspace.store / "store.json"
    speakers = [f"{evil}{i}" for i in range(4)]
    write_json(header, json.loads(header.read_text()) | {"speakers": speakers})
    bench = Bench(bench.workspace.root)
    with_members(bench, "sample", "conformer-full")
    made_of = make_ensemble(bench.workspace, bench.store, bench.folds, [])
    sent(bench, f"{evil}.csv", made_of.file, "0.5")
    run_ = Run(bench.workspace.runs / f"{evil.replace('/', '')}-s0" / "fold0")
    write_json(run_.record, read_json(Run(bench.workspace.runs / "sample-s0" / "fold0").record, "") | {"variant": evil})
    with_log(run_, {"step": 20, "loss": 1.0})
    made, page = report(bench.workspace.root)
    assert {"confused", "confused-mels", "leaderboard", "loss", "correlation"} <= keys(made)
    assert len(page.all("script")) == 1
    assert "alert(1)" not in page.source.split("<script>")[1].split("</script>")[0]
    assert page.text.count(evil) >= 8
    assert page.source.count("<script") == 1


def test_a_character_that_xml_does_not_know_is_replaced(bench: Bench) -> None:
    bench.member("sample")
    sent(bench, "my\x1bfile\ufffe", make_ensemble(bench.workspace, bench.store, bench.folds, []).file, "0.5")
    made, page = report(bench.workspace.root)
    assert "leaderboard" in keys(made)
    assert "my\ufffdfile\ufffd" in page.text


def test_every_score_of_a_submission_is_to_be_seen_and_the_best_comes_first(bench: Bench) -> None:
    with_members(bench, "sample", "conformer-full")
    for name in ("sample", "conformer-full"):
        sent(bench, name, make_ensemble(bench.workspace, bench.store, bench.folds, [name]).file, "0.55556")
        Ledger(bench.workspace.ledger).update(f"hw4-{name}", private="0.55556", ensemble=f"{name}-s0")
    material = Material(bench.workspace)
    figure, said = leaderboard(material)
    markers = [line for line in figure.axes[0].lines if line.get_marker() in ("D", "s")]
    assert len(markers) == 4
    heights = sorted(float(line.get_ydata()[0]) for line in markers)  # type: ignore[index, arg-type]
    points = figure.dpi * min(b - a for a, b in pairwise(heights)) * 0.52  # 0.52 inches a row
    assert points > 5.5, "one marker covers the other"
    best = material.best_submission
    assert best
    assert said.startswith(best.name)


def test_a_competition_without_lines_passes_none(bench: Bench) -> None:
    header = bench.workspace.store / "store.json"
    write_json(header, json.loads(header.read_text()) | {"competition": "my-class"})
    bench = Bench(bench.workspace.root)
    bench.member("sample")
    file = make_ensemble(bench.workspace, bench.store, bench.folds, []).file
    row = Row("hw4-1", "my-class", "mine", str(file), file_hash(file), "2026-01-01T00:00:00Z", "complete", 1, "0.99")
    Ledger(bench.workspace.ledger).add(row)
    made, _ = report(bench.workspace.root)
    assert sentence(made, "leaderboard").startswith("mine scores 0.99000 in public")
    assert "line" not in sentence(made, "leaderboard")


def test_a_loss_that_rises_is_not_said_to_fall(bench: Bench) -> None:
    bench.member("sample")
    for fold in range(K):
        with_log(
            Run(bench.workspace.runs / "sample-s0" / f"fold{fold}"),
            {"step": 100, "loss": 1.6},
            {"step": 900, "loss": 3.4},
        )
    made, _ = report(bench.workspace.root)
    assert "rose from 1.60 at step 100 to 3.40 at step 900" in sentence(made, "loss")


@pytest.mark.filterwarnings("error::UserWarning")
def test_letters_that_the_pictures_lack_are_nothing_to_warn_of(bench: Bench) -> None:
    with_members(bench, "sample", "conformer-full")
    record = Run(bench.workspace.runs / "sample-s0" / "fold0").record
    theirs = Run(bench.workspace.runs / "的的-s0" / "fold0")
    write_json(theirs.record, read_json(record, "") | {"variant": "的的"})
    with_log(theirs, {"step": 20, "loss": 1.0})
    made, page = report(bench.workspace.root)
    assert "loss" in keys(made)
    assert "的的" in page.text


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs a folder that even root cannot write to")
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    refused(run("report", "--output", "/sys/kernel/report.html", root=tmp_path), 3, "/sys/kernel", "--output")
    (tmp_path / "taken").mkdir()
    refused(run("report", "--output", str(tmp_path / "taken"), root=tmp_path), 3, "taken", "--output")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_sentences_tell_the_figures_of_the_logits(bench: Bench) -> None:
    joined = bench.member("sample", quality=1.0)
    made, page = report(bench.workspace.root)
    right = joined.argmax(1) == bench.labels
    shares = [right[bench.labels == c].mean() for c in range(4)]
    worst = bench.store.speakers[int(np.argmin(shares))]
    assert f"hardest is {worst} ({100 * min(shares):.0f} % named rightly)" in sentence(made, "speaker")
    p = np.exp(joined) / np.exp(joined).sum(1, keepdims=True)
    bins = (p.max(1) * 10).astype(int)
    gap = sum(abs(p.max(1)[bins == b].sum() - right[bins == b].sum()) for b in range(10)) / len(right)
    assert f"sample-s0 is off by {100 * gap:.1f} points" in sentence(made, "reliability")
    assert f"{100 * right.mean():.2f} %" in page.text


def test_the_ensemble_names_by_its_recorded_weights_and_temperatures(bench: Bench) -> None:
    joined = [bench.member(name, scale=3.0, seed=seed) for seed, name in enumerate(["sample", "conformer-full"])]
    made_of = make_ensemble(bench.workspace, bench.store, bench.folds, [], method="convex")
    naming = Material(bench.workspace).naming
    betas = [m["beta"] for m in sorted(made_of.summary()["members"], key=lambda m: m["name"] != "sample-s0")]
    blend = sum(beta * logits for beta, logits in zip(betas, joined, strict=True))
    assert (naming.picks == blend[naming.rows].argmax(1)).all()
    p = np.exp(blend - blend.max(1, keepdims=True))
    after = naming.calibrations[0].after
    assert after is not None
    np.testing.assert_allclose(after.sure, (p.max(1) / p.sum(1))[naming.rows], rtol=1e-4)
    assert naming.calibrations[0].name == made_of.name


def test_members_without_weight_count_among_those_that_could_be_left_out(bench: Bench) -> None:
    material = Material(bench.workspace)
    known = {"a-s0": -0.02, "b-s0": 0.01, "c-s0": 0.0, "d-s0": 0.0}
    members = [{"name": name, "weight": 0.5 * (without != 0), "without": without} for name, without in known.items()]
    material.ensemble = {"name": "blend", "method": "greedy", "members": members}
    told = weights(material)[1]
    assert "would lose most without a-s0: 2.00 points. Each of 3 of the 4 members could be left out at no loss" in told


def test_what_was_fitted_to_the_utterances_it_is_shown_on_is_said_to_be(bench: Bench) -> None:
    bench.member("sample")
    alone = speaker_table(Material(bench.workspace)).caption
    assert "fitted" not in alone
    bench.member("conformer-full", seed=1)
    make_ensemble(bench.workspace, bench.store, bench.folds, [], method="convex")
    material = Material(bench.workspace)
    assert "fitted to all of these utterances" in speaker_table(material).caption
    assert "its temperature, fitted to these utterances," in reliability(material)[1]


@pytest.mark.parametrize("name", ["transformer-simple", "conformer-full", "mfa-conformer", "sample"])
def test_the_weights_drawn_are_those_that_the_frames_are_pooled_with(name: str) -> None:
    torch.manual_seed(0)
    model = SpeakerClassifier(variant(name), 4).eval()
    seen: list[Any] = []
    model.pooling.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    mels = np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)
    weights = pooling_weights(model, mels)
    if name == "sample":  # it pools by the mean
        assert weights is None
        return
    assert weights is not None
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    frames, pooled = seen[0]
    assert len(weights) == frames.shape[1] == 60 // variant(name).stride
    if variant(name).pooling in ("simple", "full"):
        np.testing.assert_allclose(weights @ frames[0].numpy(), pooled[0].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_600_speakers_and_100_members_fit_in_5_mb_and_2_minutes(tmp_path: Path) -> None:
    tiny.store(tmp_path, speakers=600, train=3, test=1, longest=60)
    bench = Bench(tmp_path)
    rng = np.random.default_rng(0)
    for seed in range(100):
        for fold in range(K):
            rows = bench.folds.validation_rows(fold)
            oof = rng.normal(size=(len(rows), 600))
            heard = np.where(
                rows % 10 == 0, (bench.labels[rows] + 1) % 600, bench.labels[rows]
            )  # by all: some stay wrong
            oof[np.arange(len(rows)), heard] += 3
            run_ = bench.run("sample", fold, oof, rng.normal(size=(len(bench.store.test_rows), 600)), seed=seed)
            lines = [{"step": step, "loss": 400 / step} for step in range(20, 20_020, 20)]
            with_log(run_, *lines, {"step": 20_000, "accuracy": 0.9})
    made_of = make_ensemble(bench.workspace, bench.store, bench.folds, [], method="equal")
    sent(bench, made_of.name, made_of.file, "0.9")
    began = time.monotonic()
    made = write_report(Workspace(tmp_path), tmp_path / "report.html", lambda what: None)
    assert time.monotonic() - began < 120
    assert made["bytes"] < 5_000_000
    assert keys(made) | NEEDS_WEIGHTS >= keys(made)
    assert len(keys(made)) >= 11
    assert len(PageOf(tmp_path / "report.html").all("tr")) > 700
