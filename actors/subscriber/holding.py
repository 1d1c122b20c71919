"""A pause in what a subscriber sends, so that all shards can be copied as they are at one moment.

    asked ──> the outbox takes what is there, and nothing after it ──> all of it is acknowledged: held
                                       └── released, or over its limit: it goes on ──┘

Who asks sees all sessions held, has the shards copied, and releases. Model servers notice nothing:
what they tell meanwhile is gathered as always. Whoever asks may die: a hold ends by itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.index.view import FleetPart

HOLD_S_MAX = 30.0
"""The longest hold that may be asked for."""


class HoldAsks(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody asks for a hold, and again until it stands."""

    token: int
    """Of the hold, chosen by the asker at random; the same each time."""
    incarnations: tuple[int, ...]
    """Replicas that must have everything."""
    limit_s: float
    """After this time it ends by itself."""


class HoldReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far a hold is."""

    session: int = 0
    """Of the subscriber; 0: it has none yet."""
    is_held: bool = False
    """The replicas have all that was told until the hold began, and nothing after it."""
    is_over: bool = False
    """It was released, or ended by itself."""
    waits_for: str = ""
    """What is missing, for people."""
    part: FleetPart | None = None
    """With `is_held`: the workers as they were when it began."""


class Holding:
    """One hold at a time. `begin` and `stands` by the outbox's thread, the others by any."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        """`holds` that began, `holds_expired` that ended by themselves."""
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._token: int | None = None
        self._until_s = -math.inf
        self._mark: int | None = None
        """Of the outbox, when it began; None: asked for, not begun."""
        self._part: FleetPart | None = None

    def ask(self, asks: HoldAsks) -> int | None:
        """Ask for a hold, or how it is: the outbox's mark at which it began; None: not yet.

        Raises InputError when another one stands, or the limit is out of range.
        """
        if not 0 < asks.limit_s <= HOLD_S_MAX:
            raise InputError(f"hold: expected a limit of 0 to {HOLD_S_MAX:g} s, got {asks.limit_s!r}")
        with self._lock:
            self._end_late()
            if self._token is None:
                self._token, self._until_s = asks.token, self._clock_s() + asks.limit_s
                self._mark = self._part = None
            elif self._token != asks.token:
                raise InputError("hold: expected one at a time, another one stands")
            return self._mark

    def release(self, token: int) -> bool:
        """End a hold; whether it had begun and stood until now."""
        with self._lock:
            self._end_late()
            if self._token != token:
                return False
            stood = self._mark is not None
            self._end()
            return stood

    def stands_for(self, token: int) -> bool:
        with self._lock:
            self._end_late()
            return self._token == token and self._mark is not None

    @property
    def part(self) -> FleetPart | None:
        """The workers when it began."""
        return self._part

    @property
    def is_asked(self) -> bool:
        """It is to begin with what the outbox takes next."""
        return self._token is not None and self._mark is None

    @property
    def stands(self) -> bool:
        """Nothing may be taken."""
        with self._lock:
            self._end_late()
            return self._token is not None and self._mark is not None

    @property
    def wakes_at_s(self) -> float:
        """When it ends by itself."""
        return self._until_s if self._token is not None else math.inf

    def begin(self, mark: int, part: FleetPart) -> None:
        """Everything until now has been taken; what comes waits."""
        with self._lock:
            if self._token is not None:
                self._mark, self._part = mark, part
                self.counts["holds"] += 1

    def _end_late(self) -> None:
        if self._token is not None and self._clock_s() >= self._until_s:
            self.counts["holds_expired"] += self._mark is not None
            self._end()

    def _end(self) -> None:
        self._token = self._mark = self._part = None
