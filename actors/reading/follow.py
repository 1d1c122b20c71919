"""The thread that keeps a reader's view fresh. It ends with its reader."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from kvatlas.actors.orders import ClusterView, decode

FetchView = Callable[[int, float], bytes]
"""`since` and `wait_s` -> bytes of a ClusterView: long poll of the directory."""

_PAUSE_S_MIN, _PAUSE_S_MAX = 0.05, 1.0
_log = logging.getLogger(__name__)


class Following(Protocol):
    """What is kept fresh."""

    def wait_s(self) -> float:
        """How long the directory may hold the next question."""
        ...

    def since(self) -> int: ...
    def take(self, view: ClusterView, since: int, asked_s: float) -> None: ...
    def missed(self, error: Exception) -> None:
        """The directory could not be asked."""
        ...

    def tend(self) -> None:
        """Between two questions."""
        ...


def follow(
    reader: Following, fetch_view: FetchView, closing: threading.Event, clock_s: Callable[[], float]
) -> threading.Thread:
    """Start following. The thread holds the reader only while it works on an answer."""
    thread = threading.Thread(
        target=_run,
        args=(weakref.ref(reader), fetch_view, closing, clock_s),
        name="cluster view",
        daemon=True,
    )
    thread.start()
    return thread


def _run(
    reader: weakref.ref[Following],
    fetch_view: FetchView,
    closing: threading.Event,
    clock_s: Callable[[], float],
) -> None:
    pause_s = _PAUSE_S_MIN
    while not closing.is_set():
        begun_s = time.monotonic()
        if _turn(reader, fetch_view, closing, clock_s):
            pause_s = _PAUSE_S_MIN
            if time.monotonic() - begun_s < _PAUSE_S_MIN:  # views come at most so often
                closing.wait(_PAUSE_S_MIN)
        else:
            closing.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)


def _turn(
    reader: weakref.ref[Following],
    fetch_view: FetchView,
    closing: threading.Event,
    clock_s: Callable[[], float],
) -> bool:
    """One question and its answer; false when there was none."""
    own = reader()
    if own is None:
        closing.set()
        return True
    since, wait_s = own.since(), own.wait_s()
    del own
    # From when it was asked: an answer may have waited in a process that was paused.
    asked_s = clock_s()
    error: Exception | None = None
    view: ClusterView | None = None
    try:
        view = decode(fetch_view(since, wait_s), ClusterView)
    except Exception as failure:  # whatever carries the question: it is asked again
        error = failure
    own = reader()
    if own is None or closing.is_set():
        return True
    try:
        if view is not None:
            own.take(view, since, asked_s)
        else:
            assert error is not None
            own.missed(error)
        own.tend()
    except Exception:
        _log.exception("a view could not be taken")
        return False
    return error is None
