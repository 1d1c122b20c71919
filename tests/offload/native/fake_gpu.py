"""A CUDA GPU without one: compiles fake_driver/, loads it beside the Copier, and tells it what to do."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

_HERE = Path(__file__).parent
_SOURCES = _HERE / "fake_driver"
_ROOT = _HERE.parents[2]
_NATIVE = _ROOT / "offload" / "native"
_KEPT = _ROOT / "build" / "fake_driver"

_owned: list[NDArray[np.uint8]] = []
"""What a GPU that was given up may still write to: the library's threads live as long as the process."""


def compile_library(source: str, target: Path) -> Path:
    """One of fake_driver's libraries, by the system's compiler or as it made it before. Skips without."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    options = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    command = [compiler, *options, f"-I{_NATIVE}", str(_SOURCES / source), "-o", str(target)]
    kept = _KEPT / f"{_made_of(command[:-1])}.so"
    if kept.exists():
        shutil.copy(kept, target)
        return target
    subprocess.run(command, check=True)
    _KEPT.mkdir(parents=True, exist_ok=True)
    whole = shutil.copy(target, kept.with_suffix(f".{os.getpid()}"))
    Path(whole).replace(kept)  # another process of tests may look for it
    return target


def _made_of(command: list[str]) -> str:
    """Tells apart whatever compiles to something else: compiling takes longer than all tests of it."""
    files = [*_SOURCES.iterdir(), *_NATIVE.glob("*.hpp")]
    parts = [*(part.encode() for part in command), *(file.read_bytes() for file in sorted(files))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


class FakeGpu:
    """One library, and with it one GPU, of a driver version. A GPU that was lost stays so until reset()."""

    def __init__(self, library: Path) -> None:
        self.path = str(library)
        self._library: Any = ctypes.CDLL(self.path)
        self._library.fake_count.restype = ctypes.c_long
        self._library.fake_alive.restype = ctypes.c_long
        self._library.fake_stream.restype = ctypes.c_void_p

    def reset(self) -> None:
        self._library.fake_reset()

    def set(self, name: str, value: int) -> None:
        self._library.fake_set(name.encode(), ctypes.c_long(value))

    def fail(self, call: str, *, after: int = 0, result: int = 2) -> None:
        """The call after the next `after` ones ends with `result`."""
        self._library.fake_fail(call.encode(), after, result)

    def count(self, name: str) -> int:
        return int(self._library.fake_count(name.encode()))

    def alive(self) -> dict[str, int]:
        """What was made and not given back."""
        names = ("streams", "events", "registered", "owned", "contexts")
        return {name: int(self._library.fake_alive(name.encode())) for name in names}

    def has_no_context(self) -> bool:
        """Of the calling thread."""
        made = ctypes.c_void_p()
        return int(self._library.cuEventCreate(ctypes.byref(made), 0)) == 201

    def own(self, memory: NDArray[np.uint8]) -> None:
        """Makes an array a part of the GPU's memory."""
        base = memory.base if isinstance(memory.base, np.ndarray) else memory
        _owned.append(base)
        self._library.fake_device_memory(ctypes.c_void_p(base.ctypes.data), ctypes.c_size_t(base.nbytes))

    def stream(self) -> int:
        """A stream of somebody else's."""
        return int(self._library.fake_stream())

    def write(self, stream: int, memory: NDArray[np.uint8], value: int, *, after_us: int) -> None:
        """Puts a write of the whole array into a stream (0: the default one)."""
        self._library.fake_write(
            ctypes.c_void_p(stream or None),
            ctypes.c_void_p(memory.ctypes.data),
            value,
            ctypes.c_size_t(memory.nbytes),
            ctypes.c_long(after_us),
        )
