"""Utterance files: reading them directly gives what torch.load gives, whoever wrote them and whatever is damaged."""

import base64
import io
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaggle_hw4.data.features import read_features
from kaggle_hw4.data.store import digest
from kaggle_hw4.errors import DataError

# torch.ones(2, 40) in a file "uttr-old.pt", as torch 1.13.1 wrote it.
OLD = (
    b"c-jl_W@cev;NW1u0D?eRT2fM^o1c@SpORRTs8^7k<L1Q65QPjHn37BKi;^?+;!8_1bBej*i&B$HGjmenOH%WS^NZrkjJOIJG&CaE"
    b"fhHCMRVJpV7BWJ#aJl8=Czb?51i1>CA{c>c3<{Yen1OV1L1`h2cR)!YYoIrSH<PzUTOpgbhBsqdA$w<Xa(+%uYH~?teqJ$`e^E+m"
    b"QEG}yW^xHvA%|vAA!kV;S5P6hUVt|{$4=8HO0$5bfp7p$pYk(kqWV<dz|Bb&)t|Tk14D!TC?+3+V(HGC$CDg@kq^SSV@ZI)2@y+W"
    b"sYS)W=y!9nBQBb70%I<a3ogz}4`l+{!30hxj35f`2IMp(h~X-X9D=SL*>n6TT3?}S*Ec}djO;D}6wMQu7%)O3z?+Rt2P!YetP5Am"
    b"j7IN*(n3%HpgvIcWH<xmGlIof*&uqD!RjGu0d&gP<N"
)


def saved(value: Any, target: Path | None = None, **options: Any) -> bytes:
    """What torch.save writes into a buffer, or to a path, whose name it takes over."""
    buffer = io.BytesIO()
    torch.save(value, target or buffer, **options)
    return target.read_bytes() if target else buffer.getvalue()


def tensor(frames: int) -> torch.Tensor:
    return torch.randn((frames, 40), generator=torch.Generator().manual_seed(frames))


@pytest.fixture
def no_torch_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", fail)


@pytest.mark.usefixtures("no_torch_load")
@pytest.mark.parametrize("frames", [1, 6, 7, 255, 256, 1638, 1639, 65535, 65536])  # around the pickle's integers
@pytest.mark.parametrize("named", [False, True])
def test_a_plain_tensor_is_read_without_torch_load(tmp_path: Path, frames: int, named: bool) -> None:
    content = saved(tensor(frames), tmp_path / f"uttr-{'0a' * 16}.pt" if named else None)
    features = read_features("x", bytearray(content))
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, tensor(frames).numpy())


@pytest.mark.usefixtures("no_torch_load")
def test_a_file_of_2022_is_read_without_torch_load() -> None:
    content = zlib.decompress(base64.b85decode(OLD))
    np.testing.assert_array_equal(read_features("x", bytearray(content)), np.ones((2, 40)))


def without_checksums(value: Any) -> bytes:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return saved(value)
    finally:
        torch.serialization.set_crc32_options(before)


def zipped_again(content: bytes, method: int) -> bytes:
    """The same members in a zip that Python made: in other places, perhaps deflated."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


X = tensor(30)
WRITERS: dict[str, Callable[[], bytes]] = {
    "before 1.6": lambda: saved(X, _use_new_zipfile_serialization=False),
    "pickle protocol 3": lambda: saved(X, pickle_protocol=3),
    "no checksums": lambda: without_checksums(X),
    "columns first": lambda: saved(tensor(40)[:, :30].T),
    "columns first in storage": lambda: saved(X.T.contiguous().T),
    "part of a storage": lambda: saved(tensor(50)[10:40]),
    "start of a storage": lambda: saved(tensor(50)[:30]),
    "every second row": lambda: saved(tensor(60)[::2]),
    "with gradient": lambda: saved(X.clone().requires_grad_()),
    "parameter": lambda: saved(torch.nn.Parameter(X)),
    "stored by another zip": lambda: zipped_again(saved(X), zipfile.ZIP_STORED),
    "deflated by another zip": lambda: zipped_again(saved(X), zipfile.ZIP_DEFLATED),
    "comment": lambda: saved(X)[:-2] + b"\x02\x00hi",
    "no frames": lambda: saved(torch.empty(0, 40)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_other_files_are_read_as_torch_load_reads_them(writer: str) -> None:
    content = WRITERS[writer]()
    features = read_features("x", bytearray(content))
    expected = torch.load(io.BytesIO(content), weights_only=True).detach().numpy()
    np.testing.assert_array_equal(features, expected)
    assert features.flags.c_contiguous


@pytest.mark.parametrize(
    "value",
    [X.double(), X.half(), X.int(), X[0], X[None], tensor(40)[:, :39].clone(), X.to_sparse(), [X], X.reshape(40, 30)],
    ids=lambda value: f"{value.dtype} {value.layout} {tuple(value.shape)}" if hasattr(value, "shape") else "list",
)
def test_other_tensors_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"x (is|holds)"):
        read_features("x", bytearray(saved(value)))


CONTENT = saved(tensor(3))
DATA = CONTENT.index(tensor(3).numpy().tobytes())


@pytest.mark.usefixtures("no_torch_load")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_file_with_a_changed_byte_is_left_to_torch_load_or_holds_the_same_frames(place: int, change: int) -> None:
    content = bytearray(CONTENT)
    content[place] ^= change
    with suppress(DataError):
        assert read_features("x", content).tobytes() == tensor(3).numpy().tobytes()


@given(st.integers(DATA, DATA + 479), st.integers(1, 255))
def test_a_change_in_the_frames_is_refused(place: int, change: int) -> None:
    content = bytearray(CONTENT)
    content[place] ^= change
    with pytest.raises(DataError, match="x is damaged"):
        read_features("x", content)


@given(st.integers(0, len(CONTENT) - 1))
def test_a_file_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(DataError, match="is not a saved tensor"):
        read_features("x", bytearray(CONTENT[:length]))


@given(st.data())
def test_a_digest_is_of_the_bytes(data: st.DataObject) -> None:
    features = tensor(5).numpy()
    same, other = features.copy(), features.copy()
    place, bit = data.draw(st.integers(0, other.nbytes - 1)), data.draw(st.integers(0, 7))
    other.reshape(-1).view(np.uint8)[place] ^= 1 << bit
    assert digest(same) == digest(features) != digest(other)


def test_digests_of_another_number_of_equal_frames_differ() -> None:
    assert digest(np.zeros((3, 40), np.float32)) != digest(np.zeros((4, 40), np.float32))


def test_frames_that_are_only_declared_are_refused_without_making_them() -> None:
    many = torch.zeros(1, 40).expand(10**9, 40)  # 160 GB, of which a row is stored
    with pytest.raises(DataError, match="more than it holds"):
        read_features("x", bytearray(saved(many)))
