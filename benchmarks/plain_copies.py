"""The peer of bench_copies.py: a loop of memcpy in C, compiled when it is asked for."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SOURCE = """
#include <stddef.h>
#include <string.h>
void copy_all(char** to, char** from, size_t bytes, size_t n) {
  for (size_t i = 0; i < n; ++i) memcpy(to[i], from[i], bytes);
}
"""

Addresses = NDArray[np.uint64]


def load_plain_loop() -> Callable[..., None] | None:
    """`copy_all(to, from, bytes, n)`, without the GIL; None, and a line, without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        print("no C compiler: measured without memcpy beside")
        return None
    folder = Path(tempfile.mkdtemp(prefix="bench-copies-"))
    try:
        (folder / "loop.c").write_text(_SOURCE)
        command = [compiler, "-O2", "-shared", "-fPIC", str(folder / "loop.c"), "-o", str(folder / "loop.so")]
        subprocess.run(command, check=True)
        loop: Any = ctypes.CDLL(str(folder / "loop.so")).copy_all
    finally:
        shutil.rmtree(folder)
    loop.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    loop.restype = None
    return loop  # type: ignore[no-any-return]


class PlainCopies:
    """Copies of `n_bytes` each, from address to address, shared out over threads that wait for their turn."""

    def __init__(
        self, loop: Callable[..., None], to: Addresses, from_: Addresses, n_bytes: int, n_threads: int
    ) -> None:
        self._loop, self._n_bytes = loop, n_bytes
        self._parts = list(zip(np.array_split(to, n_threads), np.array_split(from_, n_threads), strict=True))
        self._begin, self._end = threading.Barrier(n_threads), threading.Barrier(n_threads)
        for part in self._parts[1:]:
            threading.Thread(target=self._serve, args=part, daemon=True).start()

    def run(self, _: object) -> None:
        self._begin.wait()
        self._copy(*self._parts[0])
        self._end.wait()

    def _serve(self, to: Addresses, from_: Addresses) -> None:
        while True:
            self._begin.wait()
            self._copy(to, from_)
            self._end.wait()

    def _copy(self, to: Addresses, from_: Addresses) -> None:
        self._loop(to.ctypes.data, from_.ctypes.data, self._n_bytes, len(to))
