"""What this machine offers, and what its other processes are at."""

import ctypes
import getpass
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_REFUSED_ON_A_GPU = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def usable_cores() -> int:
    """Cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def temporary_folder() -> Path:
    """For what this user keeps on this machine; it may not be there yet."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()  # in a container a number may have no name
    return Path(tempfile.gettempdir()) / f"kaggle-hw4-{user}"


def name_torchs_cache() -> None:
    """Give torch a folder for its cache where the user has no name, which torch would call it by."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(temporary_folder() / "torch"))


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raises MemoryError where PyTorch makes a refusal of memory a RuntimeError like others: the system's on a CPU,
    and on a GPU what another than its own allocator asked for."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        _, _, refused = said.partition("DefaultCPUAllocator: ")
        if not refused and not any(words in said for words in _REFUSED_ON_A_GPU):
            raise
        raise MemoryError(refused or said) from error


def give_back_memory() -> None:
    """Give freed memory back to the system, where the C library (glibc) keeps it and can be told to."""
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def locked_files() -> set[str] | None:
    """Real paths of the files that processes hold locked, as far as this user may see; None where no system tells.

    Linux does, and so no lock has to be tried, for which its owner would have to wait. By the open files of the
    holders, since the numbers in /proc/locks are not always those that `stat` gives (btrfs, overlayfs).
    """
    try:
        table = Path("/proc/locks").read_text()
    except OSError:
        return None
    lines = [line.split() for line in table.splitlines()]
    held: set[str] = set()
    for pid in {fields[4] for fields in lines if fields[1] != "->"}:  # that is one who waits
        with suppress(OSError):  # ended, or of another user
            for number in os.listdir(f"/proc/{pid}/fdinfo"):
                if "lock:" in Path(f"/proc/{pid}/fdinfo/{number}").read_text():
                    held.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return held


def processor() -> str:
    """The name of the processor's model."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return models[0] if models else platform.processor() or platform.machine()
