"""Asks one replica of a shard what it knows of block keys: one message for all who wait."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from kvatlas.actors.link.link import LinkError, ShardLink
from kvatlas.actors.link.messages import Address, Kind, Message, decode_message, fetch, touch
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index._native import Excerpt
from kvatlas.index.errors import InputError, KvatlasError

Keys = npt.NDArray[np.uint64]
_NO_KEYS = np.empty(0, np.uint64)
_USED_MAX = 1024


class Fetched:
    """What a replica has answered to a message, for all whose keys were in it."""

    def __init__(self, fetcher: Fetcher, keys: Keys, answer: Message) -> None:
        self.is_whole = answer.is_whole
        self._fetcher = fetcher
        self._keys = keys
        self._answer = answer
        self._lock = threading.Lock()
        self._source: Excerpt | None = None

    def source(self) -> Excerpt:
        """To be matched as the shard itself. Raises InputError when the answer is no excerpt of the keys,
        TableFileError when there is no memory for it."""
        with self._lock:  # made by the first who needs it, not on the thread of the links
            if self._source is None:
                self._source = Excerpt([self._keys], [bytes(self._answer.body)])
            return self._source

    def report_use(self) -> None:
        """Have the replica told, by and by, which segments a sample of the matches has used."""
        self._fetcher.used(self.source().take_touched())


class _Waiting:
    """Keys of one request, and where their answer goes."""

    __slots__ = ("future", "keys")

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.future: Future[Fetched] = Future()


class Fetcher:
    """One message to the replica at a time; what comes meanwhile goes together with the next.

    A replica that does not answer is down: requests to it fail at once, until `probe` finds it again.
    Any thread may call any method.
    """

    def __init__(self, address: Address, link: ShardLink, settings: ReaderSettings) -> None:
        self.address = address
        self.is_down = False
        self.said = ""
        """Why it is, or was, down."""
        self.counts: Counter[str] = Counter()
        self._link = link
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._waiting_keys = 0
        self._is_asking = False
        self._used: list[Keys] = []

    def fetch(self, keys: Keys) -> Future[Fetched]:
        """Ask for keys [n]; the future fails with LinkError when there is no answer.

        Its callbacks run on the thread of the links: they should be short.
        """
        waiting = _Waiting(keys)
        with self._lock:
            why = self._refuses(len(keys))
            if not why:
                self._waiting.append(waiting)
                self._waiting_keys += len(keys)
        if why:
            self.counts["refused_fetches"] += 1
            waiting.future.set_exception(LinkError(why))
        else:
            self._ask()
        return waiting.future

    def _refuses(self, n_keys: int) -> str:
        if self.is_down:
            return f"shard {self.address.shard} is down: {self.said}"
        if self._waiting_keys and self._waiting_keys + n_keys > self._settings.waiting_keys_max:
            return f"shard {self.address.shard}: {self._waiting_keys} keys wait already"
        return ""

    def probe(self) -> None:
        """See whether a replica that is down answers again."""
        with self._lock:
            if not self.is_down or self._is_asking:
                return
            self._is_asking = True
        self._send([_Waiting(_NO_KEYS)])

    def used(self, segment_keys: Keys) -> None:
        """These segments are in use; `tell_use` sends them. Beyond a bound they are left out."""
        if len(segment_keys) and len(self._used) < _USED_MAX:
            self._used.append(segment_keys)

    def tell_use(self) -> None:
        """Tell the replica which segments are in use. Nobody minds when it is lost."""
        used, self._used = self._used, []
        if used and not self.is_down:
            keys = np.unique(np.concatenate(used))
            self._link.request(touch(self.address, keys), self._settings.fetch_s_max)

    def close(self) -> None:
        """Whoever waits gets a LinkError. Twice is fine."""
        self._link.close()

    def _ask(self) -> None:
        with self._lock:
            if self._is_asking or not self._waiting:
                return
            batch = self._take()
            self._is_asking = True
        self._send(batch)

    def _take(self) -> list[_Waiting]:
        """Those who wait, as far as a message has room; the first in any case."""
        batch = [self._waiting.popleft()]
        n_keys = len(batch[0].keys)
        while self._waiting and n_keys + len(self._waiting[0].keys) <= self._settings.fetch_keys_max:
            batch.append(self._waiting.popleft())
            n_keys += len(batch[-1].keys)
        self._waiting_keys -= n_keys
        return batch

    def _send(self, batch: list[_Waiting]) -> None:
        keys = batch[0].keys if len(batch) == 1 else np.concatenate([waiting.keys for waiting in batch])
        self.counts["fetches"] += 1
        self.counts["fetched_requests"] += len(batch)
        self.counts["fetched_keys"] += len(keys)
        asked = self._link.request(fetch(self.address, keys), self._settings.fetch_s_max)
        asked.add_done_callback(lambda answered: self._answered(batch, keys, answered))

    def _answered(self, batch: list[_Waiting], keys: Keys, answered: Future[bytes]) -> None:
        try:
            message = decode_message(answered.result())
            if message.kind is not Kind.EXCERPT:
                raise LinkError(f"expected an excerpt, got {message.kind.name}: {message.text}")
            fetched = Fetched(self, keys, message)
        except (KvatlasError, InputError) as error:
            self._failed(batch, str(error))
            return
        with self._lock:
            self._is_asking = False
            self.is_down = False
        for waiting in batch:
            waiting.future.set_result(fetched)
        self._ask()

    def _failed(self, batch: Iterable[_Waiting], said: str) -> None:
        """Nobody behind them waits as long again."""
        self.counts["failed_fetches"] += 1
        with self._lock:
            self._is_asking = False
            self.is_down = True
            self.said = said
            everybody = [*batch, *self._waiting]
            self._waiting.clear()
            self._waiting_keys = 0
        for waiting in everybody:
            waiting.future.set_exception(LinkError(f"shard {self.address.shard}: {said}"))


def fetch_from(fetchers: list[Fetcher], keys: Keys) -> Future[Fetched | None]:
    """Ask the first of some replicas that answers; None when none does. Never fails."""
    found: Future[Fetched | None] = Future()

    def try_next(left: list[Fetcher]) -> None:
        if not left:
            found.set_result(None)
            return

        def done(asked: Future[Fetched]) -> None:
            if asked.exception() is None:
                found.set_result(asked.result())
            else:
                try_next(left[1:])

        left[0].fetch(keys).add_done_callback(done)

    try_next(sorted(fetchers, key=lambda fetcher: fetcher.is_down))
    return found
