"""What hostile requests take in memory, measured in a process of their own that may not have more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.profiles import PROFILE
from tests.tokenize.bad_input.victims import write_victims

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TEXT_BYTES = (8 if PROFILE == "thorough" else 2) << 20
"""Of a hostile text: what it takes grows with it, and no faster."""
FIXED_BYTES = 32 << 20
"""The memo's 16 MiB, and what an allocator keeps."""
PROGRAM = """
import sys
from kvatlas.index.errors import KvatlasError
from tests.tokenize.bad_input.hostile_chats import CHATS
from tests.tokenize.bad_input.victims import victims, check_served
from pathlib import Path

tokenizers = victims(Path(sys.argv[1]), memo_bytes_max=16 << 20)
check_served(tokenizers)
N = int(sys.argv[3])
TEXTS = {
    "pieces": lambda: "".join(f"{n}<|a|>" for n in range(N // 12)),
    "lines": lambda: "".join(f"{n} x\\n" for n in range(N // 10)),
    "tokens": lambda: "<|a|>" * (N // 5),
    "words": lambda: "1 " * (N // 2),
    "one word": lambda: "x" * N,
    "ends of lines": lambda: "\\n" * N,
}

def peak() -> int:
    # Not `ru_maxrss`: that begins with the peak of the process which started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10

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
    ("name", "most"),
    [
        ("chats", 168 << 20),
        ("pieces", 108 * TEXT_BYTES),
        ("lines", 46 * TEXT_BYTES),
        ("tokens", 21 * TEXT_BYTES),
        ("words", 296 * TEXT_BYTES),
        ("one word", 296 * TEXT_BYTES),
        ("ends of lines", 296 * TEXT_BYTES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_memory_of_a_hostile_request_is_bounded(tmp_path: Path, name: str, most: int) -> None:
    write_victims(tmp_path / "models")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "models"), name, str(TEXT_BYTES)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < most + FIXED_BYTES
