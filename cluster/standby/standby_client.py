"""A client of two clusters that follow the same servers: the second is asked where the first fails."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.connection import Connection
from kvatlas.actors.tokenizer.cluster_tokenizing import ClusterTokenizing
from kvatlas.cluster.client import Client
from kvatlas.cluster.standby.preference import Grade, Preference, differences, grade_of
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.errors import ClusterError, InputError, quoted

if TYPE_CHECKING:
    from kvatlas.actors.choosing.router import Router
    from kvatlas.index.choosing.chooser import Chooser
    from kvatlas.index.choosing.receipts.receipt import Receipt

T = TypeVar("T")
LOOK_S = 0.25
"""Between two looks at how the clusters are."""
RETURN_S = 10.0
"""How long the first must have been as good as the second before it is asked again."""

_log = logging.getLogger(__name__)


class StandbyClient(Client):
    """As `Client`, of whichever cluster is better to ask; see docs/cluster.md, warm standby.

    A request is completed where it was chosen. Loads that the first cluster's routers have reserved are
    not known to the second: it chooses by its own until they have ended.
    """

    def __init__(
        self,
        first: Client,
        second: Client,
        *,
        look_s: float = LOOK_S,
        return_s: float = RETURN_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """The clients are this one's from now on."""
        super().__init__(first.cluster, first.settings)
        self._both = (first, second)
        self._preference = Preference(return_s, clock_s)
        self._judging = threading.Lock()
        self._said: list[str] = []
        self._closing = threading.Event()
        self._how = (look_s, return_s)
        weakref.finalize(self, self._closing.set)
        threading.Thread(
            target=_look, args=(weakref.ref(self), self._closing, look_s), name="standby", daemon=True
        ).start()

    @property
    def standby(self) -> Client:
        """Of the second cluster."""
        return self._both[1]

    @property
    def asked(self) -> str:
        """Name of the cluster that is asked now."""
        return self._active().cluster

    @property
    def switches(self) -> int:
        """How often it has changed."""
        return self._preference.switches

    def judge(self) -> None:
        """Look how the two are, and choose; a thread does so all the time."""
        first, second = map(_grade, self._both)
        with self._judging:
            self._preference.judge(first, second)
        if Grade.GONE not in (first, second):
            self._compare()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until one of them can be read, half of the time for the first. Raises ClusterError when none
        can in time."""
        try:
            self._both[0].wait_ready(timeout_s / 2)
        except ClusterError:
            self._both[1].wait_ready(timeout_s / 2)
        self.judge()

    @property
    def differences(self) -> list[str]:
        """Why the standby is none of the first, as far as both can be read; logged when it changes."""
        return self._said

    def _compare(self) -> None:
        try:
            found = differences(*map(_block_sizes, self._both))
        except ClusterError:
            return
        if found and found != self._said:
            _log.warning("%r is no standby of %r: %s", self.standby.cluster, self.cluster, "; ".join(found))
        self._said = found

    def close(self) -> None:
        """Let go of both. Twice is fine."""
        self._closing.set()
        super().close()
        for client in self._both:
            client.close()

    # Requests end where they were chosen.

    def another(self, request_id: str, *, without: Collection[str]) -> Choice:
        return self._of_request(lambda client: client.another(request_id, without=without))

    def prefill_done(self, request_id: str) -> bool:
        return any(client.prefill_done(request_id) for client in self._in_order())

    def produced(self, request_id: str, tokens: int) -> bool:
        return any(client.produced(request_id, tokens) for client in self._in_order())

    def completed(
        self, request_id: str, *, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> bool:
        return any(
            client.completed(request_id, cached_tokens=cached_tokens, output_tokens=output_tokens)
            for client in self._in_order()
        )

    def failed(self, request_id: str, why: str = "") -> bool:
        return any(client.failed(request_id, why) for client in self._in_order())

    def receipt(self, request_id: str, *, tenant: str = "", cache_salt: str | None = None) -> Receipt:
        return self._of_request(
            lambda client: client.receipt(request_id, tenant=tenant, cache_salt=cache_salt)
        )

    async def chooser_async(self) -> Chooser:
        return await self._through_async(lambda client: client.chooser_async())

    def _of_request(self, ask: Callable[[Client], T]) -> T:
        """Of the first that knows it."""
        *others, last = self._in_order()
        for client in others:
            try:
                return ask(client)
            except InputError:
                continue
        return ask(last)

    def _in_order(self) -> list[Client]:
        """Those that have chosen something, the one that is asked first; it where none has."""
        active = self._active()
        order = (active, *(client for client in self._both if client is not active))
        return [client for client in order if client._router is not None] or [active]

    # What `Client` asks through.

    def _active(self) -> Client:
        return self._both[self._preference.choice]

    def _through(self, ask: Callable[[Client], T]) -> T:
        """Once more, where the one that was asked turns out to be gone."""
        active = self._active()
        try:
            return ask(active)
        except ClusterError:
            self.judge()
            if self._active() is active:
                raise
            return ask(self._active())

    async def _through_async(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        active = self._active()
        try:
            return await ask(active)
        except ClusterError:
            await asyncio.get_running_loop().run_in_executor(None, self.judge)
            if self._active() is active:
                raise
            return await ask(self._active())

    def _connected(self) -> Connection:
        return self._through(lambda client: client._connected())

    def _tokenizing(self) -> ClusterTokenizing:
        return self._through(lambda client: client._tokenizing())

    def _reader(self) -> ClusterReader:
        return self._through(lambda client: client._reader())

    async def _reader_async(self) -> ClusterReader:
        return await self._through_async(lambda client: client._reader_async())

    def _routed(self) -> Router:
        return self._through(lambda client: client._routed())

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (*self._both, *self._how)

    def __repr__(self) -> str:
        first, second = self._both
        return f"StandbyClient({first.cluster!r}, {second.cluster!r})"


def _again(first: Client, second: Client, look_s: float, return_s: float) -> StandbyClient:
    return StandbyClient(first, second, look_s=look_s, return_s=return_s)


def _grade(client: Client) -> Grade:
    try:
        return grade_of(client.reading(), client.pods())
    except ClusterError:
        return Grade.GONE
    except Exception as error:  # of Ray, which has many kinds, while it stands still itself
        _log.info("cluster %r cannot be looked at: %s", client.cluster, quoted(error))
        return Grade.GONE


def _block_sizes(client: Client) -> dict[str, int]:
    """Tokens in a block of each model that it has heard of. Raises ClusterError."""
    models = {worker.model for worker in client.pods()}
    return {model: client._reader().question((), model=model).block_size_tokens for model in models}


def _look(client: weakref.ref[StandbyClient], closing: threading.Event, look_s: float) -> None:
    """Holds the client only while it looks: it can end."""
    while not closing.wait(look_s):
        own = client()
        if own is None:
            return
        try:
            own.judge()
        except Exception:  # or nobody would look any more
            _log.exception("%r: its clusters cannot be looked at just now", own)
        del own
