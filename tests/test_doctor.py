"""What the doctor finds, with the command that mends it, and that it never shows a secret."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from command_line import run
from kaggle_support import SLUG, Server

from kaggle_hw4 import doctor
from kaggle_hw4.doctor import Finding, examine, matching
from kaggle_hw4.rehearsal.faults import answer, refusal
from kaggle_hw4.workspace import Workspace

IMPORTS = '["torch", "", true]\n["CUDA", "13.0", true]\n["device", "%s", true]\n'


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the process that tries the imports prints, how it ends, and what nvidia-smi shows (None: not there)."""
    result = [IMPORTS % "CPU only, 2 threads", 0, None]

    def run(command: list[str], **options: Any) -> Any:
        if command == ["nvidia-smi"]:
            return subprocess.CompletedProcess(command, 0, stdout=result[2], stderr="")
        return subprocess.CompletedProcess(command, result[1], stdout=result[0], stderr="")

    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None if result[2] is None else tool)
    return result


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "not" / "there" / "yet")


def named(findings: list[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_all_is_well(kaggle: Server, told: list[Any], workspace: Workspace) -> None:
    findings = examine(SLUG, workspace)
    assert [finding for finding in findings if not finding.ok and finding.name != "disk"] == []
    assert named(findings, "credentials").value == "key from KAGGLE_USERNAME and KAGGLE_KEY"
    assert named(findings, "device").value == "CPU only, 2 threads"
    assert named(findings, "Kaggle").value == "lets you in"
    assert named(findings, "rules").value == f"of {SLUG}: accepted"
    assert named(findings, "submissions").value == "5 left now, 0 made today"
    assert named(findings, "clock").value == "agrees with Kaggle's"
    versions = ["Python", "torch", "torchaudio", "torchvision", "timm", "kaggle", "six", "CUDA"]
    assert [finding.name for finding in findings][: len(versions)] == versions
    assert not workspace.root.exists()


def test_offline_asks_nobody(kaggle: Server, told: list[Any], workspace: Workspace) -> None:
    assert named(examine(SLUG, workspace, online=False), "credentials").ok
    assert kaggle.requests == []


def test_without_credentials(told: list[Any], workspace: Workspace) -> None:
    finding = named(examine(SLUG, workspace), "credentials")
    assert not finding.ok
    assert "KAGGLE_API_TOKEN" in finding.remedy


# --- Kaggle ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "name", "remedy"),
    [
        ("unauthorized", "Kaggle", "unset KAGGLE_USERNAME KAGGLE_KEY"),
        ("rules", "rules", f"https://www.kaggle.com/competitions/{SLUG}/rules"),
        ("no-slots", "submissions", "00:00 UTC"),
        ("clock", "clock", "timedatectl"),
        ("html", "Kaggle", "a proxy"),
        ("broken-json@GetSubmissionLimits", "submissions", "a proxy"),
    ],
)
def test_what_kaggle_says(
    kaggle: Server, told: list[Any], workspace: Workspace, fault: str, name: str, remedy: str
) -> None:
    kaggle.rehearse(fault)
    findings = examine(SLUG, workspace)
    assert remedy in named(findings, name).remedy
    assert [finding.name for finding in findings if not finding.ok and finding.name != "disk"] == [name]


def test_a_setting_that_leads_nowhere_is_one_finding(
    kaggle: Server, told: list[Any], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "PRODUCTION")
    findings = examine(SLUG, workspace)
    assert named(findings, "Kaggle").remedy == "Run: unset KAGGLE_API_ENVIRONMENT"
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef\n")
    findings = examine(SLUG, workspace)
    assert "(a line end?)" in named(findings, "credentials").value
    assert [finding.name for finding in findings if not finding.ok and finding.name != "disk"] == ["credentials"]


def test_a_clock_that_is_a_day_behind(kaggle: Server, told: list[Any], workspace: Workspace) -> None:
    kaggle.rehearse("clock")
    assert named(examine(SLUG, workspace), "clock").value == "24 h 0 min behind Kaggle's"


@pytest.mark.parametrize(("platform", "command"), [("linux", "timedatectl"), ("darwin", "sntp"), ("win32", "w32tm")])
def test_the_clock_is_set_by_a_command_of_this_system(
    monkeypatch: pytest.MonkeyPatch, platform: str, command: str
) -> None:
    monkeypatch.setattr(doctor.sys, "platform", platform)
    assert command in doctor._clock(-86400.0).remedy


def test_a_server_that_tells_nothing(kaggle: Server, told: list[Any], workspace: Workspace) -> None:
    kaggle.disturb("GetSubmissionLimits", refusal(404, "Not found"))
    kaggle.disturb("GET", answer(200, b"PK", date="yesterday"))
    findings = examine(SLUG, workspace)
    assert named(findings, "submissions").value == "not known before the first submission"
    assert named(findings, "clock").ok


# --- versions ----------------------------------------------------------------------------------


def test_a_broken_import_and_a_crash_are_findings(told: list[Any], workspace: Workspace) -> None:
    told[:2] = ['["torch", "", true]\n["torchaudio", "OSError: undefined symbol", false]\n', -11]
    findings = examine(SLUG, workspace, online=False)
    assert named(findings, "import torchaudio").value == "OSError: undefined symbol"
    assert named(findings, "import torchvision").value == "ends Python (signal 11)"


def test_versions_that_do_not_fit_and_the_command_for_each(
    told: list[Any], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "six":
            raise doctor.PackageNotFoundError(name)
        return {
            "torch": "2.11.0+cu128",
            "torchaudio": "2.10.0",
            "torchvision": "0.26.0",
            "kaggle": "2.2.3",
            "filelock": "3.0",
        }.get(name, "99")

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(
        doctor,
        "requires",
        lambda name: [
            "torch>=2.4",
            "torchaudio>=2.4",
            "kaggle<3,>=2.2.4",
            "six",
            "filelock>=3.12",
            "uvicorn; extra=='x'",
        ],
    )
    findings = examine(SLUG, workspace, online=False)
    assert named(findings, "torch").ok
    assert named(findings, "torchvision").ok
    assert named(findings, "torchaudio").remedy == "pip install 'torchaudio==2.11.*'"
    assert named(findings, "kaggle").remedy == "pip install 'kaggle<3,>=2.2.4'"
    assert named(findings, "filelock").remedy == "pip install 'filelock>=3.12'"
    assert named(findings, "six").remedy == "pip install 'six'"
    assert not [finding for finding in findings if finding.name == "none"]


@pytest.mark.parametrize(
    ("device", "shown", "ok", "text"),
    [
        ("1 x H100", "| Driver Version: 580.0   CUDA Version: 13.0 |", True, "CUDA 13.0"),
        ("CPU only, 8 threads", "| Driver Version: 535.0   CUDA Version: 12.2 |", False, "up to CUDA 12.2"),
        ("CPU only, 8 threads", "No devices were found", True, "no NVIDIA driver"),
        ("CPU only, 8 threads", None, True, "no NVIDIA driver"),
    ],
)
def test_whether_the_gpu_can_be_used_is_said(
    told: list[Any], workspace: Workspace, device: str, shown: str | None, ok: bool, text: str
) -> None:
    told[:] = [IMPORTS % device, 0, shown]
    finding = named(examine(SLUG, workspace, online=False), "CUDA")
    assert finding.ok is ok
    assert text in finding.value
    assert bool(finding.remedy) is not ok


def test_too_little_disk(told: list[Any], workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5e9

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage)
    finding = named(examine(SLUG, workspace, online=False), "disk")
    assert (finding.ok, "--root" in finding.remedy) == (False, True)
    archive = workspace.data / f"{SLUG}.zip.part"
    archive.parent.mkdir(parents=True)
    with open(archive, "wb") as file:
        file.truncate(6_000_000_000)  # of which nothing is still to come
    assert named(examine(SLUG, workspace, online=False), "disk").ok
    archive.unlink()
    workspace.store.mkdir(parents=True)  # what takes the room is there already
    assert named(examine(SLUG, workspace, online=False), "disk").ok
    monkeypatch.setattr(Usage, "free", 5e8)  # but trainings have none
    finding = named(examine(SLUG, workspace, online=False), "disk")
    assert (finding.ok, "trainings may take 1.0 GB" in finding.value) == (False, True)
    assert finding.remedy == "Free some space."


@pytest.mark.parametrize("folder", ["data", "runs"])
def test_room_is_looked_for_where_it_will_be_needed(
    told: list[Any], workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """`data` or `runs` may be a link to another disk."""
    (tmp_path / "large disk").mkdir()
    (workspace.store if folder == "runs" else workspace.root).mkdir(parents=True)
    (workspace.root / folder).symlink_to(tmp_path / "large disk")

    def usage(path: Path) -> Any:
        return SimpleNamespace(free=1e12 if path.resolve().name == "large disk" else 1e6)

    monkeypatch.setattr(doctor.shutil, "disk_usage", usage)
    finding = named(examine(SLUG, workspace, online=False), "disk")
    assert (finding.ok, finding.value) == (True, f"1000.0 GB free in {workspace.root / folder}")


@pytest.mark.parametrize("as_json", [True, False])
def test_damaged_data_is_one_finding_among_the_others(told: list[Any], tmp_path: Path, as_json: bool) -> None:
    tiny.store(tmp_path)
    (tmp_path / "data" / "store" / "store.json").write_text("garbage")
    result = run("doctor", "--offline", *(["--json"] if as_json else []), root=tmp_path)
    assert (result.exit_code, "error" in result.stderr) == (3, False)
    if as_json:
        found = {finding["name"]: finding for finding in json.loads(result.stdout)}
        assert {"Python", "device", "disk", "credentials", "data"} <= set(found)
        assert not found["data"]["ok"]
        assert "store.json cannot be read" in found["data"]["value"]
        assert "kaggle-hw4 data" in found["data"]["remedy"]
    else:
        assert f"pack it again: kaggle-hw4 --root {tmp_path} data" in result.stdout


def test_pairs_that_go_together() -> None:
    assert matching("2.4.1", "torchaudio") == "2.4"
    assert matching("2.4.1", "torchvision") == "0.19"
    assert matching("2.11.0+cpu", "torchvision") == "0.26"
    assert matching("3.0", "torchvision") == ""


@pytest.mark.slow
def test_the_imports_themselves(workspace: Workspace) -> None:
    findings = examine(SLUG, workspace, online=False)
    assert [finding for finding in findings if finding.name.startswith("import ")] == []
    assert named(findings, "device").value
