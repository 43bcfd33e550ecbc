"""Validate a submission, send it at most once, wait for its score, and record everything.

The unique id of a submission is recorded before it is sent and is part of its description, so that
after a lost answer or a kill it can be looked up on Kaggle instead of being sent a second time.
"""

import csv
import io
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.errors import DataError, HW4Error, PendingError, RefusedError, UnavailableError
from kaggle_hw4.kaggle_client import KaggleClient, MaybeSentError, Submission
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.workspace import Workspace, file_hash, storage_errors

_LOOKUPS, _LOOKUP_PAUSE = 3, 2.0  # Kaggle's list may lag behind a submission by a moment
_LOCK_SECONDS = 120.0
_POLL_SECONDS = 0.25, 15.0  # from the first pause between two looks at the score to the longest
_RERUN = "Run the same command again, or `kaggle-hw4 board --sync`; nothing is sent twice."


def read_submission(path: Path, test_ids: Sequence[str], speakers: Sequence[str]) -> pd.DataFrame:
    """Read a submission and check it against the test table; the order of its rows is free.

    Returns:
        A frame with the columns Id and Category, in the file's order.

    Raises:
        DataError: naming what differs from the test table, and the first row that does.
    """
    remedy = f"A submission has the header {ID_COLUMN},{LABEL_COLUMN} and one row per test utterance."
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "Make a submission with: kaggle-hw4 ensemble") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}", remedy) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy) from error
    if not rows or rows[0] != [ID_COLUMN, LABEL_COLUMN]:
        raise DataError(f"{path}: its first line is {','.join(rows[0])[:80] if rows else 'empty'!r}", remedy)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2:
            raise DataError(f"{path}, row {number}: {len(row)} columns instead of 2", remedy)
    frame = pd.DataFrame(rows[1:], columns=[ID_COLUMN, LABEL_COLUMN], dtype=str)
    _check_ids(path, list(frame[ID_COLUMN]), test_ids, remedy)
    known = set(speakers)
    for number, speaker in enumerate(frame[LABEL_COLUMN], start=2):
        if speaker not in known:
            raise DataError(
                f"{path}, row {number}: there is no speaker {speaker!r} in the training data",
                f"{LABEL_COLUMN} is a speaker id such as {min(known, default='id00001')}.",
            )
    return frame


def _check_ids(path: Path, ids: list[str], test_ids: Sequence[str], remedy: str) -> None:
    expected = set(test_ids)
    for number, (name, in_order) in enumerate(zip(ids, test_ids, strict=False), start=2):
        if name not in expected:
            raise DataError(
                f"{path}, row {number}: {name!r} is not in the test table, which has {in_order!r} there",
                "Ids must be as in testdata.json, unchanged; a spreadsheet may have altered them.",
            )
    name, count = Counter(ids).most_common(1)[0] if ids else ("", 0)
    if count > 1:
        rows = [str(number) for number, other in enumerate(ids, start=2) if other == name]
        raise DataError(f"{path}: {name} stands in rows {', '.join(rows)}", remedy)
    if len(ids) != len(test_ids):
        present = set(ids)
        missing = next((name for name in test_ids if name not in present), None)
        first = f"; the first missing is {missing}" if missing else ""
        raise DataError(f"{path} has {len(ids)} rows instead of {len(test_ids)}{first}", remedy)


def submit(
    slug: str,
    workspace: Workspace,
    csv_path: Path,
    *,
    test_ids: Sequence[str],
    speakers: Sequence[str],
    report: Callable[[str], None],
    ensemble: str = "",
    wait: bool = True,
    timeout: float = 600.0,
    dry_run: bool = False,
    force: bool = False,
) -> Row | None:
    """Submit a file unless the ledger knows one with the same content; gives its row, None for a dry run.

    Raises:
        DataError: the file is not a valid submission (no request is made), or the ledger is broken.
        RefusedError: no slots left, Kaggle's verdict on the file was an error, or Kaggle said no.
        UnavailableError: Kaggle could not be reached; if it had the file already, a rerun goes on.
        PendingError: not scored within `timeout` seconds, or whether it was sent is not known.
    """
    frame = read_submission(csv_path, test_ids, speakers)
    if dry_run:
        report(f"{csv_path}: valid, {len(frame)} rows; nothing was sent (dry run)")
        return None
    ledger = Ledger(workspace.ledger)
    with _alone(workspace.submissions):
        row = _known(ledger, slug, csv_path, force)
        if row is not None and row.state == "complete":
            report(f"{csv_path} was submitted before (ref {row.ref}): its recorded score is shown")
            return row
        if row is not None and row.state == "error":
            raise _error(row)
        client = KaggleClient(slug)
        if row is None or row.state == "sending":
            row = _send(client, ledger, csv_path, row, ensemble, report)
    if wait:
        return _wait(client, ledger, row, timeout, report)
    return _refresh(client, ledger, row)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from sending at the same time."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".submit.lock", timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise PendingError("another submit is still sending", _RERUN) from None
    try:
        yield
    finally:
        lock.release()


def sync(slug: str, workspace: Workspace) -> list[Row]:
    """Bring the ledger up to Kaggle's list: scores, lost references, submissions made elsewhere.

    Gives the rows that are new or changed. Raises as KaggleClient and Ledger do.
    """
    ledger = Ledger(workspace.ledger)
    known = ledger.all(slug)
    changed = []
    for submission in KaggleClient(slug).submissions():
        # By the id first: a server set up anew may give the same references again.
        row = next((row for row in known if row.id in submission.description), None) or next(
            (row for row in known if row.ref == submission.ref), None
        )
        if row is None:
            row = ledger.add(
                Row(
                    id=f"kaggle-{submission.ref}",
                    competition=slug,
                    name=submission.description or submission.file_name,
                    file=submission.file_name,
                    csv_hash="",
                    created=submission.date or _now(),
                    state="sent",
                    ref=submission.ref,
                )
            )
            changed.append(_record(ledger, row, submission))
        elif (updated := _record(ledger, row, submission)) != row:
            changed.append(updated)
    return changed


def _known(ledger: Ledger, slug: str, csv_path: Path, force: bool) -> Row | None:
    """The row that answers for this file. A doubtful one does so even under `force`."""
    rows = ledger.find(slug, file_hash(csv_path))
    for row in rows:
        if row.state == "sending":
            return row
    if force:
        return None
    return next((row for row in rows if row.ref is not None), None)


def _send(
    client: KaggleClient,
    ledger: Ledger,
    csv_path: Path,
    row: Row | None,
    ensemble: str,
    report: Callable[[str], None],
) -> Row:
    """Make the submission, unless that of a doubtful `row` is found on Kaggle."""
    if row is not None and (found := _look_up(client, row.id)):
        report(f"found on Kaggle what was sent before (ref {found.ref})")
        return _record(ledger, row, found)
    _check_quota(client)
    if row is None:
        row = ledger.add(
            Row(
                id=f"hw4-{secrets.token_hex(6)}",
                competition=client.slug,
                name=csv_path.stem,
                file=str(csv_path),
                csv_hash=file_hash(csv_path),
                created=_now(),
                state="sending",
                ensemble=ensemble,
            )
        )
    try:
        ref = client.submit(csv_path, f"{row.name} [{row.id}]")
    except MaybeSentError as error:
        report(f"{error.cause}; looking for the submission on Kaggle …")
    except HW4Error as error:
        ledger.update(row.id, state="error", error=error.cause)
        raise
    else:
        if ref is not None:
            report(f"submitted {csv_path} (ref {ref})")
            return ledger.update(row.id, state="sent", ref=ref)
    found = _look_up(client, row.id)
    if found is None:
        raise _doubtful(row.id)
    report(f"Kaggle has it (ref {found.ref})")
    return _record(ledger, row, found)


def _look_up(client: KaggleClient, id: str) -> Submission | None:
    """The submission with this id, None when Kaggle's list has none. Raises PendingError without a list."""
    for attempt in range(_LOOKUPS):
        if attempt:
            time.sleep(_LOOKUP_PAUSE)
        try:
            submissions = client.submissions()
        except UnavailableError as error:
            raise _doubtful(id) from error
        for submission in submissions:
            if id in submission.description:
                return submission
    return None


def _doubtful(id: str) -> PendingError:
    return PendingError(
        f"whether Kaggle has the submission is not known; its id is {id}",
        "Run the same command again: it looks for the id before it sends anything.",
    )


def _check_quota(client: KaggleClient) -> None:
    limits = client.limits()
    if limits is None or limits.allowed_now > 0:
        return
    if limits.limited_by_total:
        raise RefusedError("the competition's total of submissions is used up; nothing was sent")
    raise RefusedError(
        f"no submissions left today ({limits.used_today} made); nothing was sent",
        "New ones are given at 00:00 UTC.",
    )


def _wait(client: KaggleClient, ledger: Ledger, row: Row, timeout: float, report: Callable[[str], None]) -> Row:
    deadline = time.monotonic() + timeout
    pause, longest = _POLL_SECONDS
    row = _refresh(client, ledger, row)
    if row.state == "sent":
        report(f"waiting for the score of {row.ref} …")
    while row.state == "sent":
        left = deadline - time.monotonic()
        if left <= 0:
            raise PendingError(f"submission {row.ref} is not scored after {timeout:.0f} s", _RERUN)
        time.sleep(min(pause, left))
        pause = min(1.5 * pause, longest)
        row = _refresh(client, ledger, row)
    return row


def _refresh(client: KaggleClient, ledger: Ledger, row: Row) -> Row:
    """The row with what Kaggle says now. Raises RefusedError when that is an error."""
    if row.ref is None:
        return row
    found = client.submission(row.ref)
    if found is not None:
        row = _record(ledger, row, found)
    if row.state == "error":
        raise _error(row)
    return row


def _record(ledger: Ledger, row: Row, found: Submission) -> Row:
    state = {"COMPLETE": "complete", "ERROR": "error"}.get(found.status, "sent")
    return ledger.update(
        row.id, state=state, ref=found.ref, public=found.public, private=found.private, error=found.error or ""
    )


def _error(row: Row) -> RefusedError:
    return RefusedError(
        f"Kaggle could not score submission {row.ref}: {row.error or 'it gives no reason'}",
        f"Check {row.file}; the same file is sent again only with --force.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
