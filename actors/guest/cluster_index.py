"""A cluster's shards as a `BlockIndex`: for whoever writes residency without ZeroMQ events."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.guest.shards_reading import ShardsReading
from kvatlas.actors.link.messages import Address
from kvatlas.actors.moving.shard_export import ShardExport, end_exports
from kvatlas.actors.orders import ClusterView, Replica
from kvatlas.actors.reading.replicas import OpenLink
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index._native import Roster
from kvatlas.index.errors import ClusterError, InputError
from kvatlas.index.shards import Matches, Strategy
from kvatlas.index.view import FleetPart
from kvatlas.ingest.numbering import LeasedNumbers


class ClusterIndex:
    """Writes as one session, in lanes that are its own; reads what all sessions hold.

    Any thread may call any method. What was told is sent again to shards that are new or have missed
    something, from a copy in this process. Satisfies `kvatlas.index.block_index.BlockIndex`; `replace`
    shows readers an empty lane for the moment in between, and an `export` is of one instant for what is
    told here, for others of one instant a shard (`kvatlas dump` has all of one).
    """

    n_shards = 1

    def __init__(
        self,
        service: GuestService,
        open_link: OpenLink,
        *,
        node_id: str,
        timeout_s: float = 10.0,
        settings: ReaderSettings | None = None,
    ) -> None:
        """`service`: started, or about to be, by an `Attendance`; closed by whoever made it. `timeout_s`:
        for the shards' answers to one call."""
        self.roster = Roster()
        self._service = service
        self._open_link = open_link
        self._timeout_s = timeout_s
        self._reading = ShardsReading(node_id, open_link, self.roster, settings)
        self._writing = threading.Lock()
        service.tell_views(self.follow)

    def follow(self, view: ClusterView) -> None:
        """Read the shards of this view."""
        self._reading.follow(view)

    # Its lanes, and whose they are.

    @property
    def numbers(self) -> LeasedNumbers:
        """Gives lanes and worker numbers; more are lent within a second of few being left."""
        return self._service.numbers

    @property
    def hash_seed(self) -> str:
        """What block keys of this cluster are made with."""
        return self._service.hash_seed

    def set_part(self, part: FleetPart) -> None:
        """Say whose the lanes are: else no client matches them. Workers of whom a subscriber has heard
        itself stay that one's."""
        self._service.set_part(part)

    # Writing.

    def apply(self, deltas: Sequence[bytes]) -> None:
        """Returns when every shard has it. Raises InputError for lanes that are not its own, or when
        malformed; ClusterError when the shards do not answer in time: it is sent on all the same."""
        if len(deltas) != 1:
            raise InputError(f"deltas: expected 1 buffer, got {len(deltas)}")
        with self._writing:
            self._service.tell(deltas[0])
        self._service.wait_delivered(self._timeout_s)

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """As `BlockIndex.replace`, but readers may see the lanes empty, or filled in part, meanwhile."""
        with self._writing:
            self._service.replace(lanes, delta)
        self._service.wait_delivered(self._timeout_s)

    def remove_lane(self, lane: int) -> None:
        with self._writing:
            self._service.remove_lanes([lane])
        self._service.wait_delivered(self._timeout_s)

    def load(self, content: Iterable[bytes]) -> None:
        """All or nothing. Raises DumpError for what is no content, InputError where it names lanes that are
        not its own."""
        with self._writing:
            self._service.load(content)
        self._service.wait_delivered(self._timeout_s)

    # Reading.

    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """As `BlockIndex.match`; shards on this node are read in shared memory, others are asked."""
        return self._reading.look(
            keys,
            lambda index: index.match(
                keys,
                allowed,
                prompt_tokens=prompt_tokens,
                block_size_tokens=block_size_tokens,
                strategy=strategy,
            ),
        )

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        return self._reading.look(keys, lambda index: index.lookup(keys))

    def statistics(self) -> list[dict[str, Any]]:
        """Of what this session has told: its copy's table, and its way to the shards."""
        sent = self._service.statistics()
        way = {"replicas": sent.replicas, "loaded": sent.loaded, "queued_bytes": sent.queued_bytes}
        return [{**self._service.told.statistics(), **way, **sent.counts}]

    def export(self) -> Iterator[bytes]:
        """What all sessions hold. Raises ClusterError when a shard has nobody to ask, does not answer, or is
        being filled."""
        number = secrets.randbits(63) | 1
        with contextlib.ExitStack() as opened:
            exports = [self._export_of(replica, number, opened) for replica in self._one_a_shard()]
            opened.callback(end_exports, exports)
            with self._writing:  # nothing of ours is on its way
                self._service.wait_delivered(self._timeout_s)
                for export, answer in [(export, export.begin()) for export in exports]:
                    export.begun(answer)
            for export in exports:
                yield from export.sections()

    def _one_a_shard(self) -> list[Replica]:
        layout = self._reading.layout
        replicas = {one.shard: one for one in sorted(layout.replicas, key=lambda replica: replica.whole)}
        missing = set(range(layout.n_shards)) - replicas.keys()
        if missing:
            raise ClusterError(f"export: expected a process for every shard, shard {min(missing)} has none")
        return [replicas[shard] for shard in range(layout.n_shards)]

    def _export_of(self, replica: Replica, number: int, opened: contextlib.ExitStack) -> ShardExport:
        address = Address(self._reading.layout.number, replica.shard, replica.incarnation)
        link = opened.enter_context(contextlib.closing(self._open_link(replica)))
        return ShardExport(link, address, number, self._timeout_s)

    def close(self) -> None:
        """Let go of the shards. Twice is fine."""
        self._reading.close()
