"""How a command that serves until it is told to stop waits for that."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Ending:
    """SIGTERM or Ctrl-C, while it is entered."""

    def __init__(self) -> None:
        self._came = threading.Event()
        self._before: dict[int, Any] = {}

    def wait(self) -> None:
        self._came.wait()

    def __enter__(self) -> Ending:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._came.set()
