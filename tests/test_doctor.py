"""What the doctor finds, and that it never shows a secret."""

import subprocess
from typing import Any

import pytest
from kaggle_support import SLUG, Server

from kaggle_hw4 import doctor
from kaggle_hw4.doctor import Finding, examine, matching
from kaggle_hw4.rehearsal.faults import refusal


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the process that tries the imports prints, and how it ends: here without 6 s of importing."""
    result = ['["torch", "", true]\n["device", "CPU only, 2 threads", true]\n', 0]

    def run(*arguments: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess("", result[1], stdout=result[0], stderr="")

    monkeypatch.setattr(doctor.subprocess, "run", run)
    return result


def named(findings: list[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_all_is_well(kaggle: Server, told: list[Any]) -> None:
    findings = examine(SLUG)
    assert [finding for finding in findings if not finding.ok] == []
    assert named(findings, "credentials").value == "key from KAGGLE_USERNAME and KAGGLE_KEY"
    assert named(findings, "device").value == "CPU only, 2 threads"
    assert SLUG in named(findings, "Kaggle").value
    assert named(findings, "submissions").value == "5 left now, 0 made today"
    assert {"Python", "torch", "torchaudio", "torchvision", "timm", "kaggle", "six"} <= {f.name for f in findings}


def test_offline_asks_nobody(kaggle: Server, told: list[Any]) -> None:
    assert named(examine(SLUG, online=False), "credentials").ok
    assert kaggle.requests == []


def test_without_credentials(told: list[Any]) -> None:
    finding = named(examine(SLUG), "credentials")
    assert not finding.ok
    assert "KAGGLE_API_TOKEN" in finding.remedy


@pytest.mark.parametrize(("status", "remedy"), [(401, "take it away"), (403, f"{SLUG}/rules")])
def test_kaggle_says_no(kaggle: Server, told: list[Any], status: int, remedy: str) -> None:
    kaggle.disturb("DownloadDataFiles", refusal(status, "No"))
    finding = named(examine(SLUG), "Kaggle")
    assert not finding.ok
    assert remedy in finding.remedy


def test_no_secret_is_shown(kaggle: Server, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_fedcba9876543210")
    kaggle.disturb("IntrospectToken", refusal(401, "Unauthenticated"))
    shown = repr(examine(SLUG))
    assert "token from KAGGLE_API_TOKEN" in shown
    assert "0123456789abcdef" not in shown
    assert "fedcba9876543210" not in shown


def test_a_broken_import_and_a_crash_are_findings(told: list[Any]) -> None:
    told[:] = ['["torch", "", true]\n["torchaudio", "OSError: undefined symbol", false]\n', -11]
    findings = examine(SLUG, online=False)
    assert named(findings, "import torchaudio").value == "OSError: undefined symbol"
    assert named(findings, "import torchvision").value == "ends Python (signal 11)"


def test_a_mismatched_pair_and_a_missing_package(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "six":
            raise doctor.PackageNotFoundError(name)
        return {"torch": "2.11.0+cu128", "torchaudio": "2.10.0", "torchvision": "0.26.0"}.get(name, "1.0")

    monkeypatch.setattr(doctor, "version", version)
    findings = examine(SLUG, online=False)
    assert named(findings, "torch").ok
    assert named(findings, "torchvision").ok
    assert named(findings, "torchaudio").remedy == "pip install 'torchaudio==2.11.*'"
    assert named(findings, "six").remedy == "pip install six"


def test_pairs_that_go_together() -> None:
    assert matching("2.4.1", "torchaudio") == "2.4"
    assert matching("2.4.1", "torchvision") == "0.19"
    assert matching("2.11.0+cpu", "torchvision") == "0.26"
    assert matching("3.0", "torchvision") == ""


@pytest.mark.slow
def test_the_imports_themselves() -> None:
    findings = examine(SLUG, online=False)
    assert [finding for finding in findings if finding.name.startswith("import ")] == []
    assert named(findings, "device").value
