"""What nvcc makes of gather.cu, and the C++ that carries it. As a program: writes gather_ptx.cpp anew."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[3] / "offload" / "native"
SOURCE = NATIVE / "gather.cu"
CARRIER = NATIVE / "gather_ptx.cpp"
PTX_VERSION = "6.4"
"""The oldest that has all the kernel uses: a driver refuses PTX that is newer than itself, needed or not."""

_CARRIER = """// What nvcc {release} makes of gather.cu, but for its comments and the version of PTX: nothing
// in it is newer than {version}, so that every driver from CUDA 10.1 on takes it.
// Written by tests/offload/native/kernel_source.py; gather.cu then was
// {digest}.
#include "offload/native/cuda_gather.hpp"

namespace kvatlas::cuda {{

const char kGatherPtx[] = R"ptx({ptx})ptx";

}}  // namespace kvatlas::cuda
"""


def source_digest() -> str:
    """sha256 of gather.cu."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def release_of(nvcc: str) -> str:
    """nvcc's release, such as "13.0"."""
    said = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    assert found is not None, f"nvcc --version: expected a release, got {said!r}"
    return found[1]


def without_preload() -> dict[str, str]:
    """The environment for a compiler, which stands no sanitizer in it."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def compiled(nvcc: str) -> str:
    """gather.cu as PTX, in the form in which it is carried."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "gather.ptx"
        command = [nvcc, "-ptx", "-arch=compute_75", "-O3", str(SOURCE), "-o", str(target)]
        subprocess.run(command, check=True, env=without_preload())
        lines = [line for line in target.read_text().splitlines() if not line.startswith("//")]
    text = "\n".join(lines).strip() + "\n"
    return re.sub(r"^\.version .*$", f".version {PTX_VERSION}", text, count=1, flags=re.MULTILINE)


def carried() -> str:
    """The PTX inside gather_ptx.cpp."""
    return CARRIER.read_text().partition('R"ptx(')[2].partition(')ptx"')[0]


if __name__ == "__main__":
    CARRIER.write_text(
        _CARRIER.format(
            release=release_of("nvcc"), version=PTX_VERSION, digest=source_digest(), ptx=compiled("nvcc")
        )
    )
