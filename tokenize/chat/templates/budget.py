"""What one rendering of a chat template may still use: time, text, memory, nesting.

Three bounds hold memory:
- a text that is longer than `text_bytes_max` is refused before it is made;
- texts and lists of `BIG` bytes or more go into a ledger while the template holds them; together they
  may have `LIVE_TEXTS` times `text_bytes_max`. What a template has let go of leaves the ledger, so one that
  appends to a text again and again is not refused;
- everything smaller is added up over the whole rendering, dead or alive, to `small_bytes_max`.

The clock is read at every big value, and after every `LOOK_BYTES` of small ones: loops, macros and calls
count what they may make, so that nothing runs long without it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from sys import getrefcount
from typing import Any

from jinja2.runtime import Undefined
from jinja2.utils import Namespace

from kvatlas.tokenize.config import TokenizeLimits

BIG = 32 << 10
LOOK_BYTES = 64 << 10
LIVE_TEXTS = 4
SMALL_BYTES_MIN = 256 << 20
"""Of small values, at least: 20 000 messages of a long template make some 50 MB."""
DEPTH_MAX = 128
"""Macros within macros and loops within recursive loops. Python's own stack holds about 150 of them."""
LEAF_BYTES = 24
ITEM_BYTES = 64
"""Of a list: a place, and an object that may have been made for it."""
HASHED_MAX = 10_000
"""Values within a tuple that is a key."""

_SCALARS = frozenset({str, int, float, bool, type(None), Undefined})
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class StoppedError(Exception):
    """A template reached a limit."""


class Budget:
    """Of one rendering, in one thread. Its methods raise StoppedError."""

    __slots__ = ("_deadline_s", "_ledger", "_live", "_live_max", "_small", "depth", "left", "text_max")

    def __init__(self, limits: TokenizeLimits) -> None:
        self.text_max = limits.text_bytes_max
        self.depth = 0
        self._live_max = LIVE_TEXTS * limits.text_bytes_max
        self._small = max(SMALL_BYTES_MIN, 8 * limits.text_bytes_max)
        self.left = LOOK_BYTES
        self._deadline_s = time.monotonic() + limits.render_s_max
        self._ledger: dict[int, tuple[Any, int]] = {}
        self._live = 0

    def tick(self, n_bytes: int) -> bool:
        """Count small values. Always True: it stands in conditions too."""
        self.left -= n_bytes
        if self.left < 0:
            self._small -= LOOK_BYTES - self.left
            self.left = LOOK_BYTES
            if self._small < 0:
                raise StoppedError("its values need too much memory")
            self.look()
        return True

    def look(self) -> None:
        """Read the clock."""
        if time.monotonic() > self._deadline_s:
            raise StoppedError("it took too long (limits.render_s_max)")

    def allow(self, n_chars: int) -> None:
        """Call before a text or list of this length is made."""
        if n_chars > self.text_max:
            raise StoppedError(f"a value of more than {self.text_max} bytes (limits.text_bytes_max)")

    def keep(self, value: Any, n_bytes: int) -> None:
        """Count a value that was made."""
        if n_bytes < BIG:
            self.left -= n_bytes
            if self.left < 0:
                self.tick(0)
            return
        if id(value) not in self._ledger:
            self._ledger[id(value)] = value, n_bytes
            self._live += n_bytes
            if self._live > self._live_max:
                self._sweep()
        self.look()

    def _sweep(self) -> None:
        ledger = self._ledger
        # Two references: the ledger's, and that of the call which counts them.
        for key in [key for key in ledger if getrefcount(ledger[key][0]) <= 2]:
            del ledger[key]
        self._live = sum(n_bytes for _, n_bytes in ledger.values())
        if self._live > self._live_max:
            raise StoppedError("its values need too much memory")

    def text(self, value: str) -> str:
        """`value`, counted."""
        n_chars = len(value)
        if n_chars >= BIG:
            self.allow(n_chars)
        self.keep(value, n_chars)
        return value

    def items(self, value: Any) -> Any:
        """`value`, a list or the like, counted. Not what is in it."""
        self.keep(value, 56 + ITEM_BYTES * len(value))
        return value

    def seen(self, n_chars: int) -> None:
        """Call before a text or list of this length is searched or compared."""
        if n_chars > BIG:
            self.look()

    def weigh(self, value: Any, factor: int = 1) -> int:
        """About how many characters `value` has when written out, or fewer times `factor`.

        A list that holds another one twice, which holds another one twice, is short, and its text has no
        end: what writes out, compares or sorts is asked to weigh first.
        """
        if type(value) in _SCALARS and type(value) is not str:
            return LEAF_BYTES
        weight = 0
        waiting: list[Any] = [value]
        most = self.text_max // factor
        while waiting:
            item = waiting.pop()
            kind = type(item)
            if kind is str:
                weight += len(item) + 2
            elif kind is int:
                weight += 2 + item.bit_length() // 3
            elif kind in _SCALARS:
                weight += LEAF_BYTES
            else:
                weight += 2
                _spread(item, waiting)
            if weight + len(waiting) > most:
                self.allow((weight + len(waiting)) * factor)
            self.left -= 4
            if self.left < 0:
                self.tick(0)
        return weight

    def fit(self, value: Any) -> Any:
        """`value`, which is about to be compared with another one."""
        kind = type(value)
        if kind is str:
            if len(value) > BIG:
                self.look()
        elif kind not in _SCALARS:
            self.weigh(value)
        return value

    def written(self, value: Any) -> str:
        """As jinja's `str(value)` in an output."""
        kind = type(value)
        if kind is str:
            return str(value)
        if kind not in _SCALARS:
            self.weigh(value, 10)
        return self.text(str(value))

    def joined(self, pieces: Sequence[str]) -> str:
        """The pieces in one."""
        n_chars = sum(map(len, pieces))
        self.allow(n_chars)
        return self.text("".join(pieces))


def hashed(value: Any) -> Any:
    """`value`, which is about to be hashed, as a key is.

    Python hashes a tuple of tuples without asking anybody, and one that holds another one twice, which holds
    another one twice, for ever.
    """
    if isinstance(value, tuple):
        n_values, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            n_values += len(item)
            if n_values > HASHED_MAX:
                raise StoppedError(f"a key of more than {HASHED_MAX} values")
            waiting.extend(inner for inner in item if isinstance(inner, tuple))
    return value


def _spread(value: Any, waiting: list[Any]) -> None:
    if isinstance(value, dict):
        waiting.extend(value)
        waiting.extend(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)) or type(value) in _VIEWS:
        waiting.extend(value)
    elif isinstance(value, str):
        waiting.append(str(value))
    elif type(value) is Namespace:
        waiting.append(object.__getattribute__(value, "_Namespace__attrs"))
