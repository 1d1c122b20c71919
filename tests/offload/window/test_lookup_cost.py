"""A lookup of a chunk that lies in the window makes no system call: the kernel would end the process for
one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_LOOK_UP = """
import ctypes, gc, os, sys
from pathlib import Path
from tests.offload.window.engine_rig import HIT, key_of, start

rig = start(Path(sys.argv[1]), n_rows=64)
for first in range(0, 64, 16):
    rig.store_and_write(*range(first, first + 16))
keys = [key_of(number) for number in range(64)]

def look(times):
    hits = 0
    for step in range(times):
        request = "a" if step % 2 else "b"
        hits += sum(rig.window.lookup(key, request) == HIT for key in keys)
    return hits

look(200)  # whatever grows has grown
gc.disable()
prctl = ctypes.CDLL(None, use_errno=True).prctl
child = os.fork()  # which has no other threads: the filter ends a thread
if child == 0:
    if prctl(22, 1, 0, 0, 0):  # PR_SET_SECCOMP, strict: read, write and exit, or SIGKILL
        os.write(1, b"no seccomp")
        os._exit(0)
    os.write(1, b"64000 hits" if look(1000) == 64000 else b"misses")
    os.getppid()  # this, it does not survive
    os.write(1, b", and a system call")
print("", os.waitpid(child, 0)[1], flush=True)
rig.close()
"""


@pytest.mark.slow
def test_lookups_make_no_system_call(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LOOK_UP, str(tmp_path / "store")]
    root = Path(__file__).parents[3]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root, check=False)
    if ended.stdout.startswith("no seccomp"):
        pytest.skip("this kernel has no strict seccomp")
    assert ended.stdout == "64000 hits 9\n", ended.stderr  # and then the filter's signal
