"""The 2022 edition: same layout, lines of its own, and never mixed with 2023 in one workspace."""

import shutil
from pathlib import Path

import pytest
import tiny
from desk import Desk, make_desk
from kaggle_support import Port

OLD, NEW = "ml2022spring-hw4", "ml2023springhw4"


@pytest.fixture
def desk(tmp_path: Path, port: Port, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(tmp_path, port, monkeypatch, tiny.files(), slug=OLD)


def test_the_2022_edition_from_download_to_board(desk: Desk) -> None:
    """One of four public rows is wrong: above the medium line of 2022, below that of 2023."""
    assert desk.run("data", "--competition", f"https://www.kaggle.com/c/{OLD}").exit_code == 0
    assert desk.whole()
    rows = desk.csv.read_text().splitlines()
    mine = desk.root / "mine.csv"
    public = next(id for id in desk.server.rehearsal.answers.public)
    rows_of_mine = [row if not row.startswith(public) else f"{public},{_another(rows, row)}" for row in rows]
    mine.write_text("\n".join(rows_of_mine) + "\n")
    result = desk.run("submit", str(mine))
    assert result.exit_code == 0, result.output
    assert "public 0.75000, private 1.00000; passes the medium line" in result.stdout
    board = desk.run("board")
    assert OLD in board.stdout
    assert "0.60824" in board.stdout
    assert "0.66025" not in board.stdout
    again = desk.run("data")
    assert again.exit_code == 0  # the workspace knows its edition
    assert "packed already" in again.stderr


def _another(rows: list[str], row: str) -> str:
    return next(other.split(",")[1] for other in rows[1:] if other.split(",")[1] != row.split(",")[1])


def test_editions_are_not_mixed(desk: Desk) -> None:
    assert desk.run("data", "--competition", OLD).exit_code == 0
    assert desk.run("submit", str(desk.csv)).exit_code == 0
    desk.requests()
    desk.refused(desk.run("data", "--competition", NEW), 3, f"competition {OLD} there, {NEW} now")
    shutil.rmtree(desk.root / "data" / "store")
    desk.refused(desk.run("data", "--competition", NEW), 3, f"a workspace of {OLD}: {OLD}.zip", "--root")
    desk.archive.unlink()
    desk.refused(desk.run("data", "--competition", NEW), 3, f"a workspace of {OLD}: see its board")
    assert desk.requests() == []


@pytest.mark.parametrize("name", [f"{OLD} (1).zip", f"{OLD}_copy.zip", f"{OLD}/Dataset"])
def test_an_archive_that_was_renamed_or_unpacked_is_of_its_edition(desk: Desk, tmp_path: Path, name: str) -> None:
    source = tmp_path / "downloads" / name
    if name.endswith(".zip"):
        source.parent.mkdir()
        shutil.copy(desk.server.rehearsal.archive, source)
    else:
        tiny.as_folder(source, tiny.files())
    asked = desk.run("data", "--competition", NEW, "--from", str(source))
    if name.endswith(".zip"):
        desk.refused(asked, 3, f"Add --competition {OLD}")
    else:  # its own name says nothing
        assert f"{NEW}: " in asked.stdout
        shutil.rmtree(desk.root / "data")
    result = desk.run("data", "--from", str(source))
    assert result.exit_code == 0, result.output
    assert f"{OLD}: " in result.stdout


def test_an_archive_is_of_the_edition_that_it_is_named_after(desk: Desk) -> None:
    archive = str(desk.server.rehearsal.archive)
    desk.refused(desk.run("data", "--competition", NEW, "--from", archive), 3, f"Add --competition {OLD}")
    result = desk.run("data", "--from", archive)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{OLD}: ")
