"""What hostile requests take in memory, measured in a process of their own that may not have more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tokenize.bad_input.victims import write_victims

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MIB = 1 << 20
PROGRAM = """
import resource, sys
from kvatlas.index.errors import KvatlasError
from tests.tokenize.bad_input.hostile_chats import CHATS
from tests.tokenize.bad_input.victims import victims, check_served
from pathlib import Path

tokenizers = victims(Path(sys.argv[1]), memo_bytes_max=16 << 20)
check_served(tokenizers)
N = 8 << 20
TEXTS = {
    "pieces": lambda: "".join(f"{n}<|a|>" for n in range(N // 12)),
    "lines": lambda: "".join(f"{n} x\\n" for n in range(N // 10)),
    "tokens": lambda: "<|a|>" * (N // 5),
    "words": lambda: "1 " * (N // 2),
    "one word": lambda: "x" * N,
    "ends of lines": lambda: "\\n" * N,
}

def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

def attack(name: str) -> None:
    if name == "chats":
        for chat, _, _ in CHATS.values():
            try:
                tokenizers.encode_chat("curious", chat)
            except KvatlasError:
                pass
        return
    tokenizers.encode("good", TEXTS[name]())

before = peak()
for _ in range(2):
    attack(sys.argv[2])
check_served(tokenizers)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("name", "bytes_max"),
    [
        ("chats", 200 * MIB),
        ("pieces", 900 * MIB),
        ("lines", 400 * MIB),
        ("tokens", 200 * MIB),
        ("words", 300 * 8 * MIB),
        ("one word", 300 * 8 * MIB),
        ("ends of lines", 300 * 8 * MIB),
    ],
)
def test_memory_of_a_hostile_request_is_bounded(tmp_path: Path, name: str, bytes_max: int) -> None:
    write_victims(tmp_path / "models")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "models"), name],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < bytes_max
