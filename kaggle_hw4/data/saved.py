"""What torch.save wrote, from anyone: given to torch.load once it can only be a few tensors, numbers and names."""

import io
import pickletools
import re
import zipfile
from typing import Any, BinaryIO

import torch

from kaggle_hw4.data.archive import read_member

# torch.load(weights_only=True) runs no code of the file's, but a few bytes make it take any amount of memory
# (`bytearray` of 10^12) or time (the hash of a tuple of tuples that are one and the same, 60 levels deep).
_NAMES = re.compile(r"torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict|torch [A-Z]\w+Storage")
_ATOMS = ("GLOBAL", "BINUNICODE", "SHORT_BINUNICODE")
_MOST_PICKLED = 1 << 20  # bytes; 200 of an utterance, some 20,000 of a checkpoint, 392,000 of a ResNet's of 192 blocks


def load_saved(content: bytes | bytearray | memoryview, most: int) -> Any:
    """The value of a file that torch.save wrote, on the CPU.

    Raises:
        ValueError: the file holds what no tensor needs, or more than `most` bytes when it is unpacked.
        Exception: whatever zipfile and torch.load raise on damage.
    """
    file = io.BytesIO(content)
    if content[:2] == b"PK":
        file = _rewritten(file, most)
    else:  # as before torch 1.6: five pickles, then the numbers
        for _ in range(5):
            _check_pickle(file)
        file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _rewritten(file: BinaryIO, most: int) -> io.BytesIO:
    """The members that torch.load reads, in a zip of ours: it could see others in the file than zipfile does."""
    rewritten = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(rewritten, "w") as again:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if sum(member.file_size for member in members.values()) > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes")
        for name, member in members.items():
            if name in ("data.pkl", "version", "byteorder") or name.startswith("data/"):
                if not member.CRC:
                    del member.CRC  # torch.save was told to leave checksums out
                content = read_member(archive, member)
                if name == "data.pkl":
                    _check_pickle(io.BytesIO(content))
                again.writestr(f"archive/{name}", content)
    rewritten.seek(0)
    return rewritten


def _check_pickle(file: BinaryIO) -> None:
    """Pass over a pickle. Raises ValueError unless it only names what tensors are made of, and nothing twice.

    Names and strings may be used again, so that what it makes is no larger than the pickle.
    """
    start, before = file.tell(), ""
    atoms: set[Any] = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and not _NAMES.fullmatch(str(argument)):
            raise ValueError(f"it asks for {argument}, which no tensor needs"[:200])
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            (atoms.add if before in _ATOMS else atoms.discard)(argument)
        elif opcode.name in ("BINGET", "LONG_BINGET") and argument not in atoms:
            raise ValueError("it uses a part twice")
        if file.tell() - start > _MOST_PICKLED:
            raise ValueError(f"it has more than {_MOST_PICKLED:,} bytes of structure")
        before = opcode.name
