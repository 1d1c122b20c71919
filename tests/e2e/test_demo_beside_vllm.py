"""`kvatlas demo --pod` beside a real model server: its blocks appear and go, and a prompt is scored."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from tests.e2e.conversations import fresh_prompt
from tests.e2e.observed_server import ObservedServer
from tests.e2e.vllm_server import MODEL_NAME

pytestmark = pytest.mark.timeout(420)  # the first test waits for the server to start

_LINE_SECONDS_MAX = 30.0
PROMPT = fresh_prompt(40, 100)
"""Three full blocks and a bit."""


def _heed_ctrl_c() -> None:
    """A shell's background job, which a CI run may be, ignores it, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Demo:
    """The command as a process that follows one server; it prints a line every two seconds."""

    def __init__(self, endpoint: str, prompt: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("kvatlas")), "demo", "--json"),
                *("--pod", endpoint, "--model", MODEL_NAME),
                *("--score-prompt-ids", ",".join(map(str, prompt))),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_ctrl_c,
        )
        assert self._process.stderr is not None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,))
        self._reader.start()

    def await_line(self, *parts: str) -> None:
        """Returns when a line has all of `parts`."""
        seen: list[str] = []
        deadline = time.monotonic() + _LINE_SECONDS_MAX
        while not (seen and all(part in seen[-1] for part in parts)):
            try:
                seen.append(self._lines.get(timeout=max(deadline - time.monotonic(), 0)))
            except queue.Empty:
                pytest.fail(f"no line with {parts} among {seen}")

    def interrupt(self) -> str:
        """Ctrl-C; returns what it printed as its result."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(_LINE_SECONDS_MAX) == 0
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip())


@pytest.fixture
def demo(observed: ObservedServer) -> Iterator[Demo]:
    demo = Demo(observed.server.events_endpoint, PROMPT)
    yield demo
    demo.close()


def test_blocks_appear_are_scored_and_go(observed: ObservedServer, demo: Demo) -> None:
    demo.await_line("1 connected")
    observed.complete(PROMPT)
    demo.await_line("pod0: gpu 3", "scores pod0 3")
    observed.reset()
    demo.await_line("pod0: gpu 0")
    observed.complete(PROMPT)
    observed.complete(fresh_prompt(41, 64))
    demo.await_line("pod0: gpu 5", "scores pod0 3")
    result = json.loads(demo.interrupt())
    assert result["pods"] == {"pod0": {"blocks": {"gpu": observed.held_blocks("gpu")}}}
    assert result["scores"] == {"pod0": observed.matched_blocks(PROMPT)}
