"""What this installation is made of, whether Kaggle lets it in, and the command that mends each problem."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from platform import python_version

from packaging.requirements import Requirement

from kaggle_hw4.archive_file import size_of
from kaggle_hw4.competition import EDITIONS
from kaggle_hw4.credentials import find_credential, kaggle_json_problem
from kaggle_hw4.errors import HW4Error, RefusedError
from kaggle_hw4.kaggle_calls import status_of
from kaggle_hw4.kaggle_client import KaggleClient, Limits
from kaggle_hw4.terminal import duration, size
from kaggle_hw4.workspace import Workspace

_SHOWN = ("torch", "torchaudio", "torchvision", "timm", "kaggle", "six")
_IMPORT_SECONDS = 300.0  # a cold disk takes its time over torch
_DISK = 10e9  # bytes: the archive, 6.3 GB, and the frames packed as float16, 3.4 GB
_DISK_OF_RUNS = 1e9  # bytes: what trainings write
_CLOCK_SECONDS = 300.0  # farther off, certificates and tokens begin to fail
_SET_CLOCK = {"darwin": "sudo sntp -sS time.apple.com", "win32": "w32tm /resync"}

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
tell("CUDA", torch.version.cuda or "")
if torch.cuda.is_available():
    tell("device", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
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


def examine(slug: str, workspace: Workspace, online: bool = True) -> list[Finding]:
    """Examine Python, packages, device, disk and credentials; `online` also asks Kaggle. No secret is shown."""
    findings = [Finding("Python", True, python_version()), *_versions(), *_imports(), _disk(workspace), *_credentials()]
    if online and findings[-1].ok:
        findings += _kaggle(slug)
    return findings


def _versions() -> list[Finding]:
    """The packages worth seeing, and of all that are declared those that do not fit."""
    try:
        declared = [Requirement(text) for text in requires("kaggle-hw4") or ()]
    except PackageNotFoundError:  # run from its folder without being installed
        declared = []
    wanted = {need.name: need for need in declared if need.marker is None}
    found: dict[str, str] = {}
    findings = []
    for name in dict.fromkeys([*_SHOWN, *wanted]):
        need = wanted.get(name, Requirement(name))
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            findings.append(Finding(name, False, "not installed", f"pip install '{need}'"))
            continue
        release = matching(found["torch"], name) if name in _RELEASES and "torch" in found else ""
        if not need.specifier.contains(found[name], prereleases=True):
            value = f"{found[name]}, but {need.specifier} is needed"
            findings.append(Finding(name, False, value, f"pip install '{need}'"))
        elif release and not found[name].startswith(f"{release}."):
            value = f"{found[name]}, but torch {found['torch']} goes with {name} {release}"
            findings.append(Finding(name, False, value, f"pip install '{name}=={release}.*'"))
        elif name in _SHOWN:
            findings.append(Finding(name, True, found[name]))
    return findings


# How far the minor release of each is ahead of torch's.
_RELEASES = {"torchaudio": ("2", 0), "torchvision": ("0", 15)}


def matching(torch: str, package: str) -> str:
    """The release `major.minor` of torchaudio or torchvision that goes with a torch; empty if not known."""
    numbers = re.match(r"2\.(\d+)", torch)
    if numbers is None:
        return ""
    major, ahead = _RELEASES[package]
    return f"{major}.{int(numbers[1]) + ahead}"


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
    values = {name: value for name, value, _ in told}
    if "device" in values:
        findings.append(_cuda(values.get("CUDA", ""), values["device"]))
        findings.append(Finding("device", True, values["device"]))
    return findings


def _cuda(built_for: str, device: str) -> Finding:
    """Whether torch and the driver go together. `built_for`: torch's CUDA release, empty for none."""
    here = f"torch is built for CUDA {built_for}" if built_for else "torch is built without CUDA"
    driver = _driver()
    if not driver or not device.startswith("CPU"):
        return Finding("CUDA", True, here if driver else f"{here}; there is no NVIDIA driver")
    value = f"{here}, cannot use the GPU; its driver goes up to CUDA {driver}"
    if not built_for:
        return Finding("CUDA", False, value, "pip install --force-reinstall torch torchaudio torchvision")
    return Finding("CUDA", False, value, f"Update the NVIDIA driver, or install a torch built for CUDA {driver}.")


def _driver() -> str:
    """The CUDA release that the NVIDIA driver goes up to; empty when there is no driver or no GPU."""
    tool = shutil.which("nvidia-smi")
    try:
        shown = subprocess.run([tool], capture_output=True, text=True, timeout=30).stdout if tool else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"CUDA[^:|]*Version: *([\d.]+)", shown)
    return found[1] if found else ""


def _disk(workspace: Workspace) -> Finding:
    packed = workspace.store.exists()
    written = workspace.runs if packed else workspace.data  # either may be a link to another disk
    folder = next(path for path in (written, *written.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    there = sum(size_of(workspace.data / f"{slug}.zip{end}") for slug in EDITIONS for end in ("", ".part"))
    needed = _DISK_OF_RUNS if packed else max(_DISK - there, _DISK_OF_RUNS)
    value = f"{size(free)} free in {written}"
    if free >= needed:
        return Finding("disk", True, value)
    if packed:
        return Finding("disk", False, f"{value}; trainings may take {size(needed)}", "Free some space.")
    value += f"; archive and packed data take {size(needed)} more"
    return Finding("disk", False, value, "Choose another workspace with --root DIR.")


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
        ahead = client.check_access()
    except HW4Error as error:
        if status_of(error) != 403 or not isinstance(error, RefusedError):  # a proxy's, say
            return [Finding("Kaggle", False, error.cause, error.remedy)]
        return [Finding("Kaggle", True, "lets you in"), Finding("rules", False, error.cause, error.remedy)]
    findings = [Finding("Kaggle", True, "lets you in"), Finding("rules", True, f"of {slug}: accepted")]
    try:
        findings.append(_slots(client.limits()))
    except HW4Error as error:
        findings.append(Finding("submissions", False, error.cause, error.remedy))
    return [*findings, _clock(ahead)]


def _slots(limits: Limits | None) -> Finding:
    if limits is None:
        return Finding("submissions", True, "not known before the first submission")
    left = f"{limits.allowed_now} left now, {limits.used_today} made today"
    if limits.allowed_now:
        return Finding("submissions", True, left)
    remedy = "None will be given." if limits.limited_by_total else "New ones are given at 00:00 UTC."
    return Finding("submissions", False, left, remedy)


def _clock(ahead: float | None) -> Finding:
    """`ahead`: this machine's clock before Kaggle's, in seconds."""
    if ahead is None:
        return Finding("clock", True, "not compared: Kaggle tells no time")
    if abs(ahead) <= _CLOCK_SECONDS:
        return Finding("clock", True, "agrees with Kaggle's")
    value = f"{duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} Kaggle's"
    return Finding("clock", False, value, _SET_CLOCK.get(sys.platform, "sudo timedatectl set-ntp true"))
