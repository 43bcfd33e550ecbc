"""What this installation is made of, whether Kaggle lets it in, and the command that mends each problem."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from kaggle_hw4.credentials import find_credential, kaggle_json_problem
from kaggle_hw4.errors import HW4Error, RefusedError
from kaggle_hw4.kaggle_client import KaggleClient

_PACKAGES = ("torch", "torchaudio", "torchvision", "timm", "kaggle", "six")
_IMPORT_SECONDS = 300.0  # a cold disk takes its time over torch

# Run in a process of its own: a torchaudio built for another torch may end it without a traceback.
_IMPORTS = """
import json
def tell(name, value, ok=True): print(json.dumps([name, value, ok]), flush=True)
for name in ("torch", "torchaudio", "torchvision", "timm"):
    try:
        __import__(name)
    except BaseException as error:
        tell(name, f"{type(error).__name__}: {error}".splitlines()[0][:200], False)
    else:
        tell(name, "")
import torch
if torch.cuda.is_available():
    tell("device", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
elif torch.backends.mps.is_available():
    tell("device", "Apple GPU")
else:
    tell("device", f"CPU only, {torch.get_num_threads()} threads")
"""


@dataclass(frozen=True)
class Finding:
    """One thing examined. `remedy` is a command or an address; empty where nothing is to be done."""

    name: str
    ok: bool
    value: str
    remedy: str = ""


def examine(slug: str, online: bool = True) -> list[Finding]:
    """Examine Python, packages, device and credentials; `online` also asks Kaggle. No secret is shown."""
    findings = [_python(), *_versions(), *_imports(), *_credentials()]
    if online and findings[-1].ok:
        findings += _kaggle(slug)
    return findings


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, python_version(), "" if ok else "Install Python 3.11 or newer.")


def _versions() -> list[Finding]:
    findings = []
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            findings.append(Finding(name, False, "not installed", f"pip install {name}"))
            continue
        wanted = matching(found["torch"], name) if name.startswith("torch") and "torch" in found else ""
        if wanted and not found[name].startswith(f"{wanted}."):
            value = f"{found[name]}, but torch {found['torch']} goes with {name} {wanted}"
            findings.append(Finding(name, False, value, f"pip install '{name}=={wanted}.*'"))
        else:
            findings.append(Finding(name, True, found[name]))
    return findings


def matching(torch: str, package: str) -> str:
    """The release `major.minor` of torchaudio or torchvision that goes with a torch; empty if not known."""
    numbers = re.match(r"2\.(\d+)", torch)
    if numbers is None:
        return ""
    minor = int(numbers[1])
    return {"torch": f"2.{minor}", "torchaudio": f"2.{minor}", "torchvision": f"0.{minor + 15}"}[package]


def _imports() -> list[Finding]:
    try:
        done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, timeout=_IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return [Finding("import", False, f"not done after {_IMPORT_SECONDS:.0f} s", "Try once more.")]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    findings = [
        Finding(f"import {name}", False, value, f"pip install --force-reinstall {name}")
        for name, value, ok in told
        if not ok
    ]
    if done.returncode < 0:  # ended by a signal, while the next one was being imported
        order = ("torch", "torchaudio", "torchvision", "timm", "torch.cuda")
        name = order[min(len(told), len(order) - 1)]
        value = f"ends Python (signal {-done.returncode})"
        findings.append(Finding(f"import {name}", False, value, f"pip install --force-reinstall {name}"))
    findings += [Finding("device", True, value) for name, value, _ in told if name == "device"]
    return findings


def _credentials() -> list[Finding]:
    """Findings of which the last says whether there is a credential to try."""
    findings = []
    try:
        used = Finding("credentials", True, str(find_credential()))
    except RefusedError as error:
        return [Finding("credentials", False, error.cause, error.remedy)]
    if problem := kaggle_json_problem():
        findings.append(Finding("kaggle.json", False, problem, "Mend the file or move it away."))
    return [*findings, used]


def _kaggle(slug: str) -> list[Finding]:
    try:
        client = KaggleClient(slug)
        client.check_access()
        limits = client.limits()
    except HW4Error as error:
        return [Finding("Kaggle", False, error.cause, error.remedy)]
    left = "not known before the first submission"
    if limits is not None:
        left = f"{limits.allowed_now} left now, {limits.used_today} made today"
    return [
        Finding("Kaggle", True, f"lets you in; the rules of {slug} are accepted"),
        Finding(
            "submissions",
            limits is None or limits.allowed_now > 0,
            left,
            "" if limits is None or limits.allowed_now else "New ones are given at 00:00 UTC.",
        ),
    ]
