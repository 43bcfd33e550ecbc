"""`kaggle-hw4 data`: the archive from Kaggle or from disk, packed once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kaggle_hw4 import archive_file
from kaggle_hw4.competition import DEFAULT_SLUG, EDITIONS
from kaggle_hw4.data.archive import check_source
from kaggle_hw4.data.pack import pack
from kaggle_hw4.data.store import DTYPES, Store, open_store
from kaggle_hw4.data.tar import size_of_source
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.ledger import Ledger
from kaggle_hw4.terminal import progress_bar, say
from kaggle_hw4.workspace import Workspace, storage_errors, sweep


def obtain(workspace: Workspace, slug: str | None, source: Path | None, dtype: str | None) -> Store:
    """The packed store of the workspace: as it is when it fits the request, else downloaded and packed.

    Without a `slug`, the competition is the one whose data is there, else the one that the archive
    `source` is named after, else the default; without a `dtype`, that of the data there, else float16.

    Raises:
        UsageError: an unknown dtype, or `source` cannot be what it should.
        DataError: the store there is of another competition, source or dtype, the workspace or the
            archive belongs to another edition; or what `pack` raises.
        RefusedError, UnavailableError: Kaggle's, while downloading.
    """
    if dtype not in (None, *DTYPES):
        raise UsageError(f"--dtype {dtype}", f"There are: {', '.join(DTYPES)}.")
    if source:
        check_source(source)  # before a folder is made
    with storage_errors(workspace.data):
        workspace.data.mkdir(parents=True, exist_ok=True)
        with _alone(workspace.data / ".pack.lock"):
            sweep(workspace.data)
            named = _edition_of(source, slug) if source else None
            if workspace.store.exists():
                store = open_store(workspace.store)
                _check_same(store, slug or store.competition, source, dtype or store.dtype)
                store.frames  # noqa: B018 (looks at all of them)
                say("The data is packed already.")
                return store
            slug = slug or named or DEFAULT_SLUG
            _check_edition(workspace, slug, named)
            archive = source or _download(workspace, slug)
            try:
                with progress_bar("packing") as update:
                    return pack(archive, workspace.store, competition=slug, dtype=dtype or "float16", progress=update)
            except DataError:
                if not source:
                    archive_file.recheck(archive)
                raise


def _edition_of(source: Path, asked: str | None) -> str | None:
    """The competition that `source` is named after; where none is asked for, also that of the folder it lies in."""
    source = source.resolve()
    names = [source.name, source.parent.name] if source.is_dir() and not asked else [source.name]
    return next((slug for name in names for slug in EDITIONS if re.match(rf"{slug}(?![A-Za-z0-9])", name)), None)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold `lock`, after who has it now."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        say("Another process gets this data; waiting for it …")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _check_same(store: Store, slug: str, source: Path | None, dtype: str) -> None:
    found = {"competition": store.competition, "dtype": store.dtype, "source": store.source}
    asked = {"competition": slug, "dtype": dtype, "source": str(source.resolve()) if source else store.source}
    differing = ", ".join(f"{key} {found[key]} there, {asked[key]} now" for key in asked if found[key] != asked[key])
    if source and store.source_bytes and (now := size_of_source(source)) != store.source_bytes:
        differing = differing or f"{source} had {store.source_bytes:,} bytes, {now:,} now"
    if differing:
        raise DataError(
            f"{store.folder} was packed from something else: {differing}",
            "Use another --root, or delete that folder to pack anew.",
        )


def _check_edition(workspace: Workspace, slug: str, named: str | None) -> None:
    """The editions share their files, split otherwise: what is made of one says nothing about another."""
    for other in EDITIONS.keys() - {slug}:
        if named == other:
            raise DataError(
                f"{other} is another competition than {slug}, by the name of the archive",
                f"Add --competition {other}, or rename the archive if it is one of {slug}.",
            )
        archives = [path for path in workspace.data.glob(f"{other}.zip*") if path.suffix in (".zip", ".part")]
        if archives or Ledger(workspace.ledger).all(other):
            raise DataError(
                f"{workspace.root} is a workspace of {other}: {archives[0].name if archives else 'see its board'}",
                f"Use another one for {slug}: --root DIR",
            )


def _download(workspace: Workspace, slug: str) -> Path:
    archive = workspace.data / f"{slug}.zip"
    if archive_file.is_recorded(archive):  # which takes no account
        return archive
    from kaggle_hw4.kaggle_client import KaggleClient

    with progress_bar("downloading", unit_bytes=True) as update:
        return KaggleClient(slug).download_archive(workspace.data, lambda done, total: update(done, total or None))
