"""A shard's service, and short ways to talk to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Message, decode_message
from kvatlas.actors.orders import ShardAsks
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from tests.models.table import ADD, Record, delta

ASKS = ShardAsks(layout=1, shard=2, replica=0, actor="c/shard/1-2-0", node_id="n")
INCARNATION = 7
KEYS = tuple(range(1, 40))


def settings(folder: str = "") -> ShardSettings:
    return ShardSettings(table_bytes_max=4 << 20, shared_memory_folder=folder, heartbeat_s=0.05)


def service(folder: str = "") -> ShardService:
    return ShardService("c", ASKS, INCARNATION, settings(folder))


def adds(lane: int, *keys: int) -> Record:
    return Record(ADD, lane, 1, keys)


def array(keys: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(keys, dtype=np.uint64)


class Talk:
    """What one session says to a service, and the answers taken apart."""

    def __init__(self, shard: ShardService, session: int) -> None:
        self.shard, self.session = shard, session

    def ask(self, frame: bytes) -> Message:
        return decode_message(self.shard.handle(frame))

    def hello(self) -> Message:
        return self.ask(messages.hello(self.shard.address, self.session))

    def delta(self, number: int, *records: Record) -> Message:
        return self.ask(messages.delta(self.shard.address, self.session, number, delta(records)))

    def content(
        self, number: int, lanes: Sequence[int], *records: Record, first: bool = True, last: bool = True
    ) -> Message:
        frame = messages.content(
            self.shard.address, self.session, number, lanes, delta(records), first=first, last=last
        )
        return self.ask(frame)

    def fetch(self, keys: Sequence[int]) -> Message:
        return self.ask(messages.fetch(self.shard.address, array(keys)))


def holders(shard: ShardService, keys: Sequence[int] = KEYS) -> list[dict[int, int]]:
    return [dict(lanes) for lanes in shard.table.lookup(array(keys))]
