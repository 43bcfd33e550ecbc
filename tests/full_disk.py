"""The way from the archive to the score on a disk that is full at the n-th write of a command, for every n.

`python tests/full_disk.py` in the environment that `make install` makes (Linux, with a C compiler). What each command
writes is counted first; then it is run once for every write, which fails, and so do all after it. It must end with exit
code 3 and one message, leave nothing that is not whole, and end as undisturbed once there is room again.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kills
import numpy as np
import tiny
from desk import make_competition

_ROOM = 1 << 40  # writes
_TRAIN = ["train", "--variant", "sample", "--fold", "all", "--steps", "40", "--workers", "1"]


def every_write(folder: Path, most: int) -> None:
    """Raises AssertionError where a command on a full disk does anything else than it must.

    Of a command that writes more often than `most` times so many of its writes fail, spread evenly.
    """
    kills.prepare()
    left = ctypes.CDLL(None).full_disk_left
    left.restype = ctypes.POINTER(ctypes.c_long)
    writes, tried = left(), 0
    competition = make_competition(folder / "kaggle", tiny.files(speakers=6, train=12, test=4))
    os.environ["FULL_DISK"] = str(folder / "disk")
    before, after = folder / "disk" / "before", folder / "disk" / "after"
    before.mkdir(parents=True)
    for command, _ in kills.WAY:
        command = _TRAIN if command == kills.TRAIN else command
        shutil.copytree(before, after)
        kills.use_server(folder, competition, f"{command[0]}-after")
        writes.contents.value = _ROOM
        kills.finish(after, command)
        count = _ROOM - writes.contents.value
        for n in np.unique(np.linspace(1, count, min(count, most)).round().astype(int)).tolist():
            root = shutil.copytree(before, folder / "disk" / f"{command[0]}-{n}")
            kills.use_server(folder, competition, root.name)
            writes.contents.value = n - 1
            (folder / "output.txt").unlink()
            code = kills.ended(kills.started(root, command), 300)
            failed = writes.contents.value < 0  # how often a training writes depends on the clock
            writes.contents.value = _ROOM
            output = (folder / "output.txt").read_text()
            assert "Traceback" not in output, output
            assert code == (3 if failed else 0), f"{command}, write {n}: exit code {code}\n{output}"
            assert not failed or "no space left" in output or "disk is full" in output, output
            kills.check_whole(root)
            kills.finish(root, command)
            kills.assert_same(after, root)
            assert not list(root.rglob("*.tmp"))
            kills.stop_server(root.name)
            shutil.rmtree(root)
            tried += failed
        print(f"{command[0]:<10} {count} writes", flush=True)
        shutil.rmtree(before)
        after.rename(before)
    print(f"{tried} full disks survived")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=1000, help="of the writes of a command that fail")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kaggle-hw4-full-"))
    try:
        if "FULL_DISK" not in os.environ:
            library = folder / "full_disk.so"
            source = Path(__file__).with_name("full_disk.c")
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
            again = os.environ | {"LD_PRELOAD": str(library), "FULL_DISK": str(folder)}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=again).returncode)
        every_write(folder, options.most)
    finally:
        kills.stop_servers()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
