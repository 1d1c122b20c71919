"""A part of the service that goes on: its step again and again, after a failure later and later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from kvatlas.index.errors import quoted

_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class PartState(msgspec.Struct, frozen=True, kw_only=True):
    """How a part is."""

    name: str
    is_healthy: bool
    why: str
    """Not."""
    steps: int
    failures: int
    failures_in_a_row: int


class SupervisedPart:
    """Runs one part in a thread of its own, from `start` to `stop`. Any thread."""

    def __init__(
        self,
        name: str,
        step: Callable[[], float],
        *,
        progress_s: Callable[[], float],
        hung_s: float,
        retry_s_max: float,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """`step` returns how many seconds the next one may wait; `progress_s` says when it last got on;
        `end` is called when it is stopped, in its thread."""
        self._name = name
        self._step = step
        self._progress_s = progress_s
        self._hung_s = hung_s
        self._retry_s_max = retry_s_max
        self._end = end
        self._stopping = threading.Event()
        self._steps = self._failures = self._in_a_row = 0
        self._is_working = False
        self._why = ""
        self._thread = threading.Thread(target=self._run, name=f"kvatlas-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Whether it has ended; a hanging file system may keep it."""
        self._stopping.set()
        if self._thread.ident is None:  # never started
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def state(self) -> PartState:
        why = self._why
        silent_s = time.monotonic() - self._progress_s()
        if self._is_working and silent_s > self._hung_s:
            why = f"hangs since {silent_s:.0f} s"
        elif not self._thread.is_alive() and not self._stopping.is_set():
            why = why or "its thread has ended"
        return PartState(
            name=self._name,
            is_healthy=not why,
            why=why,
            steps=self._steps,
            failures=self._failures,
            failures_in_a_row=self._in_a_row,
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._safe_step())
        try:
            self._end()
        except Exception as error:  # a lease that stays is taken over when it is old
            _log.warning("not ended well", extra={"part": self._name, "error": quoted(error)})

    def _safe_step(self) -> float:
        """How long to pause then."""
        try:
            self._is_working = True
            pause_s: float = self._step()
        except Exception as error:  # whatever it was, the other stores go on, and so does this one in a while
            self._failures += 1
            self._in_a_row += 1
            self._why = f"{type(error).__name__}: {quoted(error)}"
            pause_s = min(_RETRY_S * 2.0 ** min(self._in_a_row - 1, 20), self._retry_s_max)
            said = {"part": self._name, "error": self._why, "retry_s": pause_s}
            _log.error("failed", extra=said, exc_info=not isinstance(error, OSError))
            return pause_s
        finally:
            self._is_working = False
        if self._in_a_row:
            _log.info("works again", extra={"part": self._name, "failures": self._in_a_row})
        self._steps += 1
        self._in_a_row, self._why = 0, ""
        return pause_s
