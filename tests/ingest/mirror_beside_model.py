"""One worker's native mirror with its stores, beside the naive atlas that is told the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from kvatlas.index._native import Keyspace
from kvatlas.index.keys import Algorithm, keyspace
from kvatlas.ingest._native import Decoder, Mirror, Store
from kvatlas.ingest.wire.events import EventBatch
from tests.models import announcements as say
from tests.models.atlas import NaiveAtlas, NaiveConfig
from tests.models.content import LORA_NAMES
from tests.models.mirror import DISK, STORAGE
from tests.models.mirror import Mirror as NaiveMirror
from tests.models.payloads import Shape, packed

SEED = "seed"
DISK_LANE, STORAGE_LANE = 10, 11

worlds = say.worlds.map(lambda world: replace(world, workers=world.workers[:1], learns=False))
announced = (
    say.dense
    | say.dense
    | say.removed
    | say.sparse
    | say.offloaded
    | say.placeholders_on_the_device
    | say.partial
)
"""Anything that can be read, but a clear."""


class MirrorBesideModel:
    """`mirror` may be exchanged for another that should be its equal."""

    def __init__(self, world: say.World, algorithm: Algorithm) -> None:
        pod = world.workers[0][0]
        self.world = replace(world, workers=((pod, None),))
        self.algorithm = algorithm
        self.pod = pod
        config = NaiveConfig(
            block_sizes=say.BLOCK_SIZES,
            algorithm=algorithm,
            lora_names={pod.model: LORA_NAMES},
            limits=world.limits,
        )
        self.model = NaiveAtlas(config)
        self._stores: dict[Mirror, dict[int, Store]] = {}
        self.mirror = self.new_mirror()
        self.decoder = Decoder()
        self.sequence = 0
        self.tell([])

    @property
    def keyspace(self) -> Keyspace:
        return keyspace(self.pod.model, say.BLOCK_SIZES[self.pod.model], self.algorithm, SEED)

    @property
    def naive(self) -> NaiveMirror:
        return self.model.mirrors[self.pod.model][self.pod.name, 0]

    def new_mirror(self) -> Mirror:
        """Without content, but told all that a mirror is told beside events.

        Its stores are its own: they know what `mirror` has taught its stores by now, and no more.
        """
        limits = self.world.limits
        mirror = Mirror(self.keyspace, 3, limits.ghosts, limits.orphans, 1 << 30)
        for group in say.GROUP_KINDS:
            mirror.set_lane(group, group, group != 2)
        mirror.set_lora_names(LORA_NAMES)
        stores = {DISK: Store(DISK_LANE, limits.stored), STORAGE: Store(STORAGE_LANE, limits.stored)}
        tokens = say.BLOCK_SIZES[self.pod.model]
        for tier, taught in self._stores[self.mirror].items() if self._stores else ():
            stores[tier].load(taught.save(tokens), tokens)
        self._stores[mirror] = stores
        self.attach(mirror)
        return mirror

    def attach(self, mirror: Mirror) -> None:
        """A store counts for the worker from the worker's first store in it, and a file there once it is
        there for all groups that the worker needs.
        """
        names = self.model.attached.get(self.pod.model, {}).get((self.pod.name, 0), set())
        attached = {(store := self.model.stores[self.pod.model][name]).tier: store for name in names}
        stores = self._stores[mirror]
        mirror.set_stores(stores[DISK], stores[STORAGE], [stores[tier] for tier in sorted(attached)])
        for tier, store in attached.items():
            if store.needed:
                stores[tier].need_groups(sum(1 << group for group in store.needed), 1, tier)

    def tell(self, announcements: list[say.Announcement], *others: Mirror) -> None:
        """One batch to the model, the mirror and others."""
        said = [announcement.said(self.world) for announcement in announcements]
        events = tuple(one.event for one in said if one.event is not None)
        batch = EventBatch(ts=1.5, data_parallel_rank=None, events=events, errors=(), unknown_events=0)
        payload = packed([one.written for one in said], None, Shape())
        self.model.ingest(self.pod.name, self.pod.model, self.sequence, payload, batch)
        self.sequence += 1
        self.decoder.decode(payload)
        for mirror in (self.mirror, *others):
            self.attach(mirror)
            mirror.gather(self.decoder)

    def doubt(self, *others: Mirror) -> None:
        self.naive.doubted()
        for mirror in (self.mirror, *others):
            mirror.doubt()

    def restart(self, *others: Mirror) -> None:
        self.naive.restarted(self.naive.space)
        for mirror in (self.mirror, *others):
            mirror.restart(self.keyspace)

    def check(self) -> None:
        """What is held and what is claimed is as in the model."""
        claims = self.mirror.claims()
        held = {(g, *e) for g, masks in self.mirror.residency().items() for e in masks.items()}
        expected = {(g, *e) for g in say.GROUP_KINDS for e in self.naive.residency(g).items()}
        if claims["unlinked_parts"] == 0 or not self.world.forgets_ancestors:
            assert held == expected
        else:
            assert {entry[:2] for entry in held} <= {entry[:2] for entry in expected}
        if self.world.forgets_ancestors:
            claims["unlinked_parts"] = 0
        assert claims == self.naive.claims()
        counts = self.mirror.counts()
        assert {name: counts[name] for name in ("orphans_dropped", "reported", "duplicates")} == {
            name: self.model.counts[name] for name in ("orphans_dropped", "reported", "duplicates")
        }


algorithms: st.SearchStrategy[Algorithm] = st.sampled_from(["fold64", "fold64", "fnv64a_cbor"])
