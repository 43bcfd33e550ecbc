"""A large file from Kaggle: resumed after every kind of break, never believed before it is verified.

The transfer is our own. Version 2.2.4 of the official client writes the server's error message over
what had arrived when the answer to a resumed download is an error, and tells nobody how far it is.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kaggle_hw4 import archive_file
from kaggle_hw4.archive_file import Expected, Progress
from kaggle_hw4.errors import DataError, UnavailableError, UsageError
from kaggle_hw4.kaggle_calls import Calls, check_no_page
from kaggle_hw4.official_client import new_session
from kaggle_hw4.terminal import say
from kaggle_hw4.workspace import read_json, storage_errors, write_json

_CHUNK = 2**18  # bytes
_LOOK_BYTES = 2**30  # between two looks at the room on the disk, where the length is not told
_TRIES = 3  # in a row without a byte


def download(final: Path, ask: Callable[[], Any], calls: Calls, progress: Progress) -> Path:
    """Fetch a zip file to `final`, going on where an earlier attempt stopped; gives `final`.

    `ask` gives an open answer with the whole file, from a fresh address each time, since the former
    one may have expired. `progress` is called with the bytes that have arrived and those expected
    (0: not known). A file verified before is not fetched again.

    Raises:
        DataError: not enough space, or the folder cannot be written.
        UsageError: another process is downloading to the same folder.
        UnavailableError: no byte came in time, or the file arrived damaged twice.
    """
    folder = final.parent
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / f".{final.name}.lock", timeout=0):
                return _download(final, ask, calls, progress)
        except Timeout:
            raise UsageError(f"{folder}: another process is downloading to it", "Let it finish.") from None


def _download(final: Path, ask: Callable[[], Any], calls: Calls, progress: Progress) -> Path:
    if archive_file.is_recorded(final):
        return final
    part = final.with_name(f"{final.name}.part")
    if final.exists():  # put there by hand or changed since: believed only once verified
        with closing(ask()) as answer:
            expected = Expected.of(answer.headers)
        problem = archive_file.problem(final, expected)
        if not problem:
            archive_file.record(final, expected)
            return final
        say(f"{final} is not Kaggle's archive ({problem}): kept as {_set_aside(final).name}.")
    problem = ""
    for _ in range(2):
        expected = _fetch(part, ask, calls, progress)
        problem = archive_file.problem(part, expected)
        if not problem:
            os.replace(part, final)
            archive_file.record(final, expected)
        else:
            part.unlink()
        _origin_file(part).unlink(missing_ok=True)
        if not problem:
            return final
    raise UnavailableError(f"the archive arrived damaged twice: {problem}", "Try again later; nothing of it was kept.")


def _set_aside(path: Path) -> Path:
    """Rename a file that may be the user's; gives the new path, under which nothing was."""
    aside = next(name for n in count(1) if not os.path.lexists(name := path.with_name(f"{path.name}.aside-{n}")))
    os.rename(path, aside)
    return aside


def _fetch(part: Path, ask: Callable[[], Any], calls: Calls, progress: Progress) -> Expected:
    """Bring `part` to its full length. As long as something arrives, it is tried again."""
    tries = 0
    while True:
        before = archive_file.size_of(part)
        with closing(ask()) as answer:
            expected = Expected.of(answer.headers)
            if before == expected.size:
                return expected
            archive_file.check_space(part.parent, (expected.size or 0) - before)
            try:
                calls.directly(partial(_receive, answer, part, expected, progress))
            except UnavailableError:
                tries += 1
                if archive_file.size_of(part) > before:
                    tries = 0
                    calls.succeeded()
                    calls.failed(time.monotonic())
                pause = 0.25 * 2**tries
                if tries == _TRIES or not calls.bears(pause):
                    raise
            else:
                calls.succeeded()
                return expected
        time.sleep(pause)


def _receive(answer: Any, part: Path, expected: Expected, progress: Progress) -> None:
    """Write what is missing of `part`: from a second request for the rest, or else all of `answer`."""
    size = archive_file.size_of(part)
    origin = {"validator": expected.validator, "size": expected.size}
    if 0 < size < (expected.size or 0) and expected.validator and _origin_of(part) == origin:
        with closing(_ask_for_rest(answer, size, expected.validator)) as rest:
            if rest.status_code == 206 and rest.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
                _write(rest, part, size, expected, progress)
                return
    write_json(_origin_file(part), origin)
    _write(answer, part, 0, expected, progress)


def _ask_for_rest(answer: Any, size: int, validator: str) -> Any:
    """The answer to a request like that for `answer`, for the bytes from `size` on."""
    headers = {**answer.request.headers, "Range": f"bytes={size}-", "If-Range": validator}
    rest = new_session().request(
        answer.request.method, answer.url, data=answer.request.body, headers=headers, stream=True
    )
    try:
        if rest.status_code != 416:
            rest.raise_for_status()
        check_no_page(rest)
    except BaseException:
        rest.close()
        raise
    return rest


def _write(answer: Any, part: Path, start: int, expected: Expected, progress: Progress) -> None:
    total = expected.size or 0
    done = start
    with open(part, "ab" if start else "wb") as file:
        progress(done, total)
        for piece in answer.iter_content(_CHUNK):
            file.write(piece)
            file.flush()  # what has arrived survives a kill
            done += len(piece)
            if not total and done % _LOOK_BYTES < len(piece):  # it may never end
                archive_file.check_space(part.parent, _LOOK_BYTES)
            progress(done, total)


def _origin_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _origin_of(part: Path) -> Any:
    """What `part` is the beginning of, as noted when it was begun; None when that is not known."""
    try:
        return read_json(_origin_file(part), "")
    except DataError:
        return None
