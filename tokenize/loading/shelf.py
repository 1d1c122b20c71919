"""Tokenizers that are loaded: each once, the ones used least go first, changed ones are replaced."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable

import msgspec

from kvatlas.index.errors import KvatlasError, TokenizerError
from kvatlas.tokenize.backend import ModelTokenizer, TokenizerStatistics

FAILURES_MAX = 1024
"""Names remembered that could not be loaded."""
_WAIT_GROWTH_MAX = 16
_log = logging.getLogger(__name__)


class ShelfCounts(msgspec.Struct, kw_only=True):
    """What happened so far."""

    loads: int = 0
    load_failures: int = 0
    reloads: int = 0
    reload_failures: int = 0
    """New files that were no good; the tokenizer from the old ones goes on."""
    evicted: int = 0
    """Tokenizers that had to make room for others."""
    failures_forgotten: int = 0
    """Names that could not be loaded and had to make room for others of that kind."""


class _Slot:
    """One model: loading, loaded, or failed."""

    __slots__ = ("error", "failed_times", "is_busy", "loaded", "look_at_s", "tokenizer", "used")

    def __init__(self) -> None:
        self.tokenizer: ModelTokenizer | None = None
        self.error: KvatlasError | None = None
        self.loaded = threading.Event()
        """Set when the first load has ended, well or not."""
        self.is_busy = True
        """Somebody loads, or looks whether files have changed."""
        self.look_at_s = 0.0
        self.failed_times = 0
        self.used = 0


class Shelf:
    """Holds at most `loaded_max` tokenizers, and loads them by `find`, which raises KvatlasError.
    `check` raises InputError for names of which nothing is to be remembered.

    Any thread. Whoever asks first for a model loads it, and others who ask for it meanwhile wait; nobody
    waits for another model. A changed one is loaded anew in a thread of its own while the old one answers.
    """

    def __init__(
        self,
        find: Callable[[str], ModelTokenizer],
        *,
        check: Callable[[str], None],
        loaded_max: int,
        look_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        self._find = find
        self._check = check
        self._loaded_max = loaded_max
        self._look_s = look_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._uses = itertools.count(1)
        self._closed = False
        self.counts = ShelfCounts()

    def get(self, model: str) -> ModelTokenizer:
        """The model's tokenizer, loaded at the first call. Raises what loading it raised, for `look_s`."""
        slot = self._slots.get(model)
        if slot is not None:
            tokenizer = slot.tokenizer
            if tokenizer is not None and self._clock_s() < slot.look_at_s:
                slot.used = next(self._uses)
                return tokenizer
        return self._get_slowly(model)

    def peek(self, model: object) -> ModelTokenizer | None:
        """What is loaded at this moment; for any object, None where that is nothing."""
        slot = self._slots.get(model) if isinstance(model, str) else None
        return None if slot is None else slot.tokenizer

    def statistics(self) -> tuple[ShelfCounts, list[TokenizerStatistics]]:
        """Counts, and of each tokenizer that is loaded its own."""
        with self._lock:
            loaded = [slot.tokenizer for slot in self._slots.values() if slot.tokenizer is not None]
            counts = msgspec.structs.replace(self.counts)
        return counts, [tokenizer.statistics() for tokenizer in loaded]

    def close(self) -> None:
        """Lets go of all tokenizers. Later calls of `get` raise TokenizerError."""
        with self._lock:
            self._closed = True
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            if slot.tokenizer is not None:
                slot.tokenizer.close()

    def _get_slowly(self, model: str) -> ModelTokenizer:
        self._check(model)
        with self._lock:
            if self._closed:
                raise TokenizerError("tokenizers: expected open ones, got closed ones")
            now_s = self._clock_s()
            slot = self._slots.get(model)
            if slot is not None and slot.error is not None and now_s >= slot.look_at_s:
                slot = None
            is_mine = slot is None
            if slot is None:
                slot = self._slots[model] = _Slot()
            slot.used = next(self._uses)
            tokenizer = slot.tokenizer
            if tokenizer is not None:
                if slot.is_busy or now_s < slot.look_at_s:
                    return tokenizer
                slot.is_busy = True
        if tokenizer is not None:
            self._look(model, slot, tokenizer)
            return tokenizer
        if is_mine:
            self._load(model, slot)
        slot.loaded.wait()
        if slot.tokenizer is None:
            assert slot.error is not None
            # Another exception each time: one that is raised twice would gather tracebacks.
            raise type(slot.error)(*slot.error.args) from slot.error
        return slot.tokenizer

    def _load(self, model: str, slot: _Slot) -> None:
        """The first load. Whatever happens, those who wait for it go on."""
        error: KvatlasError | None = None
        tokenizer: ModelTokenizer | None = None
        try:
            tokenizer = self._find(model)
        except KvatlasError as reason:
            error = reason
        except BaseException as reason:
            error = TokenizerError(f"{model}: could not be loaded: {type(reason).__name__}: {reason}")
            raise
        finally:
            with self._lock:
                slot.tokenizer, slot.error, slot.is_busy = tokenizer, error, False
                slot.look_at_s = self._clock_s() + self._look_s
                if tokenizer is not None:
                    self.counts.loads += 1
                else:
                    self.counts.load_failures += 1
                gone = self._make_room(slot)
            slot.loaded.set()
            _close(gone)

    def _look(self, model: str, slot: _Slot, tokenizer: ModelTokenizer) -> None:
        """Has it loaded anew where its files have changed. The slot is busy, by us."""
        try:
            is_current = tokenizer.is_current()
        except BaseException:
            self._rest(slot)
            raise
        if is_current:
            slot.failed_times = 0
            self._rest(slot)
            return
        _log.info("%s: its files have changed; it is loaded anew", model)
        thread = threading.Thread(
            target=self._reload, args=(model, slot, tokenizer), name=f"reload {model}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            _log.warning("%s: no thread to load it anew, later again: %s", model, error)
            self._rest(slot)

    def _reload(self, model: str, slot: _Slot, old: ModelTokenizer) -> None:
        try:
            new = self._find(model)
        except Exception as error:
            slot.failed_times += 1
            with self._lock:
                self.counts.reload_failures += 1
            _log.warning("%s: its new files are no good, the old ones go on: %s", model, error)
            self._rest(slot)
            return
        with self._lock:
            self.counts.reloads += 1
            is_kept = self._slots.get(model) is slot
            if is_kept:
                slot.tokenizer = new
            slot.failed_times = 0
        # Where it was evicted or closed meanwhile nobody will ask for the new one.
        (old if is_kept else new).close()
        self._rest(slot)

    def _rest(self, slot: _Slot) -> None:
        """Nothing to look at for a while; longer where the new files keep being no good."""
        slot.look_at_s = self._clock_s() + self._look_s * min(2**slot.failed_times, _WAIT_GROWTH_MAX)
        slot.is_busy = False

    def _make_room(self, new: _Slot) -> list[ModelTokenizer]:
        """Takes what is too much off the shelf. Under the lock."""
        loaded = {name: slot for name, slot in self._slots.items() if slot.tokenizer is not None}
        failed = {name: slot for name, slot in self._slots.items() if slot.error is not None}
        gone = [] if not self._closed or new.tokenizer is None else [new.tokenizer]
        for slots, kept_max in ((loaded, self._loaded_max), (failed, FAILURES_MAX)):
            for name in sorted(slots, key=lambda name: slots[name].used)[: max(0, len(slots) - kept_max)]:
                slot = self._slots.pop(name)
                if slot.tokenizer is not None:
                    gone.append(slot.tokenizer)
                    self.counts.evicted += 1
                else:
                    self.counts.failures_forgotten += 1
        return gone


def _close(tokenizers: list[ModelTokenizer]) -> None:
    for tokenizer in tokenizers:
        tokenizer.close()
