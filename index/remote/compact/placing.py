"""Which physical lanes a writer's lanes are on the server: claimed, changed, given up."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.compact.lane_map import CLOSED, LOSSY, NO_LANES, LaneMap, lane_map_of, read_commands
from kvatlas.index.remote.compact.server import Server
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.resync import ResyncNeeded, SessionOver

ANY = 0xFFFFFFFF
"""As a physical lane: as it is; as the expected one: whatever it is."""
_CHANGE = struct.Struct("<IIIBB")
_NUMBERS = 64


class Change(NamedTuple):
    """What becomes of one lane."""

    lane: int
    phys: int = ANY
    """0: it has none any more."""
    expected: int = ANY
    flags: int = 0
    which: int = CLOSED | LOSSY
    """The flags that are set; the others stay as they are, where the physical lane does."""


class Places:
    """One writer's view of the lane map. REQUIRES: calls take turns."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.map: LaneMap = NO_LANES
        self.id = b""
        self.session = 0
        self._numbers: list[int] = []

    def begin(self, index_id: bytes) -> None:
        """All that was known is of another index, or another session."""
        self.map, self.id = NO_LANES, index_id
        self._numbers.clear()
        self.read()

    def read(self) -> None:
        """One round trip. Raises ResyncNeeded where the index is another."""
        self.take(self._server.tell(read_commands(self._server)))

    def take(self, answers: list[list[bytes | None]]) -> None:
        """The answers to `read_commands`."""
        lanes = lane_map_of(self._server, answers)
        if lanes.id != self.id or lanes.version < self.map.version:
            raise self.lost("its lane map")
        self.map = lanes

    def claim(self, lanes: Iterable[int], n_numbers: int = 0) -> None:
        """Gives lanes a physical one where they have none, and has numbers ready. One round trip, or none."""
        missing = [lane for lane in lanes if lane not in self.map.phys_of]
        further = 0 if len(self._numbers) >= n_numbers else max(_NUMBERS, n_numbers)
        if not missing and not further:
            return
        content = struct.pack(f"<{len(missing)}I", *missing)
        names = self._server.names
        keys = [names.meta, names.lanes, names.version, names.sessions]
        claim = self._server.scripts.claim.command(keys, [self.id, self.session, further, content])
        answer, *read = self._server.tell([claim, *read_commands(self._server)])
        self._check(answer)
        if further:
            first = struct.unpack_from("<I", answer, 1)[0]
            self._numbers = list(range(first, first + further))
        self.take(read)
        if not self._has(missing):
            self.read()  # where the server lacked the script, this was read before it ran
            if not self._has(missing):
                raise self.lost("its lane map")

    def _has(self, lanes: Iterable[int]) -> bool:
        return all(lane in self.map.phys_of for lane in lanes)

    def numbers(self, count: int) -> list[int]:
        """Physical lanes that nobody has. REQUIRES: so many are ready."""
        return [self._numbers.pop() for _ in range(count)]

    def flip_command(self, changes: Sequence[Change]) -> Command:
        names = self._server.names
        keys = [names.meta, names.lanes, names.version, names.sessions, names.dead]
        content = b"".join(_CHANGE.pack(*change) for change in changes)
        return self._server.scripts.flip.command(keys, [self.id, self.session, content])

    def flip(self, changes: Sequence[Change]) -> list[int]:
        """Executes them all at once; the physical lanes that the lanes have now."""
        if not changes:
            return []
        answer, *read = self._server.tell([self.flip_command(changes), *read_commands(self._server)])
        now = self.flipped(answer)
        self.take(read)
        return now

    def flipped(self, answer: bytes) -> list[int]:
        """What a flip has answered."""
        self._check(answer)
        return list(struct.unpack(f"<{(len(answer) - 1) // 4}I", answer[1:]))

    def lanes_of(self, physical: Iterable[int]) -> list[int]:
        """The lanes that have one of these."""
        wanted = set(physical)
        return [lane for lane, phys in self.map.phys_of.items() if phys in wanted]

    def lost(self, what: str) -> ResyncNeeded:
        return ResyncNeeded(
            f"{self._server.where}: expected {what} as this writer left it, got another or none: "
            "the server was emptied, restarted or lost its last writes"
        )

    def _check(self, answer: bytes) -> None:
        if answer[:1] == b"K":
            return
        if answer[:1] == b"L":
            raise self.lost("the index")
        if answer[:1] == b"O":
            raise SessionOver(
                f"{self._server.where}: expected session {self.session} among those that go on, it is over"
            )
        raise RemoteIndexError(
            f"{self._server.where}: expected a physical lane below 2^24, all are used: change the namespace"
        )
