"""Tells a chooser that a replica has computed a prompt, by the events of its blocks."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.errors import KvatlasError
from kvatlas.index.keys import TokenIds
from kvatlas.index.reading import Asked
from kvatlas.ingest.atlas import Atlas

_FIRST_S = 0.005
_GROWTH = 0.25
"""Of the time that a prompt has been looked for, until it is looked for again: so its time is known as
well, and a long prefill costs few looks."""
_JOIN_S_MAX = 5.0

_log = logging.getLogger(__name__)


class PrefillStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of the prompts that a process waits for."""

    watched: int
    seen: int
    """Computed, as their replica's events told."""
    unseen: int
    """Ended before any such event, or never waited for: too short, too many, no events."""


class _Watched:
    __slots__ = ("asked", "began_s", "key", "pod", "request_id", "token_ids")

    def __init__(self, request_id: str, pod: str, token_ids: TokenIds, asked: Asked, began_s: float) -> None:
        self.request_id = request_id
        self.pod = pod
        self.token_ids: TokenIds | None = token_ids
        self.asked = asked
        self.began_s = began_s
        self.key: npt.NDArray[np.uint64] | None = None
        """[1] of its last whole block."""


class PrefillWatch:
    """A call whose prompt is computed no longer stands in the way of others with its prefill.

    Serve says when a call begins and ends, not when its first token comes. The last whole block of its
    prompt appears in the index when the replica has computed it. Any thread may call it; a thread of its
    own looks. Bounded by `watched_max`; what is beyond counts as prefill until the call ends.
    """

    def __init__(
        self,
        atlas: Atlas,
        chooser: Chooser,
        watched_max: int = 4096,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._atlas = atlas
        self._chooser = chooser
        self._watched_max = watched_max
        self._clock_s = clock_s
        self._changed = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._due: list[tuple[float, int, _Watched]] = []
        self._numbers = itertools.count()
        self._seen = self._unseen = 0
        self._is_idle = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kvatlas-serve-prefill", daemon=True)
        self._thread.start()

    def add(self, request_id: str, pod: str, token_ids: TokenIds, asked: Asked) -> None:
        """A call runs at this pod from now on."""
        now_s = self._clock_s()
        watched = _Watched(request_id, pod, token_ids, asked, now_s)
        with self._changed:
            if max(len(self._watched), len(self._due) // 2) >= self._watched_max:
                self._unseen += 1
                return
            self._watched[request_id] = watched
            self._again(watched, now_s)

    def forget(self, request_id: str) -> None:
        """The call has ended."""
        with self._changed:
            watched = self._watched.pop(request_id, None)
            if watched is not None:
                watched.token_ids = None  # what is due stays until then
                self._unseen += 1

    def statistics(self) -> PrefillStatistics:
        with self._changed:
            return PrefillStatistics(watched=len(self._watched), seen=self._seen, unseen=self._unseen)

    def close(self) -> None:
        """Twice is fine."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(_JOIN_S_MAX)

    def _again(self, watched: _Watched, now_s: float) -> None:
        wait_s = max(_FIRST_S, (now_s - watched.began_s) * _GROWTH)
        heapq.heappush(self._due, (now_s + wait_s, next(self._numbers), watched))
        if self._is_idle:  # else it looks soon enough by itself: waking it costs more than the call
            self._is_idle = False
            self._changed.notify_all()

    def _run(self) -> None:
        while (watched := self._next()) is not None:
            try:
                is_over = self._look(watched)
            except KvatlasError as error:
                _log.info("prompt of %s: %s", watched.request_id, error)
                self.forget(watched.request_id)
                continue
            with self._changed:
                if self._watched.get(watched.request_id) is not watched:
                    continue  # it has ended meanwhile
                if not is_over:
                    self._again(watched, self._clock_s())
                    continue
                del self._watched[watched.request_id]
                self._seen += 1
            self._chooser.prefill_done(watched.request_id)

    def _next(self) -> _Watched | None:
        """Waits for the next that is due; None: it ends."""
        with self._changed:
            while not self._stopping:
                if not self._due:
                    self._is_idle = True
                    self._changed.wait()
                    continue
                wait_s = self._due[0][0] - self._clock_s()
                if wait_s > 0:
                    self._changed.wait(min(wait_s, _FIRST_S))
                    continue
                watched = heapq.heappop(self._due)[2]
                if self._watched.get(watched.request_id) is watched:
                    return watched
        return None

    def _look(self, watched: _Watched) -> bool:
        """Whether its pod holds the last whole block. Raises KvatlasError where that cannot be known."""
        if watched.key is None:
            token_ids = watched.token_ids
            if token_ids is None:
                return True  # it has ended meanwhile
            watched.key = self._atlas.look(token_ids, **watched.asked).question.keys[-1:]
            watched.token_ids = None
        if len(watched.key) == 0:
            raise KvatlasError("no whole block, or nobody has told the block size")
        (lanes,) = self._atlas.lookup(watched.key)
        return any(isinstance(lane, tuple) and lane[0] == watched.pod for lane in lanes)
