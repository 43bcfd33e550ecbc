"""The notebooks, as Kaggle and Colab would run them: a fresh environment, the wheel, mounted data or the API."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from kaggle_support import Port, Server

from kaggle_hw4.rehearsal.make import make
from kaggle_hw4.rehearsal.server import client_environment

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NAMES = {"kaggle.ipynb", "colab.ipynb"}

# What only the hosts have: the reader's secrets, and their Drive.
HOSTS = {
    "kaggle_secrets.py": "class UserSecretsClient:\n    def get_secret(self, name):\n        return 'good'\n",
    "google/colab/__init__.py": "",
    "google/colab/userdata.py": "def get(name):\n    return 'good'\n",
    "google/colab/drive.py": "def mount(path):\n    print('Mounted at', path)\n",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_holds_no_output_and_no_address(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    assert {path.name for path in NOTEBOOKS} == NAMES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 20
    assert "://" not in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 10_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("kaggle_hw4-*.whl")
    return built


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("competition")
    make(folder, speakers=3, utterances=12, seed=0, progress=lambda done, total: None)
    return folder


def fresh_environment(folder: Path) -> Path:
    """A virtual environment with all that this one has but kaggle-hw4; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    ours = Path(pytest.__file__).parents[1]
    packages = folder / "packages"
    packages.mkdir()
    for entry in ours.iterdir():
        if "kaggle_hw4" not in entry.name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def execute(
    name: str, folder: Path, competition: Path, port: Port, monkeypatch: pytest.MonkeyPatch, **parameters: object
) -> tuple[str, Path]:
    """Run all cells of a notebook in `folder`; gives what they print, and the workspace."""
    import nbformat
    from nbclient import NotebookClient

    python = fresh_environment(folder / "environment")
    kernel = folder / "jupyter" / "kernels" / "hw4" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "hw4", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    hosts = folder / "hosts"
    for path, content in HOSTS.items():
        (hosts / path).parent.mkdir(parents=True, exist_ok=True)
        (hosts / path).write_text(content)
    port.server = Server(competition)
    home, root = folder / "home", folder / "root"
    home.mkdir()
    environment = os.environ | client_environment(port.number, home)
    for secret in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        environment.pop(secret)  # they are the notebook's to find
    environment |= {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "guard"), str(hosts)]),
        "PIP_NO_INDEX": "1",  # whatever the wheel needs is there, or the test fails
        "KAGGLE_HW4_ROOT": str(root),
        "HW4_TRAIN": "--budget 15m --variant sample --seed 0 --steps 20",
    }
    notebook = nbformat.read(REPOSITORY / "notebooks" / name, as_version=4)
    client = NotebookClient(notebook, kernel_name="hw4", timeout=390, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment | {key: str(value) for key, value in parameters.items()})
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in code for output in cell.outputs), root


def went_the_whole_way(text: str, root: Path) -> None:
    assert "error:" not in text
    (sent,) = (root / "submissions").glob("*.csv")
    assert f"{sent.stem}: public" in text.replace("\n", " ")
    assert "boss line" in text
    assert (report := re.search(r"(\S+/report\.html)", text))
    assert "<html" in Path(report[1]).read_text(encoding="utf-8")[:1000]
    results = [json.loads(path.read_text()) for path in root.glob("runs/sample-s*/fold*/result.json")]
    assert len(results) % 5 == 0
    assert results
    assert all(result["code"].split("+")[0] == result["code"] for result in results)  # the wheel's, not the checkout's


@pytest.mark.slow
def test_the_notebook_for_kaggle_goes_the_whole_way(
    tmp_path: Path, wheel: Path, competition: Path, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = tmp_path / "input" / "datasets" / "somebody" / "my-wheel"
    attached.mkdir(parents=True)
    shutil.copy(wheel, attached)
    mounted = tmp_path / "input" / "ml2023springhw4"
    with zipfile.ZipFile(competition / "ml2023springhw4.zip") as archive:
        archive.extractall(mounted)
    text, root = execute("kaggle.ipynb", tmp_path, competition, port, monkeypatch, HW4_INPUT=tmp_path / "input")
    went_the_whole_way(text, root)
    assert not (root / "data" / "ml2023springhw4.zip").exists()  # nothing was downloaded


@pytest.mark.slow
def test_the_notebook_for_colab_goes_the_whole_way_and_keeps_its_work(
    tmp_path: Path, wheel: Path, competition: Path, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "drive" / "MyDrive" / "kaggle-hw4"
    kept.mkdir(parents=True)
    shutil.copy(wheel, kept)
    text, root = execute("colab.ipynb", tmp_path, competition, port, monkeypatch, HW4_DRIVE=tmp_path / "drive")
    went_the_whole_way(text, root)
    for made in ("folds/folds.json", "submissions/ledger.sqlite"):
        assert (kept / made).read_bytes() == (root / made).read_bytes()
    # Another session, on a machine with nothing but the Drive: the work is there, nothing is trained or sent again.
    again, _ = execute("colab.ipynb", tmp_path / "again", competition, port, monkeypatch, HW4_DRIVE=tmp_path / "drive")
    assert "jobs are done" in again
    assert "was submitted before" in again
