"""Fifty rounds of kill -9 on the writers of one store; `kvatlas offload verify` judges what is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.offload.faults.killing import run_rounds

_KVATLAS = Path(sys.executable).with_name("kvatlas")


def verified(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(_KVATLAS), "offload", "verify", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_fifty_rounds_of_kills_leave_a_store_that_verifies(tmp_path: Path) -> None:
    root = tmp_path / "store"
    n_files, n_torn = run_rounds(root, 50)
    assert n_torn > 0, "no kill has struck while a file was written"
    judged = verified(root)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert f"{n_files} files" in judged.stderr and " 0 bad" in judged.stderr

    harmed = next(path for path in root.rglob("*.kv") if not path.name.startswith("."))
    content = bytearray(harmed.read_bytes())
    content[5000] ^= 1
    harmed.write_bytes(content)
    judged = verified(root)
    assert judged.returncode != 0 and harmed.name in judged.stdout + judged.stderr, "it can say no"
