"""Changes to a remote index: batches of delta records, whole contents of lanes, and the bound on blocks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvatlas.index._native import remote_lanes_of, remote_pack
from kvatlas.index.errors import InputError
from kvatlas.index.remote.compact.lane_map import CLOSED, LANES_MAX, LOSSY, mark_commands, mark_of, number_of
from kvatlas.index.remote.compact.opening import join_buckets, open_index
from kvatlas.index.remote.compact.placing import ANY, Change, Places
from kvatlas.index.remote.compact.server import Server, command
from kvatlas.index.remote.connection.commands import Argument, Command, Packed

_CALLS_PER_TRIP = 64
_TRIMS_PER_TRIP = 16
TRIM_SEGMENTS = 8
_AGAIN_MAX = 3

_Call = tuple[int, int, bytes, bytes, int]


class Teller:
    """One writer. REQUIRES: calls take turns."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.places = Places(server)
        self.lives: list[bytes] = []
        self._has_told = False
        self.begins = 0
        """Times that it has begun: physical lanes of before are nobody's."""
        self._sent: dict[int, int] = {}
        """Calls that each bucket has answered."""
        self.over: dict[int, int] = {}
        """Blocks by which buckets are beyond their bound."""
        self.lossy: set[int] = set()
        """Physical lanes that the bound has cost something, not yet marked."""

    def require_begun(self) -> None:
        """Begins where it never has. Raises ResyncNeeded where `begin` failed after something was told."""
        if not self.lives:
            if self._has_told:
                raise self.places.lost("an index that was begun again")
            self.begin(self.places.session)

    def begin(self, session: int) -> None:
        """Finds or makes the index; all that was told before counts no more."""
        self.lives = []
        self.begins += 1
        self.places.session = session
        self._sent.clear()
        self.over.clear()
        self.lossy.clear()
        index_id = open_index(self._server)
        lives = join_buckets(self._server)
        self.places.begin(index_id)
        self.lives = lives
        self._has_told = True

    def apply(self, delta: bytes) -> None:
        """One round trip, where all lanes are known and no other writer has changed any meanwhile."""
        keyed, cleared, closed = remote_lanes_of(delta)
        places = self.places
        claimed = sorted({*keyed, *(lane for lane, is_closed in closed if is_closed)} - set(cleared))
        refilled = sorted({*keyed, *(lane for lane, is_closed in closed if is_closed)} & set(cleared))
        places.claim(claimed, len(refilled))
        changes = self._changes(refilled, cleared, dict(closed))
        fresh = {change.lane: change.phys for change in changes if change.phys not in (0, ANY)}
        for _ in range(_AGAIN_MAX):
            held = places.map.phys_of
            phys_of = {lane: fresh.get(lane, held.get(lane, 0)) for lane in keyed}
            self._apply_to(delta, {lane: phys for lane, phys in phys_of.items() if phys}, changes)
            changes, fresh = [], {}
            if all(places.map.phys_of.get(lane) == phys for lane, phys in phys_of.items()):
                return
            # Another writer has given a lane another physical one meanwhile: what was told goes there too.
            places.claim(keyed)

    def _changes(
        self, refilled: Sequence[int], cleared: Sequence[int], closed: Mapping[int, bool]
    ) -> list[Change]:
        places = self.places
        fresh = dict(zip(refilled, places.numbers(len(refilled)), strict=True))
        changes = [
            Change(lane, fresh.get(lane, 0), flags=CLOSED * closed.get(lane, False)) for lane in cleared
        ]
        for lane, is_closed in closed.items():
            if lane not in fresh and places.map.flags.get(lane, 0) & CLOSED != CLOSED * is_closed:
                changes.append(Change(lane, flags=CLOSED * is_closed, which=CLOSED))
        return changes

    def _apply_to(self, delta: bytes, phys_of: dict[int, int], changes: Sequence[Change]) -> None:
        names = self._server.names
        calls = remote_pack(delta, phys_of, names.n_buckets, names.namespace)
        if not calls and not changes:
            return
        expected = self.places.map.version
        first: list[Command] = [self.places.flip_command(changes)] if changes else []
        for trip in _trips(calls):
            answers = self._trip(trip, first, phys_of)
            if first:
                self.places.flipped(answers[0])
                expected += 1
            mark = mark_of(answers[-2:])
            if mark[0] != self.places.id:
                raise self.places.lost("the index")
            if first or mark[1] != expected:
                self.places.read()
                expected = self.places.map.version
            first = []

    def _trip(
        self, calls: Sequence[_Call], first: Sequence[Command], phys_of: Mapping[int, int]
    ) -> list[bytes]:
        """One round trip: what goes first, calls of the script, trims that are due, and the map's mark."""
        session = self.places.session
        sent = dict(self._sent)
        highest = max(phys_of.values(), default=0)
        commands: list[Command] = []
        for call in calls:
            number = sent[call[0]] = sent.get(call[0], 0) + 1
            commands.append(self._call(call, session, number if session else 0, highest))
        trims = self._trims()
        trim_commands = [self.trim_command(bucket) for bucket in trims]
        marks = mark_commands(self._server)
        answers = self._server.tell([*first, *commands, *trim_commands, *marks])
        at = len(first)
        for (bucket, *_), answer in zip(calls, answers[at:], strict=False):
            self._told(bucket, answer)
        self._sent = sent  # not before: what failed is told again under the same numbers
        for bucket, answer in zip(trims, answers[at + len(calls) :], strict=False):
            self.trimmed(bucket, answer)
        return answers

    def _call(self, call: _Call, session: int, number: int, highest: int) -> Command:
        bucket, n_segments, segments, records, _n_keys = call
        names = self._server.names
        args: list[Argument] = [
            self.lives[bucket],
            session,
            number,
            self._server.lifetime_ms,
            highest,
            records,
        ]
        keys = [names.life(bucket), names.use(bucket)]
        return self._server.scripts.apply.command(keys, args, Packed(n_segments, segments))

    def _told(self, bucket: int, answer: bytes) -> None:
        if answer[:1] != b"K":
            raise self.places.lost(f"bucket {bucket}")
        added, removed, missing, foreign, blocks = map(int, answer[2:].split())
        counts = self._server.counts
        counts.adds += added
        counts.removes += removed
        counts.removes_missing += missing
        counts.foreign_values += foreign
        self._note_size(bucket, blocks)

    def _note_size(self, bucket: int, blocks: int) -> None:
        bound = self._server.bucket_blocks_max
        if bound and blocks > bound:
            self.over[bucket] = blocks - bound
        else:
            self.over.pop(bucket, None)

    def _trims(self) -> list[int]:
        # A run drops a thousand blocks at most, as one run of the other script adds at most.
        runs = (
            bucket for bucket, blocks in self.over.items() for _ in range(blocks // (TRIM_SEGMENTS * 128) + 1)
        )
        return [bucket for bucket, _ in zip(runs, range(_CALLS_PER_TRIP + _TRIMS_PER_TRIP), strict=False)]

    def check(self, buckets: Sequence[int]) -> None:
        """Raises ResyncNeeded where the server lost the index, one of these buckets, or its last calls."""
        names, session = self._server.names, self.places.session
        asked = [command(names.life(bucket), "HMGET", "id", f"seq:{session}") for bucket in buckets]
        (index_id,), *told = self._server.tell([command(names.meta, "HMGET", "id"), *asked])
        if index_id != self.places.id:
            raise self.places.lost("the index")
        for bucket, (life, number) in zip(buckets, told, strict=True):
            is_behind = session and number_of(number) < self._sent.get(bucket, 0)
            if life != self.lives[bucket] or is_behind:
                raise self.places.lost(f"bucket {bucket}")

    def trim_command(self, bucket: int) -> Command:
        server = self._server
        names = server.names
        args: list[Argument] = [
            self.lives[bucket],
            server.lifetime_ms,
            server.bucket_blocks_max,
            TRIM_SEGMENTS,
            names.segments(bucket),
        ]
        return server.scripts.trim.command([names.life(bucket), names.use(bucket)], args)

    def trimmed(self, bucket: int, answer: bytes) -> None:
        """What a trim has answered."""
        if answer[:1] != b"K":
            raise self.places.lost(f"bucket {bucket}")
        blocks, evicted = struct.unpack_from("<II", answer, 1)
        self._server.counts.evicted_blocks += evicted
        self.lossy.update(struct.unpack(f"<{(len(answer) - 9) // 4}I", answer[9:]))
        self._note_size(bucket, blocks)

    def mark_lossy(self) -> None:
        """Says of lanes that lost blocks for the bound that they are not complete."""
        if self.lossy:
            lanes = self.places.lanes_of(self.lossy)
            self.places.flip([Change(lane, flags=LOSSY, which=LOSSY) for lane in lanes])
            self.lossy.clear()

    def fill(self, delta: bytes, phys_of: dict[int, int]) -> Iterator[None]:
        """Adds records under physical lanes that nobody sees yet, a round trip a step."""
        names = self._server.names
        for trip in _trips(remote_pack(delta, phys_of, names.n_buckets, names.namespace)):
            if trip:
                self._trip(trip, [], phys_of)
                yield

    def remove(self, lanes: Sequence[int]) -> None:
        self.places.flip([Change(lane, 0) for lane in lanes])


def check_lanes(lanes: Sequence[int], delta: bytes) -> tuple[set[int], dict[int, bool]]:
    """Lanes of a content that have keys, and which are closed. Raises InputError for others than `lanes`."""
    check_numbers(lanes)
    keyed, cleared, closed = remote_lanes_of(delta)
    others = {*keyed, *cleared, *(lane for lane, _ in closed)} - set(lanes)
    if others:
        raise InputError(f"delta: expected records of the lanes to replace, got one of lane {min(others)}")
    return set(keyed), dict(closed)


def check_numbers(lanes: Iterable[int]) -> None:
    """Raises InputError for what is no lane."""
    for lane in lanes:
        if not 0 <= lane < LANES_MAX:
            raise InputError(f"lane: expected 0 to {LANES_MAX - 1}, got {lane}")


def _trips(calls: Sequence[_Call]) -> Iterable[Sequence[_Call]]:
    """As many calls as go in one round trip; one without any where there are none."""
    return [calls[i : i + _CALLS_PER_TRIP] for i in range(0, max(1, len(calls)), _CALLS_PER_TRIP)]
