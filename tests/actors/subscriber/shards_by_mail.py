"""Real shards behind a post that loses, repeats and delays: for tests of outboxes, without sockets."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from kvatlas.actors.link.link import LinkError
from kvatlas.actors.orders import Layout, Replica, ShardAsks
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.index._native import Source

SETTINGS = ShardSettings(table_bytes_max=4 << 20, shared_memory_folder="")


@dataclass
class Letter:
    """A request on its way."""

    to: int
    """Incarnation."""
    frame: bytes
    answer: Future[bytes] = field(default_factory=Future)

    def fail(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(LinkError("lost"))


class MailLink:
    """A link whose requests wait in the post."""

    def __init__(self, post: Post, incarnation: int) -> None:
        self._post = post
        self._incarnation = incarnation

    def request(self, frame: bytes, timeout_s: float) -> Future[bytes]:
        letter = Letter(self._incarnation, frame)
        self._post.letters.append(letter)
        return letter.answer

    def close(self) -> None:
        for letter in self._post.letters:
            if letter.to == self._incarnation:
                letter.fail()


class Post:
    """Shards by incarnation, and what is on its way to them."""

    def __init__(self) -> None:
        self.shards: dict[int, ShardService] = {}
        self.letters: list[Letter] = []
        self.stale: list[Letter] = []
        """Given up by their senders, and not arrived yet."""
        self._next_incarnation = 1

    def open_link(self, replica: Replica) -> MailLink:
        return MailLink(self, replica.incarnation)

    def start(self, layout: int, shard: int, replica: int) -> Replica:
        """A new, empty process."""
        incarnation, self._next_incarnation = self._next_incarnation, self._next_incarnation + 1
        asks = ShardAsks(layout=layout, shard=shard, replica=replica, actor=f"{incarnation}", node_id="n")
        self.shards[incarnation] = ShardService("c", asks, incarnation, SETTINGS)
        return self.replica(incarnation)

    def replica(self, incarnation: int) -> Replica:
        return self.shards[incarnation].report(f"mail://{incarnation}").replica

    def kill(self, incarnation: int) -> None:
        self.shards.pop(incarnation).close()
        for letter in self.letters:
            if letter.to == incarnation:
                letter.fail()

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()

    # What happens to a letter. Those of the dead are lost.

    def deliver(self, letter: Letter) -> None:
        shard = self.shards.get(letter.to)
        reply = shard.handle(letter.frame) if shard is not None else None
        if reply is None:
            letter.fail()
        elif not letter.answer.done():
            letter.answer.set_result(reply)

    def take(self, at: int) -> Letter:
        return self.letters.pop(at % len(self.letters))


@dataclass
class Plan:
    """A layout as the directory would announce it."""

    number: int
    n_shards: int
    replicas: list[Replica] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return Layout(number=self.number, n_shards=self.n_shards, replicas=tuple(self.replicas))


def held(table: Source, keys: list[int]) -> dict[tuple[int, int], int]:
    """Tier bits by (lane, key)."""
    found = table.lookup(np.array(keys, np.uint64))
    return {
        (lane, key): tiers
        for key, holders in zip(keys, found, strict=True)
        for lane, tiers in holders
        if tiers
    }
