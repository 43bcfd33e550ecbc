"""Killed at any moment, the way from the archive to the score ends in what it would have been undisturbed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, with threads about")


@pytest.mark.parametrize("kills", [10, pytest.param(120, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_end_is_the_same_bit_by_bit(kills: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), "--kills", str(kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    survived = re.search(r"(\d+) kills survived", done.stdout)
    assert survived, done.stdout
    assert int(survived[1]) >= 0.8 * kills, done.stdout  # a submission that is made cannot be killed any more
