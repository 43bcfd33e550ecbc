"""The whole way, small, through the real commands, a real server and Kaggle's own client."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_hw4.errors import DataError
from kaggle_hw4.rehearsal import demo
from kaggle_hw4.rehearsal.server import client_environment


def hw4(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaggle_hw4", "--root", str(root), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def test_the_demo_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = {"SPEAKERS": 4, "UTTERANCES": 8, "FOLDS": 2, "STEPS": 3}
    for name, value in sizes.items():
        monkeypatch.setattr(demo, name, value)
    assert demo.main(tmp_path / "demo") == 0
    out = capfd.readouterr().out
    for word in ("kaggle-hw4 train --fold all", "boss line", "conformer-full-s0", ".csv"):
        assert word in out
    named = [line.split()[0] for line in out.split("Look at:")[1].splitlines() if line.startswith("  ")]
    assert named
    assert all(Path(path).exists() for path in named)

    root = tmp_path / "demo"
    board = json.loads(hw4(root, "board", "--json").stdout)
    (submission,) = board["submissions"]
    assert submission["state"] == "complete"
    assert [member["folds_done"] for member in board["members"]] == [2, 2, 2, 2]
    record = json.loads((root / "submissions" / f"{submission['name']}.json").read_text())
    assert submission["accuracy"] == record["accuracy"]

    # Kaggle's figures are those of the answers: each half scores its own rows.
    read = lambda path: dict(line.split(",") for line in path.read_text().split()[1:])  # noqa: E731
    answers = read(root / "kaggle" / "labels.csv")
    sent = read(root / "submissions" / f"{submission['name']}.csv")
    right = sum(sent[name] == speaker for name, speaker in answers.items())
    half = len(answers) / 2
    assert (submission["public"] + submission["private"]) * half == pytest.approx(right, abs=1e-3)

    # Once more: everything is there already, nothing is sent a second time.
    assert demo.main(root) == 0
    err = capfd.readouterr().err
    assert "packed already" in err
    assert "All 8 jobs are done" in err
    assert "was submitted before" in err
    assert len(json.loads((root / "kaggle" / "server.json").read_text())) == 1


def test_a_demo_that_cannot_be_is_one_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert demo.main(tmp_path / "file") == 3
    kaggle = tmp_path / "demo" / "kaggle"
    kaggle.mkdir(parents=True)
    for name in ("ml2023springhw4.zip", "second.zip", "labels.csv"):
        (kaggle / name).touch()
    with pytest.raises(DataError, match="2 zip files"):
        demo._start_server(kaggle)
    err = capfd.readouterr().err
    assert f"error: {tmp_path / 'file'}" in err
    assert "Traceback" not in err


def test_serve_tells_what_to_export_and_the_commands_work_with_it(tmp_path: Path) -> None:
    kaggle, root = tmp_path / "kaggle", tmp_path / "root"
    made = hw4(root, "rehearsal", "make", str(kaggle), "--speakers", "3", "--utterances", "8")
    assert made.returncode == 0
    assert f"Next: kaggle-hw4 rehearsal serve {kaggle}" in made.stderr
    command = [sys.executable, "-u", "-m", "kaggle_hw4", "rehearsal", "serve", str(kaggle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout
            lines = [server.stdout.readline() for _ in client_environment(1)]
            exported = dict(re.fullmatch(r"export (\w+)=(.*)\n", line).groups() for line in lines)  # type: ignore[union-attr]
            environment = {name: value.strip("'") for name, value in exported.items()}
            data = hw4(root, "data", "--json", **environment)
            assert data.returncode == 0, data.stderr
            assert json.loads(data.stdout)["test"] == 6
            doctor = hw4(root, "doctor", "--json", **environment)
            assert doctor.returncode == 0, doctor.stdout
            findings = {finding["name"]: finding["ok"] for finding in json.loads(doctor.stdout)}
            assert all(findings.values())
            assert {"torch", "credentials", "Kaggle"} <= set(findings)
        finally:
            server.terminate()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_command_end_by_itself(tmp_path: Path, kill: signal.Signals) -> None:
    """`subprocess.run` would kill it a quarter of a second later, in the midst of its checkpoints.

    SIGTERM is sent to the demo alone.
    """
    slow = (
        "import os, signal, sys, time\n"
        "def stop(*_):\n    time.sleep(1)\n    os.write(1, b'written\\n')\n    os._exit(130)\n"
        "signal.signal(signal.SIGINT, stop)\nsignal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    (tmp_path / "kaggle_hw4.py").write_text(slow)  # in the place of the command
    run = "from kaggle_hw4.rehearsal.demo import _run; os.chdir(sys.argv[1]); sys.exit(_run('train', {}))"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, sys; {run}", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["$ kaggle-hw4 train\n", "ready\n"]
    (os.killpg if kill == signal.SIGINT else os.kill)(process.pid, kill)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "written\n", "")
