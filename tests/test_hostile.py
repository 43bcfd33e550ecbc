"""Any reader, any input: changed files by chance, and guided by coverage. Only the documented error."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from kaggle_hw4.errors import HW4Error

_NUMBERS = [b"\xff" * 4, b"\xff" * 8, bytes(8), b"1e999", b"NaN", b"-1", b"9" * 400]
_PIECES = st.sampled_from([*_NUMBERS, b"\\ud800", b"[" * 60, b'""', b"null", b"{", b"true"])


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds, with up to three places overwritten, cut out, or repeated."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 40]))
        piece = draw(st.one_of(st.binary(max_size=8), _PIECES, st.just(content[start : start + 40])))
        content = content[:start] + piece + content[start + length :]
    return content


@pytest.mark.parametrize("target", TARGETS)
def test_a_changed_file_is_read_or_refused_with_the_documented_error(target: str) -> None:
    seeds = TARGETS[target].seeds()

    @settings(max_examples=30, deadline=10_000)
    @given(changed(seeds))
    def read(content: bytes) -> None:
        with suppress(HW4Error):
            TARGETS[target].run(content)

    for seed in seeds:
        with suppress(HW4Error):
            TARGETS[target].run(seed)
    read()


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing_in_some_seconds_each(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "fuzz", "--seconds", "5", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert {row[1].strip() for row in rows} == set(TARGETS)
    assert all(int(row[2].replace(",", "")) > 50 for row in rows), done.stdout
