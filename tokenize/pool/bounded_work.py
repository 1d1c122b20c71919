"""Work that waits its turn for a few threads: bounded in number, bytes and time.

Prior art: Java's ThreadPoolExecutor with a bounded queue that rejects. What differs: bytes count too,
slow work never takes all threads, and what has waited too long for anybody to want it is not begun.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from kvatlas.index.errors import ConfigError, OverloadedError

T = TypeVar("T")


class WorkLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a queue. Raises ConfigError for values out of range."""

    threads: int = 4
    """Pieces that are worked on at a time."""
    waiting_max: int = 256
    """Pieces that wait; more are refused."""
    spill_max: int = 16
    """The same for pieces that have another place to go to."""
    waiting_bytes_max: int = 256 << 20
    """Bytes of what waits or is worked on; a piece that does not fit beside others is refused."""
    wait_s_max: float = 30.0
    """What has waited for so long is given up, not begun."""
    slow_bytes: int = 1 << 20
    """Larger pieces are slow, and so are those that are said to be: all threads but one may work on such
    at a time, and half of those that wait may be such."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 < value <= 1 << 44:
                raise ConfigError(f"{name}: expected a number above 0, got {value!r}")


class WorkStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue is, and what has gone through it."""

    threads: int
    waiting: int = 0
    busy: int = 0
    bytes: int = 0
    """Of what waits or is worked on."""
    busy_s: float = 0.0
    """Time that threads have worked, in all."""
    waited_s: float = 0.0
    """Time that pieces have waited, in all."""
    counts: dict[str, int] = {}
    """Pieces: done, failed, refused (the queue was full), spilled (it was for those who can go elsewhere),
    given_up (waited too long, or nobody wants them any more)."""


@dataclass(eq=False)
class _Piece:
    run: Callable[[], Any]
    future: Future[Any]
    n_bytes: int
    came_s: float
    is_slow: bool
    begun_s: float = 0.0


class BoundedWork:
    """Threads and the queue before them. Any thread may call any method."""

    def __init__(
        self,
        limits: WorkLimits,
        *,
        name: str = "tokenize",
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Threads start with the first piece, and are daemons named `name`."""
        self.limits = limits
        self._name = name
        self._clock_s = clock_s
        self._condition = threading.Condition()
        self._quick: deque[_Piece] = deque()
        self._slow: deque[_Piece] = deque()
        self._threads: list[threading.Thread] = []
        self._running: set[_Piece] = set()
        self._bytes = 0
        self._busy_s = self._waited_s = 0.0
        self._counts: Counter[str] = Counter()
        self._is_closed = False

    def submit(
        self, run: Callable[[], T], n_bytes: int = 0, *, is_slow: bool = False, may_spill: bool = False
    ) -> Future[T]:
        """Have `run` called by a thread, in turn; its end is the future's.

        `n_bytes`: what it holds while it waits. `is_slow`: it may have to wait for others, who may hang.
        `may_spill`: the caller has another place to go to, so a shorter queue counts as full. Raises
        OverloadedError when it is, at once; the future fails with it when the piece has waited too long.
        """
        is_slow = is_slow or n_bytes > self.limits.slow_bytes
        piece = _Piece(run, Future(), n_bytes, self._clock_s(), is_slow)
        with self._condition:
            self._admit(piece, may_spill)
            (self._slow if piece.is_slow else self._quick).append(piece)
            self._bytes += n_bytes
            if len(self._threads) < self.limits.threads:
                self._begin_thread()
            self._condition.notify()
        return piece.future

    def _admit(self, piece: _Piece, may_spill: bool) -> None:
        limits = self.limits
        waiting_max = min(limits.spill_max, limits.waiting_max) if may_spill else limits.waiting_max
        if self._is_closed:
            raise OverloadedError(f"{self._name}: expected to be open, got closed: ask elsewhere")
        if not self._has_room(piece, waiting_max):
            self._drop_unwanted()
        if self._has_room(piece, waiting_max):
            return
        self._counts["spilled" if may_spill else "refused"] += 1
        raise OverloadedError(
            f"{self._name}: expected fewer than {waiting_max} requests to wait, half of them slow, and at "
            f"most {limits.waiting_bytes_max} bytes of requests; got {len(self._quick) + len(self._slow)}, "
            f"{len(self._slow)} of them slow, and {self._bytes} bytes and {piece.n_bytes} more"
        )

    def _has_room(self, piece: _Piece, waiting_max: int) -> bool:
        is_crowd_of_slow = piece.is_slow and len(self._slow) >= (waiting_max + 1) // 2
        if len(self._quick) + len(self._slow) >= waiting_max or is_crowd_of_slow:
            return False
        return not self._bytes or self._bytes + piece.n_bytes <= self.limits.waiting_bytes_max

    def _drop_unwanted(self) -> None:
        """Who asks and gives up, again and again, takes no place from others."""
        for queue in (self._quick, self._slow):
            for piece in [one for one in queue if one.future.cancelled()]:
                queue.remove(piece)
                piece.future.set_running_or_notify_cancel()
                self._bytes -= piece.n_bytes
                self._counts["given_up"] += 1

    def statistics(self) -> WorkStatistics:
        with self._condition:
            now_s = self._clock_s()
            return WorkStatistics(
                threads=self.limits.threads,
                waiting=len(self._quick) + len(self._slow),
                busy=len(self._running),
                bytes=self._bytes,
                busy_s=self._busy_s + sum(now_s - piece.begun_s for piece in self._running),
                waited_s=self._waited_s,
                counts=dict(self._counts),
            )

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing is worked on."""
        with self._condition:
            return not (self._quick or self._slow or self._running)

    def close(self) -> None:
        """Take nothing more; what waits fails with OverloadedError, what is worked on ends. Twice is fine."""
        with self._condition:
            self._is_closed = True
            left = [*self._quick, *self._slow]
            self._quick.clear()
            self._slow.clear()
            self._bytes -= sum(piece.n_bytes for piece in left)
            self._condition.notify_all()
            self._counts["given_up"] += len(left)
        for piece in left:
            if piece.future.set_running_or_notify_cancel():
                piece.future.set_exception(OverloadedError(f"{self._name}: closed: ask elsewhere"))

    # The threads.

    def _begin_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (piece := self._next()) is not None:
            self._run(piece)
            del piece  # a thread that waits holds no text

    def _next(self) -> _Piece | None:
        """The next piece to work on; None: closed."""
        with self._condition:
            while not self._is_closed:
                piece = self._take()
                if piece is not None:
                    piece.begun_s = self._clock_s()
                    self._waited_s += piece.begun_s - piece.came_s
                    self._running.add(piece)
                    return piece
                self._condition.wait()
        return None

    def _take(self) -> _Piece | None:
        """What came first, but one thread is left to quick pieces."""
        quick, slow = self._quick, self._slow
        n_slow = sum(piece.is_slow for piece in self._running)
        may_be_slow = bool(slow) and n_slow < max(1, self.limits.threads - 1)
        if may_be_slow and (not quick or slow[0].came_s <= quick[0].came_s):
            return slow.popleft()
        return quick.popleft() if quick else None

    def _run(self, piece: _Piece) -> None:
        outcome, settle = self._called(piece)
        with self._condition:
            self._running.discard(piece)
            self._busy_s += self._clock_s() - piece.begun_s
            self._bytes -= piece.n_bytes
            self._counts[outcome] += 1
            if piece.is_slow:
                self._condition.notify()  # another slow one may be begun now
        settle()  # last: who hears of the end finds the queue without it

    def _called(self, piece: _Piece) -> tuple[str, Callable[[], None]]:
        """What came of it, and how its owner is told."""
        future = piece.future
        if not future.set_running_or_notify_cancel():
            return "given_up", _nobody
        if piece.begun_s - piece.came_s > self.limits.wait_s_max:
            late = OverloadedError(
                f"{self._name}: expected to begin within {self.limits.wait_s_max:g} s, got no thread for it"
            )
            return "given_up", partial(future.set_exception, late)
        try:
            result = piece.run()
        except BaseException as error:  # the future's owner is told, whatever it is
            return "failed", partial(future.set_exception, error)
        return "done", partial(future.set_result, result)


def _nobody() -> None:
    """Waits for it any more."""
