"""What the code may not do, seen in the code; what the rehearsal server gives out; what is installed."""

import ast
import re
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run
from kaggle_support import AUTH, SLUG, Plain, Port, Server

from kaggle_hw4.rehearsal.api import UPLOAD_LIMIT
from kaggle_hw4.rehearsal.server import listen

ROOT = Path(__file__).parents[1]

# --- the code ----------------------------------------------------------------------------------

# `module.function`, or a method of anything. Each runs what is in a file, or writes under names from one.
FORBIDDEN = re.compile(
    r"(eval|exec|compile|__import__)"
    r"|.*\b(pickle|_pickle|cPickle|dill|cloudpickle|joblib|marshal|shelve)\.\w+"
    r"|.*\.(extract|extractall|unpack_archive|read_pickle|to_pickle|set_safe_globals|add_safe_globals)"
    r"|(torch\.)?jit\.load|(torch\.)?hub\.\w+|yaml\.(load|load_all|unsafe_load|full_load)|os\.(system|popen)"
)


def name_of(node: ast.expr) -> str:
    """`a.b.c` of an expression, `.c` where what comes before is no name."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.split(".")[0] in ("pickle", "_pickle", "dill", "joblib", "marshal", "shelve"):
                    yield f"import {module}"
        if not isinstance(node, ast.Call):
            continue
        name, options = name_of(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
        if FORBIDDEN.fullmatch(name):
            yield name
        if name.endswith("torch.load") and options.get("weights_only") != "True":
            yield f"{name} without weights_only=True"
        if re.fullmatch(r"(np|numpy)\.load", name) and options.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        if options.get("shell", "False") != "False":
            yield f"{name} with a shell"


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(f)",
        "import pickle",
        "from pickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=x)",
        "yaml.load(f)",
        "eval(x)",
        "exec(x)",
        "archive.extractall(path)",
        "archive.extract(member)",
        "tarfile.open(f).extractall()",
        "shutil.unpack_archive(f)",
        "pd.read_pickle(f)",
        "subprocess.run(x, shell=True)",
        "torch.jit.load(f)",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert list(offences(source))


def test_nothing_is_unpickled_run_or_extracted_by_name() -> None:
    files = sorted((ROOT / "kaggle_hw4").rglob("*.py"))
    found = {str(path.relative_to(ROOT)): list(offences(path.read_text(encoding="utf-8"))) for path in files}
    assert len(found) > 80
    assert {path: what for path, what in found.items() if what} == {}


# --- the rehearsal server ----------------------------------------------------------------------


def test_the_server_listens_on_this_machine_only() -> None:
    with listen(0) as listener:
        host, number = listener.getsockname()
        assert host == "127.0.0.1"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.split(":")[1], 16) == number:  # listening
                assert address.split(":")[0] == "0100007F"
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for other in others - {"127.0.0.1"}:
            with pytest.raises(OSError), socket.create_connection((other, number), timeout=2):  # noqa: PT011
                pass


@pytest.mark.parametrize("option", ["--host", "--address", "--bind", "--listen"])
def test_no_option_makes_it_listen_elsewhere(competition_folder: Path, option: str) -> None:
    result = run("rehearsal", "serve", str(competition_folder), option, "0.0.0.0")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


PATHS = [
    "/labels.csv",
    "/server.json",
    "/blobs/labels.csv",
    "/blobs/server.json",
    "/blobs/../labels.csv",
    "/blobs/%2e%2e/labels.csv",
    "/blobs/files/../labels.csv",
    "/blobs/files/../../labels.csv",
    "/blobs/files/%2e%2e%2flabels.csv",
    "/blobs/files/..%2f..%2flabels.csv",
    "/blobs/files/..%5clabels.csv",
    "/blobs/files//etc/passwd",
    "/blobs/files/%2fetc%2fpasswd",
    "/blobs/files//proc/self/environ",
    f"/blobs/{SLUG}.zip/../labels.csv",
    f"/blobs/{SLUG}.zip%00.csv",
    "/blobs/files/",
    "/blobs/",
    "/uploads/x/labels.csv",
    "//labels.csv",
    "/./labels.csv",
    "/%2e/labels.csv",
    "/static/../labels.csv",
]


def raw(port: int, request: bytes) -> bytes:
    """What the server answers to these very bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prefix", ["", "http://localhost"])
def test_no_path_leads_to_another_file(kaggle: Server, port: Port, path: str, prefix: str) -> None:
    secret = kaggle.rehearsal.archive.parent / "labels.csv"
    kaggle.rehearsal.archive.parent.joinpath("server.json").write_text("[]")
    answer = raw(port.number, f"GET {prefix}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.1 (404|405|400) ", answer), answer[:200]
    assert secret.read_bytes()[:40] not in answer
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "localhost:80@evil.example",
        "127.0.0.2",
        "localhost:999999",
        "",
        "[::1]",
    ],
)
def test_who_asks_for_another_machine_is_refused(port: Port, kaggle: Server, host: str) -> None:
    """A page in a browser may let its own name point to this machine."""
    path = "/api/v1/competitions.CompetitionApiService/DownloadDataFiles"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {AUTH['Authorization']}\r\n"
    answer = raw(port.number, f"{head}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert b"evil" not in answer


@pytest.mark.parametrize("target", [b"http://[", b"http://\xff/", b"*", b"ftp://x", b"x", b"http://localhost\\..\\x"])
def test_an_address_that_is_none_is_refused(port: Port, kaggle: Server, target: bytes) -> None:
    answer = raw(port.number, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]


def test_an_endless_upload_is_refused_and_not_kept(plain: Plain, kaggle: Server, port: Port) -> None:
    tracemalloc.start()
    with socket.create_connection(("127.0.0.1", port.number), timeout=20) as connection:
        connection.sendall(b"PUT /uploads/t/a.csv HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5 * UPLOAD_LIMIT >> 20):
            connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * UPLOAD_LIMIT
    assert kaggle.rehearsal.uploads == {}
    assert plain.request("PUT", "/uploads/t/a.csv", bytes(UPLOAD_LIMIT), {})[0] == 201  # so much is taken


def test_a_message_of_megabytes_is_refused(port: Port, kaggle: Server) -> None:
    path = "/api/v1/competitions.CompetitionApiService/ListSubmissions"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic x\r\nContent-Length: {2 << 20}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port.number), timeout=20) as connection:
        connection.sendall(head.encode() + b" " * (1 << 20) + b"  ")  # and waits with the rest
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_uploads_that_are_never_submitted_give_way(plain: Plain, kaggle: Server) -> None:
    for number in range(20):
        assert plain.request("PUT", f"/uploads/t{number}/a.csv", b"x", {})[0] == 201
    assert list(kaggle.rehearsal.uploads) == [f"t{number}" for number in range(4, 20)]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ListSubmissions", '{"pageSize": 1e999}'),
        ("ListSubmissions", '{"pageToken": []}'),
        ("ListSubmissions", '{"page": -5}'),
        ("ListSubmissions", "[" * 100_000),
        ("ListSubmissions", '{"page": 1, "page": 2}'),
        ("ListSubmissions", "\xff"),
        ("StartSubmissionUpload", '{"contentLength": 1e999}'),
        ("StartSubmissionUpload", '{"contentLength": "x"}'),
        ("StartSubmissionUpload", '{"fileName": "\\ud800"}'),
        ("StartSubmissionUpload", '{"fileName": ["a"]}'),
        ("CreateSubmission", '{"blobFileTokens": {}, "submissionDescription": "\\ud800"}'),
        ("DownloadDataFile", '{"fileName": ["a"]}'),
        ("GetSubmission", '{"ref": {}}'),
        ("GetSubmission", '{"competitionName": [[]]}'),
    ],
)
def test_a_message_that_makes_no_sense_is_answered(plain: Plain, method: str, message: str) -> None:
    path = f"/api/v1/competitions.CompetitionApiService/{method}"
    status, _, content = plain.request("POST", path, message.encode("latin-1"))
    assert status in (200, 400, 404), content


# --- what is installed -------------------------------------------------------------------------

CONSTRAINTS = ("constraints.txt", "constraints-client.txt")


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_pin_has_hashes_and_no_address_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    pins = re.split(r"\n(?=\S)", text.strip())
    for pin in pins:
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.+!]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", pin), (
            pin
        )
    assert not re.search(r"://|file:|--(extra-)?index|--find-links|--trusted-host", text)


def test_the_makefile_installs_nothing_without_a_hash() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    installs = re.findall(r"(?:\$\(PIP\)|pip install)[^&|\n]*", re.sub(r"^PIP = .*$", "", text, flags=re.M))
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or command.strip() == "$(PIP) --no-deps --no-build-isolation -e .", command
    assert not re.search(r"://", text)


def test_what_is_declared_is_pinned() -> None:
    """`make constraints` was run after pyproject.toml was changed."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = re.findall(r"^([\w.-]+)==([\w.+!]+)", (ROOT / "constraints.txt").read_text(), flags=re.M)
    pinned = {canonicalize_name(name): version for name, version in lines}
    extras = project["project"]["optional-dependencies"]
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"], *extras["dev"]]
    for requirement in map(Requirement, needed):
        if requirement.name == "kaggle-hw4":
            needed += [line for extra in requirement.extras for line in extras[extra]]
    for requirement in map(Requirement, needed):
        if requirement.name != "kaggle-hw4":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)], prereleases=True), (
                requirement
            )


def test_a_changed_file_is_not_installed(tmp_path: Path) -> None:
    """pip itself refuses: seen with a wheel made here, without any network."""
    import zipfile

    wheel = tmp_path / "harmless-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("harmless-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: harmless\nVersion: 1.0\n")
        archive.writestr("harmless-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("harmless-1.0.dist-info/RECORD", "")
    (tmp_path / "pins.txt").write_text(f"harmless==1.0 --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "--target"]
    command += [str(tmp_path / "there"), "--require-hashes", "-r", str(tmp_path / "pins.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there" / "harmless-1.0.dist-info").exists()
