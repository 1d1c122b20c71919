"""A shard's process whose directory is whoever started it: a line out is a question, a line in its answer.

Out: `<enlist|report> <hex of what is told>`, and at last `goes` or `breaks`. In: hex of ShardOrders,
or an empty line for no answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import msgspec

from kvatlas.actors.orders import ShardAsks, ShardOrders, ShardReport, decode, encode
from kvatlas.actors.shard.process import ShardProcess
from kvatlas.actors.shard.settings import ShardSettings
from tests.actors.shard.shard_rig import ASKS


class _AskedParent:
    """The directory: questions go to the parent. Used by one thread."""

    is_parent_gone = False

    def enlist(self, asks: ShardAsks) -> ShardOrders | None:
        return self._ask("enlist", asks)

    def report(self, report: ShardReport) -> ShardOrders | None:
        return self._ask("report", report)

    def is_gone(self) -> bool:
        return self.is_parent_gone

    def _ask(self, question: str, told: msgspec.Struct) -> ShardOrders | None:
        if not self.is_parent_gone:
            print(question, encode(told).hex(), flush=True)
            line = sys.stdin.readline()
            self.is_parent_gone = not line
            if line.strip():
                return decode(bytes.fromhex(line), ShardOrders)
        return None


def _end(word: str) -> None:
    print(word, flush=True)
    os._exit(0)


class ShardProgram:
    """The parent's end: the process, and its questions one after the other."""

    def __init__(self, settings: ShardSettings) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.actors.shard.shard_program", encode(settings).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def question(self) -> tuple[str, bytes]:
        """The next one, or how it ends."""
        assert self.process.stdout is not None
        word, _, told = self.process.stdout.readline().decode().strip().partition(" ")
        return word, bytes.fromhex(told)

    def answer(self, orders: ShardOrders | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((b"" if orders is None else encode(orders).hex().encode()) + b"\n")
        self.process.stdin.flush()

    def report(self) -> ShardReport:
        word, told = self.question()
        assert word == "report"
        return decode(told, ShardReport)

    def leave(self) -> None:
        """The directory is gone."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


if __name__ == "__main__":
    ShardProcess(
        "c",
        ASKS,
        decode(bytes.fromhex(sys.argv[1]), ShardSettings),
        _AskedParent(),
        host="127.0.0.1",
        goes=lambda: _end("goes"),
        breaks=lambda: _end("breaks"),
    )
    threading.Event().wait()
