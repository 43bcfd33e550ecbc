"""As in a container: a user who is only a number, or has no home that can be looked at."""

import getpass
import os
from pathlib import Path

import pytest
import torch

from kaggle_hw4.credentials import find_credential, redacted
from kaggle_hw4.jobs.work import prepare_torch


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `docker run --user 12345` has it."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_home_that_cannot_be_looked_at_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HOME=/root for another user, or no HOME and no name: what the environment gives still counts."""

    def denied(path: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        patch.setattr(os, "stat", denied)
        assert str(find_credential()) == "key from KAGGLE_USERNAME and KAGGLE_KEY"
    monkeypatch.setattr(Path, "expanduser", lambda path: 1 / 0)  # raises where there is no home
    assert redacted("0123456789abcdef") == "…"
    assert str(find_credential()) == "key from KAGGLE_USERNAME and KAGGLE_KEY"


def test_torch_has_a_cache_of_its_own_for_a_user_without_a_name(nameless: None, tmp_path: Path) -> None:
    prepare_torch(torch.device("cpu"), deterministic=False)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent.parent == tmp_path
