"""The board: intervals, bands, ranks, and where we stand among the teams, through the real commands and a server."""

import csv
import io
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tiny
from command_line import refused, run
from kaggle_support import Server
from rich.console import Console
from written import Bench

from kaggle_hw4.board import read_board
from kaggle_hw4.board_views import board_tables
from kaggle_hw4.competition import competition
from kaggle_hw4.ensemble.blend import make_ensemble
from kaggle_hw4.kaggle_client import KaggleClient
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.rehearsal.scoring import Rehearsal
from kaggle_hw4.workspace import file_hash

SLUG = "ml2023springhw4"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tiny.store(tmp_path, train=30, test=30)
    bench = Bench(tmp_path)
    for seed, name in enumerate(["sample", "conformer-full", "transformer-full"]):
        bench.member(name, quality=1 + 0.5 * seed, seed=seed)
        made = make_ensemble(bench.workspace, bench.store, bench.folds, [name])
        sent = (f"hw4-{seed}", SLUG, made.name, str(made.file), file_hash(made.file), "2026-01-01T00:00:00Z")
        row = Row(*sent, state="complete", ref=seed, ensemble=made.name)
        Ledger(bench.workspace.ledger).add(row)
    return bench


def scores(bench: Bench, *public: str) -> None:
    for seed, score in enumerate(public):
        Ledger(bench.workspace.ledger).update(f"hw4-{seed}", public=score, private=score)


def test_a_score_of_nothing_stands_at_the_end(bench: Bench) -> None:
    scores(bench, "0.5", "0.00000")
    console = Console(width=120, file=io.StringIO())
    console.print(board_tables(read_board(bench.workspace, competition(SLUG))))
    shown = console.file.getvalue().split("member")[0]  # type: ignore[attr-defined]
    assert (
        shown.index("simple line") < shown.index("0.50000" if "0.50000" in shown else " 0.5 ") < shown.index("0.00000")
    )


def test_a_line_has_interval_band_z_and_ranks(bench: Bench) -> None:
    scores(bench, "0.5", "0.7")
    board = read_board(bench.workspace, competition(SLUG))
    lines = {line.name.rsplit("-s0", 1)[0]: line for line in board.submissions}
    for line in lines.values():
        assert line.interval is not None
        assert line.accuracy is not None
        assert line.band is not None
        assert line.interval[0] < line.accuracy < line.interval[1]
        assert line.band.low < line.band.expected < line.band.high
        assert line.band.source == "averaging"
        assert line.band.expected == pytest.approx(line.accuracy + line.band.offset)
        assert line.band.offset > 0.02  # three fold models with noise of their own
    assert lines["sample"].ranks == {"cv": 3, "public": 2, "private": 2}
    assert lines["transformer-full"].ranks == {"cv": 1}
    assert lines["transformer-full"].band is not None
    assert lines["transformer-full"].band.z is None
    sample = lines["sample"].band
    assert sample is not None
    assert sample.z == pytest.approx((0.5 - sample.expected) / ((sample.high - sample.low) / 3.92), rel=1e-6)
    assert board.correlations == {}
    assert (board.slots, board.slots_from) == (5, "ledger")


def test_three_scores_give_an_offset_and_a_rank_correlation(bench: Bench) -> None:
    scores(bench, "0.6", "0.7", "0.8")
    board = read_board(bench.workspace, competition(SLUG))
    assert board.correlations["public"].rho == pytest.approx(1)
    assert board.correlations["public"].submissions == 3
    assert board.correlations["public"].p == pytest.approx(1 / 3)  # of six orders, this one and its reverse
    first = Ledger(bench.workspace.ledger).all(SLUG)[0]
    Ledger(bench.workspace.ledger).add(replace(first, id="hw4-again", ref=99, created="2027-01-01T00:00:00Z"))
    again = read_board(bench.workspace, competition(SLUG))
    assert len(again.submissions) == 4
    assert again.correlations == board.correlations
    bands = {line.name: line.band for line in board.submissions}
    assert all(line.band == bands[line.name] for line in again.submissions)
    assert {line.band.source for line in board.submissions if line.band} == {"scores"}


def test_what_was_refused_and_what_was_sent_again_take_no_rank(bench: Bench) -> None:
    scores(bench, "0.6", "0.7", "0.8")
    ledger = Ledger(bench.workspace.ledger)
    before = read_board(bench.workspace, competition(SLUG))
    best = next(row for row in ledger.all(SLUG) if row.public == "0.8")
    ledger.add(replace(best, id="hw4-no", ref=None, state="error", public=None, created="2025-01-01T00:00:00Z"))
    ledger.add(replace(best, id="hw4-again", ref=99, created="2027-01-01T00:00:00Z"))
    board = read_board(bench.workspace, competition(SLUG))
    assert board.correlations == before.correlations != {}
    ranks = {line.ref: line.ranks for line in board.submissions}
    assert ranks.pop(None) == {}
    assert ranks.pop(99) == ranks[best.ref] == {"cv": 1, "public": 1, "private": 1}
    assert ranks == {line.ref: line.ranks for line in before.submissions}


def test_files_of_one_name_made_elsewhere_are_submissions_of_their_own(bench: Bench) -> None:
    ledger = Ledger(bench.workspace.ledger)
    theirs = ((11, "", "0.9"), (12, "", "0.8"), (13, "aa", "0.7"), (14, "bb", "0.6"), (15, "bb", "0.6"))
    for ref, hash, public in theirs:
        created = f"2026-02-{ref}T00:00:00Z"
        ledger.add(Row(f"x-{ref}", SLUG, "submission", "submission.csv", hash, created, "complete", ref, public))
    scores(bench, "0.5")
    lines = {line.ref: line.ranks.get("public") for line in read_board(bench.workspace, competition(SLUG)).submissions}
    assert lines == {11: 1, 12: 2, 13: 3, 14: 4, 15: 4, 0: 5, 1: None, 2: None}


@pytest.mark.parametrize("width", [40, 50, 60, 63, 64])
def test_a_narrow_board_gives_up_columns_not_names(bench: Bench, width: int) -> None:
    scores(bench, "0.60001", "0.70001", "0.80001")
    console = Console(file=io.StringIO(), width=width)
    console.print(board_tables(read_board(bench.workspace, competition(SLUG))))
    table = console.file.getvalue().split("member")[0].splitlines()  # type: ignore[attr-defined]
    head = next(line for line in table if "public" in line)
    assert {"CV", "public"} <= set(head.split())
    assert ("ranks" in head) == (width == 64)  # where all columns fit, beside names that break
    assert max(map(len, table)) <= width
    names = "".join(line.strip().split("  ")[0] for line in table)
    assert "transformer-full-s0" in names


def test_ensembles_not_sent_have_a_band_too_and_todays_slots_are_counted(bench: Bench) -> None:
    made = make_ensemble(bench.workspace, bench.store, bench.folds, [], method="convex")
    now = datetime.now(UTC).isoformat()
    Ledger(bench.workspace.ledger).add(Row("kaggle-9", SLUG, "theirs", "x.csv", "", now, "sent", 9))
    board = read_board(bench.workspace, competition(SLUG))
    (line,) = board.unsent
    assert line.name == made.name
    assert line.band is not None
    assert board.slots == 4
    theirs = board.submissions[0]
    assert (theirs.accuracy, theirs.band) == (None, None)


def test_every_format_tells_the_same(bench: Bench, tmp_path: Path) -> None:
    scores(bench, "0.6", "0.7", "0.8")
    content = json.loads(run("board", "--json", root=tmp_path).stdout)
    rows = list(csv.DictReader(io.StringIO(run("board", "--csv", root=tmp_path).stdout)))
    for line in content["submissions"]:
        (row,) = [row for row in rows if row["name"] == line["name"]]
        assert float(row["cv"]) == line["accuracy"]
        assert float(row["band_low"]) == line["band"]["low"]
        assert float(row["z"]) == line["band"]["z"]
        assert int(row["rank_cv"]) == line["ranks"]["cv"]
    shown = run("board", root=tmp_path).stdout
    for word in (
        "boss line",
        "Rank correlation",
        "Submissions left today: 5",
        "0.80000" if "0.80000" in shown else "0.8",
    ):
        assert word in shown
    picture = tmp_path / "board.png"
    assert run("board", "--picture", str(picture), root=tmp_path).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused(run("board", "--picture", str(tmp_path / "board.doc"), root=tmp_path), 2, ".png, .svg or .pdf")
    refused(run("board", "--csv", "--json", root=tmp_path), 2, "--csv and --json")


@pytest.mark.filterwarnings("error::UserWarning")
def test_letters_that_the_picture_lacks_are_nothing_to_warn_of(bench: Bench, tmp_path: Path) -> None:
    Ledger(bench.workspace.ledger).update("hw4-0", name="的的")
    assert run("board", "--picture", str(tmp_path / "board.png"), root=tmp_path).exit_code == 0


def test_what_the_board_advises_is_for_its_workspace(tmp_path: Path) -> None:
    assert f"kaggle-hw4 --root {tmp_path} train --fold all" in run("board", root=tmp_path).stdout


def test_an_empty_board_has_a_picture_as_well(tmp_path: Path) -> None:
    assert run("board", "--picture", str(tmp_path / "board.svg"), root=tmp_path / "new").exit_code == 0
    assert b"boss" in (tmp_path / "board.svg").read_bytes()


def test_trainings_whose_split_is_gone_are_not_denied(bench: Bench, tmp_path: Path) -> None:
    assert run("board", root=tmp_path).stderr == ""
    bench.workspace.folds_file.unlink()
    shown = run("board", root=tmp_path)
    assert shown.exit_code == 0
    assert "Nothing is trained" not in shown.stdout
    assert "folds.json is gone" in shown.stderr
    assert f"make it as it was: kaggle-hw4 --root {tmp_path} folds --k N --seed S" in shown.stderr
    content = json.loads(run("board", "--json", root=tmp_path).stdout)
    assert len(content["submissions"]) == 3
    assert {(member["accuracy"], member["folds_done"], member["folds"]) for member in content["members"]} == {
        (None, 0, 0)
    }
    shutil.rmtree(bench.workspace.runs)
    shown = run("board", root=tmp_path)
    assert ("Nothing is trained here yet" in shown.stdout, shown.stderr) == (True, "")


def test_sync_brings_the_place_among_the_teams_and_the_slots(
    bench: Bench, kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of = [0.5 + i / 500 for i in range(230)]  # more than a page
    teams = [{"teamId": i, "teamName": f"team {i}", "score": str(score)} for i, score in enumerate(scores_of)]
    hidden = [team | {"score": "0.1"} for team in teams]  # the private leaderboard, which Kaggle prefers
    monkeypatch.setattr(Rehearsal, "leaderboard", lambda self, public: teams if public else hidden)
    assert KaggleClient(SLUG).leaderboard() == scores_of[::-1]
    scores(bench, "0.9", "0.95")
    result = run("board", "--sync", "--json", root=tmp_path)
    assert result.exit_code == 0, result.stderr
    lines = {line["ref"]: line for line in json.loads(result.stdout)["submissions"]}
    assert (lines[0]["place"], lines[0]["teams"]) == (1 + sum(score > 0.9 for score in scores_of), 230)
    assert (lines[1]["place"], lines[2]["place"]) == (1 + sum(score > 0.95 for score in scores_of), None)
    assert "(30/230)" in run("board", root=tmp_path).stdout
    scores(bench, "0.05")  # late, and behind every team
    run("board", "--sync", root=tmp_path)
    assert "(231/231)" in run("board", root=tmp_path).stdout


def test_no_figure_is_cut_on_80_columns(bench: Bench) -> None:
    scores(bench, "0.60001", "0.70001", "0.80001")
    foreign = Row("kaggle-9", SLUG, "by hand " * 16, "x.csv", "", "2026-01-01T00:00:00Z", "complete", 9, "0.5", "0.4")
    placed = replace(foreign, id="kaggle-10", ref=10, place=1043, teams=1143)
    for rows in ([], [foreign], [placed]):
        for row in rows:
            Ledger(bench.workspace.ledger).add(row)
        board = read_board(bench.workspace, competition(SLUG))
        console = Console(file=io.StringIO(), width=80)
        console.print(board_tables(board))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= 80
        shown = "\n".join(lines)
        for line in [line for line in board.submissions if line.band]:
            assert line.band
            band = f"{line.band.low:.3f}–{line.band.high:.3f}"
            for figure in (f"{line.accuracy:.4f}", line.public, f"{line.band.z:+.1f}", band):
                assert str(figure) in shown, shown
            assert {"CV", "public", "private", "expected", "z", "ranks"} <= set(shown.split())
