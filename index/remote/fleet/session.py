"""One life of one writer in an index that several share: its lease, its numbers, its part."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import msgspec

from kvatlas.index.remote.fleet.board import Board
from kvatlas.index.remote.fleet.renaming import Renaming
from kvatlas.index.remote.fleet.session_part import SessionPart, encode_part
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.index.view import FleetPart, WorkerView


class Session:
    """A session that has begun. One thread at a time; each call that asks the server raises RemoteIndexError,
    and SessionOver once others have ended it."""

    def __init__(
        self, board: Board, settings: SharingSettings, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._settings = settings
        self._clock_s = clock_s
        self._token = secrets.token_hex(8)
        self.number = board.begin(self._token, settings.lease_s)
        rest_s = settings.lane_rest_s
        self.lanes = Renaming(lambda: board.lease(self.number, self._token, "lanes"), rest_s, clock_s)
        self.workers = Renaming(lambda: board.lease(self.number, self._token, "workers"), rest_s, clock_s)
        self._told = b""
        self._heard_s = clock_s()

    @property
    def wakes_at_s(self) -> float:
        """When the server should hear of it again."""
        return self._heard_s + self._settings.lease_s / 3

    def tell(self, part: SessionPart | None) -> tuple[int, ...]:
        """The server hears that it lives, and its part where that has changed since (None: as before).

        Returns sessions whose lease ran out.
        """
        data = self._told
        if part is not None:
            data = encode_part(msgspec.structs.replace(part, part=self._renamed(part.part)))
        new = data if data != self._told else b""
        asked_s = self._clock_s()
        heard = self._board.beat(
            self.number, self._token, self._settings.lease_s, new, self.lanes.chunks, self.workers.chunks
        )
        self._told, self._heard_s = data, asked_s
        return tuple(number for number in heard.expired if number != self.number)

    def end(self) -> bool:
        """It is over; its lanes must still be emptied (`Board.over`)."""
        return self._board.end(self.number, self._token)

    def _renamed(self, part: FleetPart) -> FleetPart:
        self.workers.want(worker.number for worker in part.workers)
        self.lanes.want(group.lane for worker in part.workers for group in worker.groups)
        self.lanes.want(part.stores.values())
        stores = {name: self.lanes.of(lane) for name, lane in part.stores.items()}
        known = {name: lane for name, lane in stores.items() if lane is not None}
        return msgspec.structs.replace(part, workers=tuple(self._workers(part)), stores=known)

    def _workers(self, part: FleetPart) -> Iterator[WorkerView]:
        """Those that the server has numbers for."""
        for worker in part.workers:
            number = self.workers.of(worker.number)
            lanes = [self.lanes.of(group.lane) for group in worker.groups]
            if number is None:
                continue
            groups = tuple(
                group._replace(lane=lane)
                for group, lane in zip(worker.groups, lanes, strict=True)
                if lane is not None
            )
            whole = groups if len(groups) == len(worker.groups) else ()
            yield msgspec.structs.replace(worker, number=number, groups=whole)
