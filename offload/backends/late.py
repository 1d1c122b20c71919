"""A backend that is opened by a thread of its own: a store that hangs or is down at start holds nobody up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from kvatlas.index.errors import KvatlasError, quoted
from kvatlas.offload.backends.backend import Backend, Finished, Rows

_log = logging.getLogger(__name__)


class LateBackend(Backend):
    """Refuses all jobs until `opener` has succeeded, then is what it has opened.

    Failures of the system (OSError, also as a cause) are tried again, after `retry_s_min`, then twice as
    long, up to `retry_s_max`. Another error of ours is final: the store is not what was configured, or no
    store can be.
    """

    def __init__(
        self, opener: Callable[[], Backend], store: str, retry_s_min: float, retry_s_max: float
    ) -> None:
        self._opener, self._store = opener, store
        self._retry_s_min, self._retry_s_max = retry_s_min, retry_s_max
        self._lock = threading.Lock()
        self._tried, self._over, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._opened: Backend | None = None
        self.error: Exception | None = None
        """Of the last try."""
        self.is_refused = False
        """The error is final."""
        self._thread = threading.Thread(target=self._run, name="kvatlas-open-store", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> Backend | None:
        """What was opened, if it is there within so many seconds; also returns when a try has failed."""
        self._tried.wait(seconds)
        return self._opened

    def submit_store(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        return self._opened is not None and self._opened.submit_store(job, keys, rows)

    def submit_load(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        return self._opened is not None and self._opened.submit_load(job, keys, rows)

    def submit_probe(self, job: int, keys: Sequence[bytes]) -> bool:
        return self._opened is not None and self._opened.submit_probe(job, keys)

    def finished(self) -> Sequence[Finished]:
        return self._opened.finished() if self._opened is not None else ()

    def drain(self, seconds: float) -> bool:
        return self._opened is None or self._opened.drain(seconds)

    def may_store(self, n_chunks: int) -> bool:
        return self._opened is not None and self._opened.may_store(n_chunks)

    def touched(self, keys: Sequence[bytes]) -> None:
        if self._opened is not None:
            self._opened.touched(keys)

    def take_removed(self) -> Sequence[bytes]:
        return self._opened.take_removed() if self._opened is not None else ()

    def is_there(self, key: bytes) -> bool:
        return self._opened is not None and self._opened.is_there(key)

    def inventory(self) -> Iterator[Sequence[bytes]]:
        self._over.wait()
        if self._opened is not None:
            yield from self._opened.inventory()

    def statistics(self) -> Mapping[str, float]:
        return self._opened.statistics() if self._opened is not None else {"is_open": 0.0}

    def close(self, seconds: float) -> None:
        with self._lock:
            self._closing.set()
            opened = self._opened
        self._over.set()
        if opened is not None:
            opened.close(seconds)

    def _run(self) -> None:
        retry_s = self._retry_s_min
        while not self._closing.is_set() and not self._try():
            self._tried.set()
            if self.is_refused:
                break
            self._closing.wait(retry_s)
            retry_s = min(2 * retry_s, self._retry_s_max)
        self._tried.set()
        self._over.set()

    def _try(self) -> bool:
        started_s = time.monotonic()
        try:
            opened = self._opener()
        except Exception as error:  # whatever it is, serving goes on without the store
            self.error = error
            self.is_refused = isinstance(error, KvatlasError) and not isinstance(error.__cause__, OSError)
            _log.warning(
                "store %s cannot be opened%s: %s",
                self._store,
                "" if self.is_refused else ", it is tried again",
                quoted(error),
            )
            return False
        with self._lock:
            if not self._closing.is_set():
                self._opened = opened
        if self._opened is None:
            opened.close(0.0)
        else:
            _log.info("store %s opened in %.1f s", self._store, time.monotonic() - started_s)
        return True
