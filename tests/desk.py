"""A user's desk: a workspace, the commands, and a server with a small competition in the real layout."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from command_line import run
from kaggle_support import SLUG, Port, Server, serve
from typer.testing import Result

from kaggle_hw4 import submit as submit_module


@dataclass
class Desk:
    """`csv` is a right submission to the competition."""

    server: Server
    root: Path
    csv: Path
    slug: str

    def run(self, *arguments: str) -> Result:
        return run(*arguments, root=self.root)

    def refused(self, result: Result, code: int, *words: str) -> None:
        """One message on stderr with these words, nothing on stdout, no traceback, this exit code."""
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        for word in words:
            assert word in result.stderr, result.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in a process of its own, which can be killed."""
        command = [sys.executable, "-m", "kaggle_hw4", "--root", str(self.root), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def requests(self) -> list[str]:
        """The requests since the last time."""
        made = self.server.requests[:]
        self.server.requests.clear()
        return made

    @property
    def archive(self) -> Path:
        return self.root / "data" / f"{self.slug}.zip"

    @property
    def part(self) -> Path:
        return self.archive.with_name(f"{self.archive.name}.part")

    def whole(self, *, aside: bool = False) -> bool:
        """Whether the archive has arrived as the server has it, and nothing is left of its transfer.

        With `aside`, whether beside it lies what stood in its place.
        """
        same = self.archive.read_bytes() == self.server.rehearsal.archive.read_bytes()
        others = {f"{self.archive.name}.aside-1"} if aside else set()
        return same and self.left() == {self.archive.name, f"{self.archive.name}.json"} | others

    def left(self) -> set[str]:
        """The names of what is there of the archive."""
        return {path.name for path in self.archive.parent.glob(f"{self.slug}*")}

    def ledger(self) -> list[dict[str, Any]]:
        """The submissions on the board."""
        result = self.run("board", "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["submissions"]

    def interrupt_download(self, kill: int) -> subprocess.Popen[str]:
        """`data` from a slow server, ended by a signal when a part has arrived."""
        process = self.start("data")
        deadline = time.monotonic() + 30
        while not (self.part.exists() and self.part.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(kill)
        return process


def make_competition(folder: Path, content: dict[str, bytes], slug: str = SLUG) -> Path:
    """The folder that the server serves. Its answers: the speakers in turn."""
    speakers = list(tiny.table(content, "metadata.json")["speakers"])
    ids = [entry["feature_path"] for entry in tiny.table(content, "testdata.json")["utterances"]]
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{slug}.zip", "w") as archive:
        for name, blob in content.items():
            archive.writestr(f"Dataset/{name}", blob)
    rows = "".join(f"{id},{speakers[number % len(speakers)]}\n" for number, id in enumerate(ids))
    (folder / "labels.csv").write_text(f"Id,Category\n{rows}", encoding="utf-8")
    return folder


def make_desk(
    tmp_path: Path, port: Port, monkeypatch: pytest.MonkeyPatch, content: dict[str, bytes], slug: str = SLUG
) -> Desk:
    competition = make_competition(tmp_path / "competition", content, slug)
    server = serve(port, competition, tmp_path / "home", monkeypatch)
    # The real waits are for real servers.
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._PATIENCE_SECONDS", 2.5)
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("kaggle_hw4.kaggle_client._CREATE_SECONDS", 0.6)
    monkeypatch.setattr("kaggle_hw4.official_client.READ_SECONDS", 0.4)
    monkeypatch.setattr(submit_module, "_LOOKUP_SECONDS", 0.2)
    monkeypatch.setattr(submit_module, "_LOOKUP_PAUSE", 0.1)
    monkeypatch.setattr(submit_module, "_SETTLE_SECONDS", 0.3)
    return Desk(server, tmp_path / "root", competition / "labels.csv", slug)


SIGINT, SIGKILL = signal.SIGINT, signal.SIGKILL
KEY = "key from KAGGLE_USERNAME and KAGGLE_KEY"
DROP = ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN")


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credential anywhere; gives the folder that they would lie in."""
    for name in DROP:
        monkeypatch.delenv(name, raising=False)
    folder = Path(os.environ["HOME"]) / ".kaggle"
    folder.mkdir()
    return folder
