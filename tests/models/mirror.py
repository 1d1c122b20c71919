"""One worker's cache as its events tell it, in plain Python: the model of the native mirror.

It keeps what is asked of it and no more: what an engine key means, and how many copies of it lie
where. What is resident is worked out anew from that, so nothing incremental can go wrong; and so
is what it claims of its own exactness, but for what it has forgotten, which is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kvatlas.ingest.wire.events import BlockRemoved, BlockStored
from tests.models.block_keys import Keyspace
from tests.models.meaning import Meaning, Step, chain_start, extend, resident
from tests.models.reports import FULL_ATTENTION, is_sparse, true_copies

GPU, CPU, DISK, STORAGE, UNKNOWN = 1, 2, 4, 8, 16
UNPLACED = Meaning((), (), 0, (), None, unindexed="unplaced")
"""Of a block that only its name is known of."""

Copy = tuple[int, int, int]
"""Engine key, tier and group."""


def tier_of(medium: str | None, locality: str | None) -> int:
    name = "GPU" if medium is None else medium.upper()
    if name == "STORAGE" and locality is not None and locality.upper() == "LOCAL":
        return DISK
    tiers = {"GPU": GPU, "CPU": CPU, "CPU_PINNED": CPU, "DISK": DISK}
    tiers.update({"STORAGE": STORAGE, "EXTERNAL": STORAGE})
    return tiers.get(name, UNKNOWN)


@dataclass(frozen=True)
class Limits:
    """How much a mirror keeps of what is not held, and a store at all."""

    ghosts: int = 8192
    orphans: int = 4096
    stored: int = 1 << 20


@dataclass
class Orphan:
    """A store that waits for its parent."""

    event: BlockStored
    cancelled: set[int] = field(default_factory=set)
    """Positions of blocks that were removed while they waited."""


class Mirror:
    """The blocks of one worker, on its device and in its own memory."""

    def __init__(
        self,
        space: Keyspace,
        lora_names: Mapping[int, str],
        counts: Counter[str],
        stored_meaning: Callable[[int], Meaning | None],
        limits: Limits,
    ) -> None:
        self.space = space
        self.lora_names = lora_names
        self.counts = counts
        self.stored_meaning = stored_meaning
        """What the stores that the worker is attached to know of an engine key."""
        self.limits = limits
        self.meanings: dict[int, Meaning] = {}
        self.ghosts: list[int] = []
        """Known but not held; the longest not held first."""
        self.copies: dict[Copy, int] = {}
        self.uncounted_ever: set[Copy] = set()
        """Of which a report or a true copy came, and nobody knows which."""
        self.maybe_cpu: set[Copy] = set()
        """Perhaps still held, perhaps lost with a clear: not resident."""
        self.more_cpu: set[Copy] = set()
        """Stored twice there: a removal does not prove that it is gone."""
        self.more: set[tuple[int, int]] = set()
        """Engine key and group of blocks of which the device may hold more copies than counted."""
        self.stale: set[Copy] = set()
        """Held, unless what was lost of the stream removed it."""
        self.incomplete = False
        """Doubted since the device was last known to be empty."""
        self.true_copies: list[int] = []
        """Events of the batch from parent nil that are no reports, by identity."""
        self.clears = 0
        self.lost: Counter[str] = Counter()
        """Blocks announced and not kept, and doubts about blocks since forgotten; by claim."""
        self.orphans: list[Orphan] = []
        self.kinds: dict[int, str | None] = {}
        self.learned: dict[int, Meaning] = {}  # for stores: of blocks placed since somebody has looked
        self.told_full: set[int] = set()  # full groups; those of before a restart until any is named
        self.fresh: set[int] = set()
        """Blocks of which a dense store of this batch brought the first device copy."""

    # What is asked.

    def residency(self, group: int) -> dict[int, int]:
        masks: dict[int, int] = {}
        for tier in (GPU, CPU, UNKNOWN):
            held = {key for key, t, g in self.copies if (t, g) == (tier, group)}
            for block_key in resident(self.meanings, held.__contains__):
                masks[block_key] = masks.get(block_key, 0) | tier
        return masks

    def full_groups(self) -> list[int]:
        return sorted(group for group, kind in self.kinds.items() if kind in FULL_ATTENTION)

    def claims(self) -> dict[str, int]:
        unsure = [block for block in self.more if (block[0], GPU, block[1]) not in self.copies]
        unindexed = {(key, group) for key, _, group in self.copies if self.meanings[key].unindexed}
        return {
            "maybe_gpu": len(unsure) + self.lost["maybe_gpu"],
            "maybe_cpu": len(self.maybe_cpu) + self.lost["maybe_cpu"],
            "orphans_waiting": self._waiting(),
            "lost_blocks": self.lost["lost_blocks"],
            "lost_offloaded": self.lost["lost_offloaded"],
            "lost_stored": self.lost["lost_stored"],
            "unindexed_held": len(unindexed),
            "unlinked_parts": 0,
            "stale": len(self.stale),
            "gpu_copies": sum(n for (_, tier, _), n in self.copies.items() if tier == GPU),
            "extras_absent": self.lost["extras_absent"],
            "offloaded": self.lost["offloaded"],
            "clears": self.clears,
        }

    # What is told.

    def restarted(self, space: Keyspace) -> None:
        """Another incarnation of the server: nothing is known of what it holds."""
        self.space = space
        self.meanings, self.ghosts, self.copies, self.orphans = {}, [], {}, []
        self.maybe_cpu, self.more_cpu, self.more, self.stale = set(), set(), set(), set()
        self.lost = Counter(lost_stored=self.lost["lost_stored"])
        self.incomplete = False

    def doubted(self) -> None:
        """Batches were lost for good."""
        self.stale, self.incomplete = set(self.copies), True
        self.counts["orphans_dropped"] += len(self.orphans)
        self.lost["lost_blocks"] += self._waiting()
        self.orphans = []

    def resolves(self, key: int) -> bool:
        """Whether the engine key means anything here, or to a store that the worker uses."""
        if key not in self.meanings:
            meaning = self.stored_meaning(key)
            if meaning is None:
                return False
            self.meanings[key] = meaning
        return True

    def begin_batch(self, events: Sequence[object] = ()) -> None:
        self.fresh = set()
        for event in events:
            if isinstance(event, BlockStored) and event.block_hashes:
                self.name_group(event)
        lacks = self.incomplete or self.lost["lost_blocks"] or self.lost["maybe_gpu"] or self._waiting()

        def may_be_held(key: int, group: int) -> bool:
            return bool(lacks) or (key, GPU, group) in self.copies or (key, group) in self.more

        found = true_copies(events, lambda e: tier_of(e.medium, e.locality) == GPU, self.kinds, may_be_held)
        self.true_copies = list(map(id, found))

    def name_group(self, event: BlockStored) -> None:
        kind = event.kv_cache_spec_kind
        if kind is not None or event.group_idx not in self.kinds:
            self.kinds[event.group_idx] = kind

    def stored(self, event: BlockStored, tier: int) -> None:
        n, n_tokens = len(event.block_hashes), len(event.token_ids)
        if tier != GPU:
            self._stored_elsewhere(event, tier)
        elif n_tokens == 0 or event.block_size == 0:
            self._stored_known(event)
        elif n_tokens < n * event.block_size:
            self.counts["partial_block"] += 1
        elif is_sparse(event):
            self._stored_known(event)
        else:
            self._stored_dense(event)

    def removed(self, event: BlockRemoved, tier: int) -> None:
        self.lost["offloaded"] += len(event.block_hashes) if tier == CPU else 0
        for key in event.block_hashes:
            copy = (key, tier, event.group_idx)
            if self.copies.get(copy, 0) > 0:
                self.maybe_cpu |= {copy} & self.more_cpu
                self._take(copy)
            elif copy in self.maybe_cpu:
                self.maybe_cpu -= {copy} - self.more_cpu
            elif tier == GPU and self._cancel(key, event.group_idx):
                pass
            elif key not in self.meanings:
                self.counts["removed_unknown"] += 1
            else:
                self.counts["removed_not_held"] += 1

    def cleared(self) -> None:
        self.clears += 1
        self.orphans = []
        self.maybe_cpu |= {copy for copy in self.copies if copy[1] == CPU}
        self.copies = {copy: n for copy, n in self.copies.items() if copy[1] not in (GPU, CPU)}
        self.stale &= set(self.copies)
        self.more, self.fresh, self.incomplete = set(), set(), False
        self.lost["lost_blocks"] = self.lost["maybe_gpu"] = 0
        for key in list(self.meanings):
            self._settle(key)

    # How.

    def _settle(self, key: int) -> None:
        """The block's copies have changed: without any it is a ghost, and too many are forgotten."""
        if any(held == key for held, _, _ in self.copies):
            self.ghosts = [ghost for ghost in self.ghosts if ghost != key]
        elif key in self.meanings and key not in self.ghosts:
            self.ghosts.append(key)
        while len(self.ghosts) > self.limits.ghosts:
            forgotten = self.ghosts.pop(0)
            del self.meanings[forgotten]
            self.lost["maybe_gpu"] += sum(block[0] == forgotten for block in self.more)
            self.lost["maybe_cpu"] += sum(copy[0] == forgotten for copy in self.maybe_cpu)
            self.more = {block for block in self.more if block[0] != forgotten}
            self.maybe_cpu = {copy for copy in self.maybe_cpu if copy[0] != forgotten}
            self.more_cpu = {copy for copy in self.more_cpu if copy[0] != forgotten}

    def _waiting(self) -> int:
        return sum(len(orphan.event.block_hashes) - len(orphan.cancelled) for orphan in self.orphans)

    def _stored_elsewhere(self, event: BlockStored, tier: int) -> None:
        self.lost["offloaded"] += len(event.block_hashes) if tier == CPU else 0
        for key in event.block_hashes:
            copy = (key, tier, event.group_idx)
            if self.resolves(key):
                if copy in self.maybe_cpu or (tier == CPU and copy in self.copies):
                    self.more_cpu.add(copy)
                self.copies[copy] = 1
                self.maybe_cpu.discard(copy)
                self.stale.discard(copy)
                self._settle(key)
            else:
                self.counts["unresolved"] += 1
                self.lost["lost_offloaded"] += 1

    def _stored_known(self, event: BlockStored) -> None:
        """Blocks whose place the event does not tell: found by their engine keys."""
        seen: set[int] = set()
        for key in event.block_hashes:
            if not self.resolves(key) and is_sparse(event):
                self.meanings[key] = UNPLACED
            if self.resolves(key):
                self._add(key, event, seen)
            else:
                self.counts["unresolved"] += 1
                self.lost["lost_blocks"] += 1

    def placed(self, key: int | None) -> Meaning | None:
        meaning = None if key is None else self.meanings.get(key)
        return None if meaning is UNPLACED else meaning

    def _stored_dense(self, event: BlockStored) -> None:
        if event.parent_block_hash is not None:
            parent = self.placed(event.parent_block_hash)
            if parent is not None:
                self._arrive(event, parent)
            else:
                self.orphans.append(Orphan(event))
                while len(self.orphans) > self.limits.orphans:
                    before = self._waiting()
                    self.orphans.pop(0)
                    self.lost["lost_blocks"] += before - self._waiting()
                    self.counts["orphans_dropped"] += 1
            return
        lora = event.lora_name
        if lora is None and event.lora_id is not None:
            lora = self.lora_names.get(event.lora_id)
            if lora is None:
                self.counts["lora_unnamed"] += 1
                self.lost["lost_blocks"] += len(event.block_hashes)
                return
        self._arrive(event, chain_start(self.space, lora))

    def _arrive(self, event: BlockStored, parent: Meaning) -> None:
        """Place the event, then the orphans whose parent it brought, oldest first, and theirs."""
        self._place(event, parent, set())
        arrived = set(event.block_hashes)
        while True:
            ready = [o for o in self.orphans if o.event.parent_block_hash in arrived]
            if not ready:
                return
            self.orphans.remove(ready[0])
            above = self.placed(ready[0].event.parent_block_hash)
            if above is None:  # already forgotten
                self.counts["orphans_dropped"] += 1
                self.lost["lost_blocks"] += len(ready[0].event.block_hashes) - len(ready[0].cancelled)
                continue
            self._place(ready[0].event, above, ready[0].cancelled)
            arrived.update(ready[0].event.block_hashes)

    def _place(self, event: BlockStored, parent: Meaning, cancelled: set[int]) -> None:
        """Continue the chain at `parent` with the event's blocks, and hold them."""
        if event.extra_keys is None:
            self.counts["extras_absent"] += 1
            self.lost["extras_absent"] += 1
        may_be_absent = self.kinds[event.group_idx] not in FULL_ATTENTION
        seen: set[int] = set()
        for i, key in enumerate(event.block_hashes):
            known = key in self.meanings
            if self.placed(key) is None:
                self.meanings[key] = self._meaning(event, i, parent)
            parent = self.learned[key] = self.meanings[key]
            held = self._held(key, event)
            if i in cancelled:
                self._settle(key)
            elif may_be_absent and not self._proves(key, event, not known or key in self.fresh):
                self._reported_where_some_are_absent(key, event, not known or key in self.fresh)
                self._settle(key)
            else:
                if not held:
                    self.fresh.add(key)
                self._add(key, event, seen)

    def _meaning(self, event: BlockStored, i: int, parent: Meaning) -> Meaning:
        size = event.block_size
        step = Step(
            key=event.block_hashes[i],
            tokens=event.token_ids[i * size : (i + 1) * size],
            elements=event.extra_keys[i] if event.extra_keys is not None else None,
            lora=event.lora_name,
            salt=event.cache_salt,
        )
        meaning = extend(self.space, parent, step)
        if meaning.unindexed is not None:
            self.counts[meaning.unindexed] += 1
        return meaning

    def _held(self, key: int, event: BlockStored) -> bool:
        return self.copies.get((key, GPU, event.group_idx), 0) > 0

    def _proves(self, key: int, event: BlockStored, is_new: bool) -> bool:
        """Whether a named block is there, in a group whose reports may name absent ones."""
        sure = self._held(key, event) and (key, GPU, event.group_idx) not in self.stale
        return self._is_copy(event) or sure or (is_new and not self.incomplete)

    def _is_copy(self, event: BlockStored) -> bool:
        """Whether the event is no report."""
        return event.parent_block_hash is not None or is_sparse(event) or id(event) in self.true_copies

    def _reported_where_some_are_absent(self, key: int, event: BlockStored, is_new: bool) -> None:
        if is_new and not self._held(key, event):
            self.copies[key, GPU, event.group_idx] = 1
            self.stale.add((key, GPU, event.group_idx))
            return
        self.counts["reported"] += 1
        if not self._held(key, event):
            self.more.add((key, event.group_idx))

    def _add(self, key: int, event: BlockStored, seen: set[int]) -> None:
        """One more device copy, unless the event may be a report of a copy already held."""
        copy = (key, GPU, event.group_idx)
        if copy in self.stale or copy not in self.copies:
            waits = not self._is_copy(event) and self._cancel(key, event.group_idx)
            if waits or copy in self.stale:
                self.more.add((key, event.group_idx))
            self.copies[copy] = 1
            self.stale.discard(copy)
        elif self._is_copy(event) or key in seen:
            self.copies[copy] += 1
            self.counts["duplicates"] += 1
        else:
            self.more.add((key, event.group_idx))
            self.uncounted_ever.add(copy)
            self.counts["reported"] += 1
        seen.add(key)
        self._settle(key)

    def _take(self, copy: Copy) -> None:
        self.copies[copy] -= 1
        unsure = copy in self.stale
        if unsure and copy[1] == GPU:
            self.more.add((copy[0], copy[2]))
        if unsure or self.copies[copy] == 0:
            del self.copies[copy]
            self.stale.discard(copy)
            self._settle(copy[0])

    def _cancel(self, key: int, group: int) -> bool:
        for orphan in self.orphans:
            if orphan.event.group_idx != group:
                continue
            for i, waiting in enumerate(orphan.event.block_hashes):
                if waiting == key and i not in orphan.cancelled:
                    orphan.cancelled.add(i)
                    return True
        return False
