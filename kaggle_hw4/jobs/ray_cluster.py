"""The way into a Ray cluster: a new one, or one that is there; and what is said when there is none, or it ends."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kaggle_hw4.errors import UnavailableError, UsageError, first_line
from kaggle_hw4.machine import usable_cores

_REACH_SECONDS = 5.0  # for the first answer of a host
_JOIN_SECONDS = 90.0  # to be let into a cluster
_HEAD_SECONDS, _HEAD_PAUSE = 30.0, 3.0  # that a head may be silent; between two looks
_AGAIN = "Run the same command again: it goes on from the checkpoints."
_TOKEN = secrets.token_hex(16)  # Ray reads one once in a process, and would write one into HOME

_JOINING = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address`, or to a new one with room for `workers`.

    The environment is as before afterwards.

    Raises:
        UsageError: Ray is not installed, or that is no address.
        UnavailableError: there is no cluster at the address, or none can be started.
    """
    before = os.environ.copy()
    try:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"  # noqa: SIM112 - see `Head`
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # a note about GPUs that we do not depend on
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]  # Ray talks to its own nodes only
        if address is None:
            # The documented switch to a cluster of one node, whose servers then all listen on 127.0.0.1 only.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ.get("RAY_AUTH_TOKEN") or _TOKEN)
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as the local engine's workers; Ray's are nice by 15
        yield _initialised(address, workers)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _initialised(address: str | None, workers: int | None) -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray, which is not installed", "pip install 'kaggle-hw4[ray]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        quiet |= {"num_cpus": max(usable_cores(), workers or 1), "include_dashboard": False}
    else:
        _check(address)
    try:
        ray.init(address=address or "local", **quiet)
    except Exception as error:  # plain ones, among others
        ray.shutdown()
        raise UnavailableError(f"Ray did not start: {reason_of(error)}", "Run the same command again.") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own prints a stack
    return ray


def _check(address: str) -> None:
    """Raises UnavailableError when there is no cluster: left to itself Ray tries for minutes, then ends the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"no address {address!r}", "Write it as `ray start` tells it: HOST:PORT, as in 10.0.0.1:6379.")
    remedy = "Start it with `ray start` on every node, this one too (see docs/ray.md), or leave --address out."
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
        # In a process of its own, which can be ended.
        command = [sys.executable, "-c", _JOINING, address]
        subprocess.run(command, capture_output=True, text=True, timeout=_JOIN_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"no Ray cluster answered at {address} in {_JOIN_SECONDS:.0f} s", remedy) from None
    except subprocess.CalledProcessError as error:
        if "InvalidAuthToken" in error.stderr or "AuthenticationError" in error.stderr:
            raise UnavailableError(
                f"the Ray cluster at {address} asks for a token",
                "Run `export RAY_AUTH_MODE=token`; the file ~/.ray/auth_token must be the same on all nodes.",
            ) from None
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UnavailableError(f"the Ray cluster at {address} cannot be joined: {last}", remedy) from None
    except OSError as error:
        raise UnavailableError(f"nothing answers at {address}: {error}", remedy) from None


class Head:
    """The head of the cluster that `ray` is connected to; Ray itself tries for a minute, then ends the process."""

    def __init__(self, ray: Any) -> None:
        self._address = ray.get_runtime_context().gcs_address
        self._looked = 0.0
        self._silent_since: float | None = None
        self.gone = False

    def check(self) -> None:
        """Raises UnavailableError when it has been gone for `_HEAD_SECONDS`."""
        now = time.monotonic()
        if now - self._looked < _HEAD_PAUSE:
            return
        self._looked = now
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), 1.0).close()
            self._silent_since = None
        except OSError as error:
            self._silent_since = self._silent_since or now
            if now - self._silent_since >= _HEAD_SECONDS:
                self.gone = True
                said = f"the head of the Ray cluster, {self._address}, is gone: {error}"
                raise UnavailableError(said, _AGAIN) from None


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Raises UnavailableError for what Ray raises when it lost more than a worker."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise UnavailableError(f"the Ray cluster failed: {reason_of(error)}", _AGAIN) from error


def reason_of(error: Exception) -> str:
    return first_line(getattr(error, "cause", None) or error)  # what a task raised, without Ray's own traceback
