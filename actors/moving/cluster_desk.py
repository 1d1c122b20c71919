"""A running cluster as a cut must know it: directory and subscribers by Ray, shards by their links."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import ray

from kvatlas.actors.link.link import LinkSettings, ShardLink
from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import NAMESPACE, ClusterView, ReaderSecrets, Replica, decode, encode
from kvatlas.actors.reading.connection import DirectoryCalls
from kvatlas.actors.subscriber.holding import HoldAsks, HoldReport
from kvatlas.index.errors import ClusterError


class ClusterDesk:
    """A CutDesk. This process must be connected to Ray. One thread at a time; `close` when done."""

    def __init__(self, calls: DirectoryCalls, settings: LinkSettings | None = None) -> None:
        """Raises ClusterError where the directory does not answer."""
        self.calls = calls
        self.secrets = calls.ask("secrets", ReaderSecrets)
        self._links = Links(self.secrets.keys if self.secrets.keys.client_secret else None, settings)
        self._open: dict[int, ShardLink] = {}
        self._subscribers: dict[str, Any] = {}

    def view(self) -> ClusterView:
        """The newest one, with all parts."""
        return self.calls.ask("view", ClusterView, 0, 0.0)

    def hold(self, subscriber: str, asks: HoldAsks) -> Future[HoldReport]:
        asked: Future[bytes] = self._subscriber(subscriber).hold.remote(encode(asks)).future()
        return _then(asked, lambda told: decode(told, HoldReport))

    def release(self, subscriber: str, token: int) -> Future[bool]:
        asked: Future[bool] = self._subscriber(subscriber).release.remote(token).future()
        return asked

    def link(self, replica: Replica) -> ShardLink:
        link = self._open.get(replica.incarnation)
        if link is None:
            link = self._open[replica.incarnation] = self._links.open(replica)
        return link

    def close(self) -> None:
        """Let go of all links. Twice is fine."""
        for link in self._open.values():
            link.close()
        self._links.close()

    def __enter__(self) -> ClusterDesk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _subscriber(self, name: str) -> Any:
        handle = self._subscribers.get(name)
        if handle is None:
            actor = f"{self.calls.cluster}/subscriber/{name}"
            try:
                handle = ray.get_actor(actor, namespace=NAMESPACE)
            except ValueError as error:
                raise ClusterError(f"subscriber {name}: expected its actor {actor!r}, found none") from error
            self._subscribers[name] = handle
        return handle


def _then(asked: Future[bytes], made: Any) -> Future[Any]:
    """A future of what is made of the answer."""
    answer: Future[Any] = Future()

    def take(done: Future[bytes]) -> None:
        try:
            answer.set_result(made(done.result()))
        except BaseException as error:
            answer.set_exception(error)

    asked.add_done_callback(take)
    return answer
