"""What a mirror claims is true of an engine that counts its blocks, also when batches are lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas import block_keys
from kvatlas.index.keys import keyspace
from kvatlas.ingest._native import Decoder, Mirror
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved
from tests.models.announcements import store_of
from tests.models.content import Chain
from tests.models.mirror import CPU, GPU
from tests.models.payloads import Event, packed
from tests.profiles import examples

SIZE = 4
WINDOW = 5
"""In tokens: one block."""
Copy = tuple[int, int, int]
"""Engine key, tier, group."""

chains = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=2, max_size=5).map(
    lambda path: Chain("plain", tuple(path), SIZE)
)
kept = st.lists(st.booleans(), min_size=5, max_size=5)
DOUBTS = ("maybe_gpu", "maybe_cpu", "orphans_waiting", "lost_blocks", "lost_offloaded", "unindexed_held")


class MirrorBesideAnEngine(RuleBasedStateMachine):
    """The engine does what it likes and says so; at times nobody hears it."""

    @initialize(ghosts=st.sampled_from([1, 4, 8192]), window_first=st.booleans())
    def start(self, ghosts: int, window_first: bool) -> None:
        self.dense, self.sparse = (1, 0) if window_first else (0, 1)
        self.mirror = Mirror(keyspace("m", SIZE, hash_seed="s"), 1, ghosts, 8, 1 << 20)
        self.mirror.set_lane(self.dense, 0)
        self.mirror.set_lane(self.sparse, 1, False)
        self.decoder = Decoder()
        self.copies: Counter[Copy] = Counter()
        self.block_key: dict[int, int] = {}
        self.deaf = False
        self.missed = False
        self.missed_ever = {GPU: False, CPU: False}

    def say(self, *events: Event) -> None:
        if self.deaf:
            self.missed, self.missed_ever = True, {GPU: True, CPU: True}
            return
        if self.missed:
            self.mirror.doubt()
            self.missed = False
        self.decoder.decode(packed(events))
        self.mirror.gather(self.decoder)

    def keys(self, chain: Chain) -> list[int]:
        keys = block_keys(chain.tokens(0, len(chain.path)), model="m", block_size=SIZE, hash_seed="s")
        names = [chain.key(i) for i in range(len(chain.path))]
        self.block_key.update(zip(names, keys.tolist(), strict=True))
        return names

    def hit(self, names: list[int]) -> int:
        """How many leading blocks the engine finds: all in the full group, the last one in the window."""
        full = next((i for i, name in enumerate(names) if not self.copies[name, GPU, self.dense]), len(names))
        return next((n for n in range(full, 0, -1) if self.copies[names[n - 1], GPU, self.sparse]), 0)

    def say_both(self, chain: Chain, begin: int, end: int, in_window: tuple[int, ...]) -> None:
        """What one request makes both groups announce, the groups in order."""
        window = {"kv_cache_spec_kind": "sliding_window", "kv_cache_spec_sliding_window": WINDOW}
        extras = {"extra_keys": None, "group_idx": self.sparse, "block_hashes": in_window}
        events = [
            store_of(chain, begin, end, group_idx=self.dense),
            store_of(chain, begin, end, **extras, **window),
        ]
        self.say(*sorted(events, key=lambda event: event.group_idx))

    @rule(chain=chains, some=kept, again=st.booleans())
    def prefill(self, chain: Chain, some: list[bool], again: bool) -> None:
        """Blocks behind the hit are stored, of the window group only some; `again`: no look at the cache."""
        names = self.keys(chain)
        begin = 0 if again else min(self.hit(names), len(names) - 1)
        in_window = tuple(name for name, one in zip(names[begin:], some, strict=False) if one)
        self.copies.update((name, GPU, self.dense) for name in names[begin:])
        self.copies.update((name, GPU, self.sparse) for name in in_window)
        self.say_both(chain, begin, len(names), in_window)

    @rule(chain=chains)
    def report(self, chain: Chain) -> None:
        """What was found of a prompt is announced again, in the window group absent blocks too."""
        names = self.keys(chain)
        found = self.hit(names)
        if found > 0:
            self.say_both(chain, 0, found, tuple(names[:found]))

    @precondition(lambda self: +self.copies)
    @rule(pick=st.integers(0, 1000), times=st.integers(1, 3))
    def evict(self, pick: int, times: int) -> None:
        for _ in range(times):
            held = sorted(+self.copies)
            if held:
                name, tier, group = held[pick % len(held)]
                self.copies[name, tier, group] -= 1
                self.say(
                    BlockRemoved(block_hashes=(name,), medium="CPU" if tier == CPU else None, group_idx=group)
                )

    @rule(chain=chains)
    def offload(self, chain: Chain) -> None:
        names = [name for name in self.keys(chain) if self.copies[name, GPU, self.dense]]
        for name in names:
            self.copies[name, CPU, self.dense] = 1
        fields = {"token_ids": (), "block_size": 0, "parent_block_hash": None, "extra_keys": None}
        fields["group_idx"] = self.dense
        if names:
            self.say(store_of(chain, 0, 1, block_hashes=tuple(names), medium="CPU", **fields))

    @rule(emptied=st.booleans())
    def clear(self, emptied: bool) -> None:
        gone = (GPU, CPU) if emptied else (GPU,)
        self.copies = Counter({copy: n for copy, n in self.copies.items() if copy[1] not in gone})
        self.say(AllBlocksCleared())
        if not self.deaf:
            self.missed_ever[GPU] = False

    @rule()
    def go_deaf(self) -> None:
        self.deaf = True

    @rule()
    def listen(self) -> None:
        self.deaf = False

    @invariant()
    def what_is_claimed_is_true(self) -> None:
        if self.missed:
            return  # nobody has noticed yet
        claims = self.mirror.claims()
        held = {
            (key, tier, group)
            for group, masks in self.mirror.residency().items()
            for key, mask in masks.items()
            for tier in (GPU, CPU)
            if mask & tier
        }
        true = {(self.block_key[name], tier, group) for name, tier, group in +self.copies}
        if claims["stale"] == 0:
            assert held <= true
        if not any(claims[doubt] for doubt in DOUBTS):
            tiers = {tier for tier, missed in self.missed_ever.items() if not missed}
            assert {copy for copy in held if copy[1] in tiers} == {copy for copy in true if copy[1] in tiers}


TestMirrorBesideAnEngine = pytest.mark.slow(pytest.mark.native(MirrorBesideAnEngine.TestCase))
TestMirrorBesideAnEngine.settings = settings(max_examples=examples(1000), stateful_step_count=30)
