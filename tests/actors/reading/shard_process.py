"""A table in shared memory whose writer is a process of its own, to be paused and killed.

Run as a program: makes the table at the path given, fills it with what comes on its standard input
(hexadecimal delta records), says `ready`, and beats until it is ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from kvatlas.index._native import Table

_BEAT_S = 0.05


class TableProcess:
    """The process, and its end."""

    def __init__(self, path: Path, delta: bytes) -> None:
        self.path = str(path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.actors.reading.shard_process", self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(delta.hex() + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ready\n"

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As the kernel kills: nothing is said or tidied."""
        self._process.kill()
        self._over()

    def end(self) -> None:
        """In good order: the table is closed."""
        self._over()

    def _over(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    table = Table(budget_bytes=4 << 20, path=sys.argv[1])
    table.apply(bytes.fromhex(sys.stdin.readline()))
    table.set_whole(True)
    table.heartbeat()
    print("ready", flush=True)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_S):
            table.heartbeat()

    beating = threading.Thread(target=beat)
    beating.start()
    sys.stdin.read()  # to its end
    over.set()
    beating.join()
    table.close()


if __name__ == "__main__":
    main()
