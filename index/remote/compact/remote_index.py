"""An index in Redis or Valkey, in kvatlas's own format.

Many processes write and read one index: each lane is written by one of them, or by several that say the
same. What a match sees of a lane is true at some moment of the match; a lane that is cleared, replaced or
removed changes at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Excerpt, Index, Roster, content_of, deltas_of
from kvatlas.index.errors import DumpError, InputError
from kvatlas.index.remote.compact.asking import Asker
from kvatlas.index.remote.compact.lane_map import CLOSED, LOSSY, number_of
from kvatlas.index.remote.compact.placing import Change
from kvatlas.index.remote.compact.server import Server, command
from kvatlas.index.remote.compact.telling import Teller, check_lanes, check_numbers
from kvatlas.index.remote.compact.tending import Keeper
from kvatlas.index.remote.compact.walking import content_of_index, find_keys
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.shards import Matches, Strategy, match

_LIFE_COUNTS = (b"blocks", b"expired_blocks", b"evicted_blocks", b"vanished_segments", b"foreign")


class RemoteIndex:
    """A BlockIndex on a server. Any thread may call any method; changes of one process take turns.

    Every method raises RemoteIndexError when the server cannot be asked in time, is full, or holds what is
    not ours. Changes raise ResyncNeeded when the server has lost what this writer told before: `begin`, then
    `replace` all lanes.
    """

    n_shards = 1

    def __init__(
        self, connection: RemoteConnection, settings: RemoteSettings, roster: Roster | None = None
    ) -> None:
        """Asks nobody yet."""
        self.roster = Roster() if roster is None else roster
        self._server = Server(connection, settings)
        self._asker = Asker(self._server)
        self._teller = Teller(self._server)
        self._keeper = Keeper(self._server, self._teller, self._asker)
        self._turn = threading.RLock()

    @property
    def version_seen(self) -> int:
        """The newest version of lanes and fleet that came with any answer."""
        return self._asker.version_seen

    # --- changes ------------------------------------------------------------------------------------------

    def begin(self, session: int = 0) -> None:
        """Changes from now on are this session's; 0: nobody's, and lost batches are not noticed.

        Makes the index where there is none. Raises RemoteIndexError where it is of another format or size.
        """
        with self._turn:
            self._teller.begin(session)
            self._asker.forget()

    def apply(self, deltas: Sequence[bytes]) -> None:
        """Apply delta records, one buffer; one round trip where lanes are known. InputError when malformed.

        A call that failed may be applied in part; the same one, or `replace` of its lanes, puts that right.
        """
        if len(deltas) != 1:
            raise InputError(f"deltas: expected 1 buffer, got {len(deltas)}")
        if deltas[0]:
            with self._turn:
                self._begun().apply(deltas[0])

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """All that these lanes hold becomes what the delta leaves in empty ones, seen all at once.

        Other changes have their turns meanwhile. A lane that one of them clears stays empty.
        """
        keyed, closed = check_lanes(lanes, delta)
        begun, before = self._before()
        phys_of = self._fresh(begun, sorted(keyed))
        self._fill(begun, delta, phys_of)
        self._show(
            begun, lanes, before, phys_of, {lane: CLOSED for lane, is_closed in closed.items() if is_closed}
        )

    def _before(self) -> tuple[int, dict[int, int]]:
        """What lanes are physically before others take their place, and under which beginning."""
        with self._turn:
            teller = self._begun()
            teller.places.read()
            return teller.begins, dict(teller.places.map.phys_of)

    def _check(self, begun: int) -> None:
        if self._teller.begins != begun:
            raise self._teller.places.lost("the index")

    def _fresh(self, begun: int, lanes: Sequence[int]) -> dict[int, int]:
        with self._turn:
            self._check(begun)
            places = self._teller.places
            places.claim((), len(lanes))
            return dict(zip(lanes, places.numbers(len(lanes)), strict=True))

    def _fill(self, begun: int, delta: bytes, phys_of: dict[int, int]) -> None:
        steps = self._teller.fill(delta, phys_of)
        while True:
            with self._turn:
                self._check(begun)
                if next(steps, "end") == "end":
                    return

    def _show(
        self,
        begun: int,
        lanes: Iterable[int],
        before: dict[int, int],
        phys_of: dict[int, int],
        flags: dict[int, int],
    ) -> None:
        changes = [
            Change(lane, phys_of.get(lane, 0), before.get(lane, 0), flags.get(lane, 0))
            for lane in dict.fromkeys(lanes)
        ]
        with self._turn:
            self._check(begun)
            self._teller.places.flip(changes)

    def remove_lane(self, lane: int) -> None:
        """The lane holds nothing more: one short script, however much it held."""
        self.remove_lanes([lane])

    def remove_lanes(self, lanes: Sequence[int]) -> None:
        """All of these at once. Raises InputError for what is no lane."""
        check_numbers(lanes)
        with self._turn:
            self._begun().remove(lanes)

    def tend(self) -> None:
        """A small step of what keeps the index within its bounds; each writer calls it every second or so."""
        with self._turn:
            self._begun()
            self._keeper.step()

    def touch(self) -> None:
        """Tells which segments matches of this process used, a sample; for readers, who do not `tend`."""
        with self._turn:
            self._keeper.touch()

    def _begun(self) -> Teller:
        self._teller.require_begun()
        return self._teller

    # --- questions ----------------------------------------------------------------------------------------

    def fetch(self, parts: Sequence[npt.NDArray[np.uint64]]) -> Excerpt:
        """What is held of chains of keys, each from its start; one round trip for all of them."""
        return self._asker.fetch(parts)

    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """Match a chain of block keys [n_blocks]; see `ShardedIndex.match`.

        `is_whole` is False while the server lacks content that it had when it was asked before.
        """
        excerpt = self.fetch([keys])
        found = match(
            Index([excerpt], self.roster), keys, allowed, prompt_tokens, block_size_tokens, strategy
        )
        return found._replace(is_whole=excerpt.whole)

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """For each key of a chain, from its start, the lanes that hold it and their tier bits."""
        return self.fetch([keys]).lookup(keys)

    def find(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """The same for keys from anywhere. For tools: it walks the whole index."""
        return find_keys(self._server, keys)

    # --- all of it ----------------------------------------------------------------------------------------

    def statistics(self) -> list[dict[str, Any]]:
        """One dict: what the server holds, since it was made; what this process has counted."""
        names = self._server.names
        lives = [command(names.life(bucket), "HMGET", *_LIFE_COUNTS) for bucket in range(names.n_buckets)]
        sizes = [command(names.lanes, "HLEN"), command(names.dead, "SCARD")]
        *rows, lanes, dead = self._server.tell([*lives, *sizes])
        held = {name.decode(): sum(number_of(row[i]) for row in rows) for i, name in enumerate(_LIFE_COUNTS)}
        entries = held.pop("blocks")
        counts = msgspec.structs.asdict(self._server.counts)
        of_server = {f"server_{name}": count for name, count in held.items()}
        return [{"entries": entries, "lanes": lanes, "dead_lanes": dead, **of_server, **counts}]

    def export(self) -> Iterator[bytes]:
        """All that is held, as content records (docs/dump_format.md).

        Not of one instant: lanes are those of the beginning, each segment is of some moment after that.
        """
        return content_of_index(self._server)

    def load(self, content: Iterable[bytes]) -> None:
        """Every lane that these content records name holds what they say; all of them at once, at the end.

        Raises DumpError for what is no content, or does not say its segments, and changes nothing.
        """
        begun, before = self._before()
        phys_of: dict[int, int] = {}
        flags: dict[int, int] = {}
        for section in content:
            view = content_of(section)
            if not view.knows_tags:
                raise DumpError(
                    f"content: expected blocks by segments, as {self._server.where} keeps them, got none"
                )
            lanes = [int(lane) for lane in view.lanes]
            phys_of.update(self._fresh(begun, [lane for lane in lanes if lane not in phys_of]))
            for lane in map(int, view.closed):
                flags[lane] = flags.get(lane, 0) | CLOSED
            for lane in map(int, view.lossy):
                flags[lane] = flags.get(lane, 0) | LOSSY
            self._fill(begun, deltas_of(section, None, 1)[0], phys_of)
        self._show(begun, phys_of, before, phys_of, flags)

    def close(self) -> None:
        """The connection is its maker's, and stays."""
