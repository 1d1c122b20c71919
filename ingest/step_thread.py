"""A thread that does what is due, step by step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class StepThread:
    """Calls `step` when `changed` is set, and after as many seconds as it returned last.

    `step` clears `changed` before it looks. What it raises ends the thread and is kept as `failure`: in a
    thread it would only be printed. Any thread may call any method.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float],
        changed: threading.Event,
        *,
        gather_s: float = 0.0,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        """`gather_s`: after a step it waits so long at least, so that changes go together. `failed`: called
        by the thread when it ends by an error."""
        self.failure: BaseException | None = None
        """What ended it; None: nothing has."""
        self._step = step
        self._changed = changed
        self._gather_s = gather_s
        self._failed = failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no further step; returns when the one that is under way is done. Twice is fine."""
        self._stopping.set()
        self._changed.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopping.is_set()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                pause_s = self._step()
                if self._stopping.wait(self._gather_s):  # the step may have cleared what `stop` has set
                    return
                self._changed.wait(max(0.0, pause_s - self._gather_s))
        except BaseException as error:
            _log.exception("%s has ended", self._thread.name)
            self.failure = error
            self._failed()
