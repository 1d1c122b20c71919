"""Processes in which system calls on chunk files fail: fault_shim/fault_shim.c, preloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SHIM = Path(__file__).parent / "fault_shim" / "fault_shim.c"

BEGINNING = """
import json, sys
from pathlib import Path
from tests.offload.native.engine_rig import *
folder = Path(sys.argv[1])
said = {}
def put(**what): said.update(what)
"""
END = """
print(json.dumps(said))
"""


def compile_shim(folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "fault_shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True, timeout=60)
    return library


def run(
    library: Path | None, folder: Path, code: str, *, before: Sequence[str] = (), **faults: str
) -> dict[str, object]:
    """What the code has `put`. `faults`: the shim's FAULT_...; `before`: a command that runs it."""
    # A sanitizer's runtime must stay first.
    preload = [path for path in (os.environ.get("LD_PRELOAD"), str(library) if library else None) if path]
    environment = os.environ | {f"FAULT_{name}": value for name, value in faults.items()}
    if preload:
        environment["LD_PRELOAD"] = ":".join(preload)
    done = subprocess.run(
        [*before, sys.executable, "-c", BEGINNING + code + END, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said
