"""Validate a submission, send it at most once, wait for its score, and record everything.

A file is uploaded, recorded as being sent, and only then submitted. The record's unique id is part of
the submission's description, so that after a lost answer or a kill it can be looked up on Kaggle
instead of being sent a second time.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kaggle_hw4.difference import against_earlier
from kaggle_hw4.errors import HW4Error, PendingError, RefusedError, UnavailableError
from kaggle_hw4.kaggle_client import KaggleClient, MaybeSentError, Submission
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.submission_file import SubmissionFile, load_submission, read_submission
from kaggle_hw4.workspace import Workspace, storage_errors, utf8

__all__ = ["read_submission", "submit", "sync"]

# Kaggle's list may lag behind a submission: how long one is looked for when its answer is lost.
_LOOKUP_SECONDS, _LOOKUP_PAUSE = 6.0, 2.0
# A request given up may still be carried out by a slow server. Only a list asked for this long after
# it shows by its silence that there is no submission.
_SETTLE_SECONDS = 60.0
_LOCK_SECONDS = 50.0
_POLL_SECONDS = 0.25, 10.0  # from the first pause between two looks at the score to the longest
# What the same command goes on with: it may have been begun with `force`, and would else send another.
_OPEN = ("sending", "sent")
_RERUN = "Run the same command again, or `kaggle-hw4 board --sync`; nothing is sent twice."


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
    file = load_submission(csv_path, test_ids, speakers)
    if dry_run:
        report(f"{csv_path}: valid, {len(file.frame)} rows; nothing was sent (dry run)")
        return None
    ledger = Ledger(workspace.ledger)
    with _alone(workspace.submissions / ".submit.lock"):
        row = _known(ledger, slug, _content_hash(file), force)
        if row is None:
            alike, warnings = against_earlier(workspace, ledger.all(slug), file.frame, ensemble)
            row = None if force and alike and alike.state not in _OPEN else alike
            for warning in warnings:
                report(warning)
        if row is not None and row.state == "complete":
            known = row.csv_hash == _content_hash(file)
            sent = "was submitted before" if known else f"names every utterance as {row.name} did, sent before"
            report(f"{csv_path} {sent} (ref {row.ref}): its recorded score is shown")
            return row
        if row is not None and row.state == "error":
            raise _error(row)
        client = KaggleClient(slug)
        if force and row and row.state == "sent" and row.ref and not client.submission(row.ref):
            row = None  # Kaggle does not know it
        if row is None or row.state == "sending":
            row = _send(client, ledger, file, row, ensemble, report)
            if row.state == "error":
                raise _error(row)
            if not wait:
                return row
    if wait:
        return _wait(client, ledger, row, timeout, report)
    return _refresh(client, ledger, row)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from doing the same at the same time."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise PendingError("another process is still at it", _RERUN) from None
    try:
        yield
    finally:
        lock.release()


def sync(slug: str, workspace: Workspace) -> list[Row]:
    """Bring the ledger up to Kaggle's list: scores, lost references, submissions made elsewhere.

    Gives the rows that are new or changed. Raises as KaggleClient and Ledger do.
    """
    ledger = Ledger(workspace.ledger)
    # Listed first: what is being sent now is in the ledger before it is in the list.
    submissions = KaggleClient(slug).submissions()
    changed = []
    with _alone(workspace.submissions / ".sync.lock"):
        known = ledger.all(slug)
        for submission in submissions:
            # By the id first: a server set up anew may give the same references again.
            row = next((row for row in known if row.id in submission.description), None) or next(
                (row for row in known if row.ref == submission.ref), None
            )
            if row is None:
                changed.append(_record(ledger, ledger.add(_foreign(slug, submission)), submission))
            elif (updated := _record(ledger, row, submission)) != row:
                changed.append(updated)
    return changed


def _foreign(slug: str, submission: Submission) -> Row:
    """A row for a submission made elsewhere."""
    return Row(
        id=f"kaggle-{submission.ref}",
        competition=slug,
        name=submission.description or submission.file_name,
        file=submission.file_name,
        csv_hash="",
        created=submission.date or _now(),
        state="sent",
        ref=submission.ref,
    )


def _known(ledger: Ledger, slug: str, csv_hash: str, force: bool) -> Row | None:
    """The row that answers for this content. One that is open does so even under `force`, first one in doubt."""
    rows = sorted(ledger.find(slug, csv_hash), key=lambda row: row.state != "sending")
    return next((row for row in rows if row.state in _OPEN or (row.ref is not None and not force)), None)


def _send(
    client: KaggleClient,
    ledger: Ledger,
    file: SubmissionFile,
    row: Row | None,
    ensemble: str,
    report: Callable[[str], None],
) -> Row:
    """Make the submission, unless that of a doubtful `row` is found on Kaggle."""
    if row is not None and (found := _find_doubtful(client, row, report)):
        report(f"found on Kaggle what was sent before (ref {found.ref})")
        return _record(ledger, row, found)
    _check_quota(client)
    token = client.upload(utf8(file.path.name), file.content)
    row = _note_sending(ledger, client.slug, file, row, ensemble)
    try:
        ref = client.create(token, f"{row.name[:80]} [{row.id}]")
    except MaybeSentError as error:
        report(f"{error.cause}; looking for the submission on Kaggle …")
    except HW4Error as error:
        ledger.update(row.id, state="error", error=error.cause)
        raise
    else:
        report(f"submitted {file.path} (ref {ref})")
        return ledger.update(row.id, state="sent", ref=ref)
    found = _look_up(client, row.id, _LOOKUP_SECONDS)
    if found is None:
        raise _doubtful(row.id)
    report(f"Kaggle has it (ref {found.ref})")
    return _record(ledger, row, found)


def _note_sending(ledger: Ledger, slug: str, file: SubmissionFile, row: Row | None, ensemble: str) -> Row:
    """Record that the file is being sent now: under the id of `row`, which names all alike, or else under a new one."""
    now = Row(
        id=row.id if row else f"hw4-{secrets.token_hex(6)}",
        competition=slug,
        name=utf8(file.path.stem),
        file=utf8(str(file.path.resolve())),  # found again from any folder
        csv_hash=_content_hash(file),
        created=_now(),
        state="sending",
        ensemble=ensemble,
    )
    if row is None:
        return ledger.add(now)
    changes = {key: getattr(now, key) for key in ("name", "file", "csv_hash", "created", "ensemble")}
    return ledger.update(row.id, **changes)


def _find_doubtful(client: KaggleClient, row: Row, report: Callable[[str], None]) -> Submission | None:
    """The submission of a row of which only the sending is known; None when there surely is none."""
    # However old the row says it is: the clock may have been set since.
    report(f"{row.id} may have been sent before: looking for it on Kaggle, for {_SETTLE_SECONDS:.0f} s at most …")
    return _look_up(client, row.id, _SETTLE_SECONDS)


def _look_up(client: KaggleClient, id: str, seconds: float) -> Submission | None:
    """The submission with this id; None when Kaggle's list has none for so long.

    Raises PendingError without a list.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            submissions = client.submissions()
        except (UnavailableError, RefusedError) as error:
            raise _doubtful(id, f"\n  {error}" if isinstance(error, RefusedError) else "") from error
        for submission in submissions:
            if id in submission.description:
                return submission
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(_LOOKUP_PAUSE, left))


def _doubtful(id: str, why: str = "") -> PendingError:
    return PendingError(
        f"whether Kaggle has the submission is not known; its id is {id}{why}",
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
    try:
        found = client.submission(row.ref)
    except (UnavailableError, RefusedError) as error:
        remedy = _RERUN if isinstance(error, UnavailableError) else f"{error.remedy}\n  {_RERUN}"
        raise type(error)(f"{error.cause}; submission {row.ref} is made and recorded", remedy) from error
    if found is not None:
        row = _record(ledger, row, found)
    if row.state == "error":
        raise _error(row)
    return row


def _record(ledger: Ledger, row: Row, found: Submission) -> Row:
    state = {"COMPLETE": "complete", "ERROR": "error"}.get(found.status, "sent")
    now = next((known for known in ledger.all(row.competition) if known.id == row.id), row)
    if now.ref and now.state in ("complete", "error") and state == "sent":
        return now  # scored since Kaggle was asked
    return ledger.update(
        row.id,
        state=state,
        ref=found.ref,
        created=found.date or row.created,  # Kaggle's clock orders the board, not this machine's
        public=found.public,
        private=found.private,
        error=found.error or "",
    )


def _content_hash(file: SubmissionFile) -> str:
    """As `workspace.file_hash`, but of what was read and checked."""
    return hashlib.sha256(file.content).hexdigest()[:16]


def _error(row: Row) -> RefusedError:
    return RefusedError(
        f"Kaggle could not score submission {row.ref}: {row.error or 'it gives no reason'}",
        f"Check {row.file}; the same file is sent again only with --force.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
