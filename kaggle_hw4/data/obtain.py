"""`kaggle-hw4 data`: the archive from Kaggle or from disk, packed once."""

from pathlib import Path

from filelock import FileLock

from kaggle_hw4.data.pack import pack
from kaggle_hw4.data.store import DTYPES, Store, open_store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.terminal import progress_bar, say
from kaggle_hw4.workspace import Workspace, storage_errors


def obtain(workspace: Workspace, slug: str, source: Path | None, dtype: str) -> Store:
    """The packed store of the workspace: as it is when it fits the request, else downloaded and packed.

    Raises:
        UsageError: an unknown dtype, or `source` cannot be what it should.
        DataError: the store there is of another competition, source or dtype; or what `pack` raises.
        RefusedError, UnavailableError: Kaggle's, while downloading.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}", f"There are: {', '.join(DTYPES)}.")
    with storage_errors(workspace.data):
        workspace.data.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace.data / ".pack.lock"):
            if workspace.store.exists():
                store = open_store(workspace.store)
                _check_same(store, slug, source, dtype)
                say("The data is packed already.")
                return store
            archive = source or _download(workspace, slug)
            with progress_bar("packing") as update:
                return pack(archive, workspace.store, competition=slug, dtype=dtype, progress=update)


def _check_same(store: Store, slug: str, source: Path | None, dtype: str) -> None:
    found = {"competition": store.competition, "dtype": store.dtype, "source": store.source}
    asked = {"competition": slug, "dtype": dtype, "source": str(source.resolve()) if source else store.source}
    if found != asked:
        differing = ", ".join(
            f"{key} {found[key]} there, {asked[key]} now" for key in asked if found[key] != asked[key]
        )
        raise DataError(
            f"{store.folder} was packed from something else: {differing}",
            "Use another --root, or delete that folder to pack anew.",
        )


def _download(workspace: Workspace, slug: str) -> Path:
    from kaggle_hw4.kaggle_client import KaggleClient

    with progress_bar("downloading", unit_bytes=True) as update:
        return KaggleClient(slug).download_archive(workspace.data, lambda done, total: update(done, total or None))
