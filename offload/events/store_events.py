"""Publishes which files there are in a store, on ZeroMQ sockets of its own.

    stored / removed / inventory --queue--> one thread --PUB, numbered--> subscribers
                                                  └---buffer--> ROUTER: replay for those who missed some

For evictors, and for connectors whose engine does not announce storage. Subscribers know by the topic that
no model server speaks: kv@store:<store>#<announcer>@<model> (docs/events.md).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.ingest.announcers import announcer_name
from kvatlas.offload.events.publishing import BatchPublisher
from kvatlas.offload.events.store_wire import (
    FileEvent,
    FilesRemoved,
    FilesStored,
    Inventory,
    by_group,
    encode,
)

_KEYS_A_BATCH = 4096
_CHUNK_BLOCKS_MAX = 4096


class StoreEventsStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What has been published since the start, in keys unless said otherwise."""

    stored: int
    removed: int
    inventories: int
    """That were published whole."""
    batches: int
    repeated: int
    """Removals that were told a second time."""
    dropped_stored: int
    """Files told while too many waited; the next inventory has them."""
    dropped_removed: int
    """The same of removals: until the next inventory the index holds files that are gone."""
    queued: int
    """Now."""
    bad_keys: int
    unanswered: int
    """Times that the store did not say whether a file is there again: its removal was repeated."""


class _Said(NamedTuple):
    kind: Literal["stored", "removed", "listed", "begin", "end"]
    time_s: float
    keys: Sequence[bytes]


class StoreEvents:
    """Announces the files of one store and model. Any thread may call any method.

    `stored` and `removed` never block and make no system call: a thread publishes what they say within
    `gather_s`. Where more than `queued_max` keys wait, files are not announced, and beyond twice that not
    even removals; both are counted. A removal is said again after `repeat_s`, unless the file is there again
    by then (`is_there`, or said here to be stored): an announcement of the file that was under way, by
    another publisher, may have come after the first. Raises ConfigError for endpoints that cannot be used,
    InputError for names.
    """

    def __init__(
        self,
        endpoint: str = "tcp://*:*",
        replay_endpoint: str | None = "tcp://*:*",
        *,
        store: str,
        model: str,
        announcer: str,
        chunk_blocks: int = 1,
        buffer_batches: int = 10_000,
        buffer_bytes_max: int = 64 << 20,
        queued_max: int = 1 << 20,
        gather_s: float = 0.05,
        repeat_s: float = 10.0,
        is_there: Callable[[bytes], bool] | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """`store`: as in the pods' settings, "": the one of the model's pods that name none. `model`: as in
        the topics of its pods. `chunk_blocks`: engine blocks in each file."""
        if not 1 <= chunk_blocks <= _CHUNK_BLOCKS_MAX:
            raise InputError(f"chunk_blocks: expected 1 to {_CHUNK_BLOCKS_MAX}, got {chunk_blocks}")
        self._chunk_blocks = chunk_blocks
        self._queued_max = queued_max
        self._gather_s = gather_s
        self._repeat_s = repeat_s
        self._is_there = is_there
        self._clock_s = clock_s
        self._publisher = BatchPublisher(
            f"kv@{announcer_name(store, announcer)}@{model}",
            endpoint,
            replay_endpoint,
            buffer_batches=buffer_batches,
            buffer_bytes_max=buffer_bytes_max,
        )
        self.endpoint = self._publisher.endpoint
        """Where subscribers connect, with its port."""
        self.replay_endpoint = self._publisher.replay_endpoint
        self._changed = threading.Condition()
        self._queue: deque[_Said] = deque()
        self._queued = 0
        self._repeats: deque[tuple[float, Sequence[bytes]]] = deque()
        self._awaited: Counter[bytes] = Counter()  # keys of `_repeats`, and in how many of them
        self._back: set[bytes] = set()  # of these, stored again since their removal
        self._gone: set[bytes] | None = None  # removed while an inventory is under way
        self._inventory = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"store events {store}", daemon=True)
        self._thread.start()

    def stored(self, keys: Sequence[bytes]) -> None:
        """These files are there."""
        with self._changed:
            if self._repeats:
                self._back.update(key for key in keys if key in self._awaited)
            if self._gone is not None:
                self._gone.difference_update(keys)
            self._say("stored", keys, self._queued_max)

    def removed(self, keys: Sequence[bytes]) -> None:
        """These files are gone."""
        with self._changed:
            if self._gone is not None:
                self._gone.update(keys)
            self._back.difference_update(keys)
            if self._say("removed", keys, 2 * self._queued_max) and self._repeat_s > 0:
                self._repeats.append((time.monotonic() + self._repeat_s, tuple(keys)))
                self._awaited.update(keys)

    def inventory(self, batches: Iterable[Sequence[bytes]]) -> None:
        """Name all files there are; the index forgets those that it knows and that are not named.

        It reads `batches` at the pace of the publishing thread, and returns when all is queued. An error
        of theirs ends the inventory, which then changes nothing.
        """
        with self._inventory:
            try:
                with self._changed:
                    self._gone = set()
                    self._say("begin", (), None)
                rest = iter(batches)
                while True:
                    began_s = self._clock_s()
                    keys = next(rest, None)
                    if keys is None or not self._list(keys, began_s):
                        break
                with self._changed:
                    self._say("end", (), None)
            finally:
                with self._changed:
                    self._gone = None

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all that was said is published, repetitions aside; False: it was not."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue or self._closing, timeout_s)

    def statistics(self) -> StoreEventsStatistics:
        with self._changed:
            counts, queued = dict(self._counts), self._queued
        names = (name for name in StoreEventsStatistics.__struct_fields__ if name != "queued")
        return StoreEventsStatistics(queued=queued, **{name: counts.get(name, 0) for name in names})

    def close(self, seconds: float = 5.0) -> bool:
        """Publish what waits, and free the ports. Twice is fine.

        False: its thread hangs (in `is_there`, say) and is left to itself, with the ports.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        self._publisher.close()
        return True

    def __enter__(self) -> StoreEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Under `_changed`.

    def _say(
        self, kind: Literal["stored", "removed", "begin", "end"], keys: Sequence[bytes], most: int | None
    ) -> bool:
        if most is not None and self._queued + len(keys) > most:
            self._counts[f"dropped_{kind}"] += len(keys)
            return False
        self._append(_Said(kind, self._clock_s(), tuple(keys)))
        return True

    def _append(self, said: _Said) -> None:
        self._queue.append(said)
        self._queued += len(said.keys)
        self._changed.notify_all()

    def _list(self, keys: Sequence[bytes], began_s: float) -> bool:
        """Queue a part of an inventory when there is room; False: it is being closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queued < self._queued_max or self._closing)
            gone = self._gone or set()
            self._append(_Said("listed", began_s, [key for key in keys if key not in gone]))
            return not self._closing

    # The publishing thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing, self._wait_s())
                is_last = self._closing
                if not is_last and self._queue:
                    self._changed.wait_for(lambda: self._closing, self._gather_s)
                said = list(self._queue)
                repeats = self._due_repeats()
            self._publish(said)
            self._repeat(repeats)
            with self._changed:
                for _ in said:
                    self._queued -= len(self._queue.popleft().keys)
                self._changed.notify_all()
                if is_last and not self._queue:
                    return

    def _wait_s(self) -> float | None:
        return max(0.0, self._repeats[0][0] - time.monotonic()) if self._repeats else None

    def _due_repeats(self) -> list[bytes]:
        due: list[bytes] = []
        while self._repeats and self._repeats[0][0] <= time.monotonic():
            keys = self._repeats.popleft()[1]
            due.extend(key for key in keys if key not in self._back)
            for key in keys:
                self._awaited[key] -= 1
                if not self._awaited[key]:
                    del self._awaited[key]
                    self._back.discard(key)
        return due

    def _repeat(self, keys: list[bytes]) -> None:
        gone = self._without_those_there(keys)
        if gone:
            self._counts["repeated"] += len(gone)
            self._publish([_Said("removed", self._clock_s(), gone)], counted=False)

    def _without_those_there(self, keys: list[bytes]) -> list[bytes]:
        if self._is_there is None:
            return keys
        gone: list[bytes] = []
        for at, key in enumerate(keys):
            try:
                if not self._is_there(key):
                    gone.append(key)
            except Exception:  # a store that does not answer is not asked for each: a hit less does no harm
                self._counts["unanswered"] += 1
                return gone + keys[at:]
        return gone

    def _publish(self, said: Sequence[_Said], *, counted: bool = True) -> None:
        for one in said:
            if one.kind in ("begin", "end"):
                self._send([Inventory(one.kind)], one.time_s)
                self._counts["inventories"] += one.kind == "end"
            for begin in range(0, len(one.keys), _KEYS_A_BATCH):
                keys = one.keys[begin : begin + _KEYS_A_BATCH]
                self._send(self._events(one.kind, keys), one.time_s)
                if counted:
                    self._counts["removed" if one.kind == "removed" else "stored"] += len(keys)

    def _events(self, kind: str, keys: Sequence[bytes]) -> list[FileEvent]:
        try:
            groups = by_group(keys)
        except InputError:
            good = [key for key in keys if _is_key(key)]
            self._counts["bad_keys"] += len(keys) - len(good)
            groups = by_group(good)
        if kind == "removed":
            return [FilesRemoved(hashes, group) for group, hashes in sorted(groups.items())]
        return [FilesStored(hashes, group, self._chunk_blocks) for group, hashes in sorted(groups.items())]

    def _send(self, events: list[FileEvent], time_s: float) -> None:
        """Times of one stream do not step back: subscribers would suspect another publisher."""
        self._last_s = max(self._last_s, time_s)
        self._publisher.publish(encode(events, time_s=self._last_s))
        self._counts["batches"] += 1


def _is_key(key: bytes) -> bool:
    try:
        by_group((key,))
    except InputError:
        return False
    return True
