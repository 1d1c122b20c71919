"""The atlas beside simulated model servers: what they really hold, and what a naive model says.

Everything is told by the servers' own payloads. The naive model decodes them with the plain
decoder, so the native decoder is checked on the way.
"""

from __future__ import annotations

from typing import TypedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvatlas import Atlas
from kvatlas.index.keys import Feature
from kvatlas.ingest.config import AtlasConfig, ModelConfig
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.offload_chunks import SharedStorage
from kvatlas.ingest.simulator.request import SimulatedRequest
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.wire.decoding import decode_batch
from tests.models.atlas import NaiveAtlas, NaiveConfig
from tests.models.mirror import CPU, GPU, Copy, Mirror

BLOCK_SIZE = 4
TIERS = {"gpu": GPU, "cpu": CPU}

prompts = st.lists(st.sampled_from([0, 0, 0, 1]), min_size=1, max_size=7)


class Extra(TypedDict, total=False):
    lora: str
    cache_salt: str
    features: list[Feature]


EXTRAS: list[Extra] = [
    {},
    {},
    {},
    {},
    {"lora": "lo"},
    {"cache_salt": "s"},
    {"features": [("img", 3, 6), ("b", 9, 1)]},
]
extras = st.sampled_from(EXTRAS)


def tokens_of(prompt: list[int], more: int) -> list[int]:
    return [11 * choice + i for choice in prompt for i in range(BLOCK_SIZE)] + list(range(more))


class AtlasBesideServers(RuleBasedStateMachine):
    """Three servers of one model: a plain one, one with a window, one that offloads."""

    @initialize(described=st.booleans(), chunk=st.sampled_from([1, 2]), as_bytes=st.booleans())
    def start(self, described: bool, chunk: int, as_bytes: bool) -> None:
        storage = SharedStorage()
        plain = SimulatedServer("plain", "m", block_size=BLOCK_SIZE, blocks=14, hashes_as_bytes=as_bytes)
        window = SimulatedServer(
            "window", "m", block_size=BLOCK_SIZE, blocks=24, window_tokens=8, retention_tokens=8
        )
        offload = SimulatedServer(
            "offload",
            "m",
            block_size=BLOCK_SIZE,
            blocks=12,
            cpu_blocks=6,
            chunk_blocks=chunk,
            self_describing=described,
            storage=storage,
        )
        self.servers = [plain, window, offload]
        self.running: list[tuple[SimulatedServer, SimulatedRequest]] = []
        self.sequence = dict.fromkeys(["plain", "window", "offload"], 0)
        self.model = NaiveAtlas(NaiveConfig(block_sizes={"m": BLOCK_SIZE}))
        config = AtlasConfig(
            hash_seed="seed",
            table_bytes_max=1 << 24,
            models={"m": ModelConfig(block_size_tokens=BLOCK_SIZE)},
        )
        self.atlas = Atlas(config)

    def teardown(self) -> None:
        if hasattr(self, "atlas"):
            self.atlas.close()

    def mirror(self, server: SimulatedServer) -> Mirror | None:
        return self.model.mirrors.get("m", {}).get((server.pod, 0))

    def step(self, server: SimulatedServer) -> None:
        """The engine steps until nothing is left to be said."""
        while True:
            payload = server.step()
            if payload is not None:
                self.tell(server, payload)
            if not server.has_pending_work:
                return

    def tell(self, server: SimulatedServer, payload: bytes) -> None:
        sequence = self.sequence[server.pod]
        self.atlas.ingest(server.topic.encode(), sequence, payload)
        self.model.ingest(server.pod, server.model, sequence, payload, decode_batch(payload))
        self.sequence[server.pod] += 1

    # What the servers do.

    @rule(
        which=st.integers(0, 2),
        prompt=prompts,
        more=st.integers(0, 3),
        output=st.integers(0, 9),
        extra=extras,
        report=st.sampled_from([False] * 4 + [True]),
        stays=st.sampled_from([False] * 3 + [True]),
    )
    def serve(
        self,
        which: int,
        prompt: list[int],
        more: int,
        output: int,
        extra: Extra,
        report: bool,
        stays: bool,
    ) -> None:
        server = self.servers[which]
        try:
            request = server.prefill(tokens_of(prompt, more), report=report, **extra)
        except OutOfBlocksError:
            self.step(server)
            return
        self.running.append((server, request))
        self.step(server)
        try:
            server.decode(request, output)
        except OutOfBlocksError:
            stays = False
        if not stays:
            self.finish()
        self.step(server)

    @rule()
    def finish(self) -> None:
        if self.running:
            server, request = self.running.pop()
            server.finish(request)
            self.step(server)

    @rule(which=st.integers(0, 2), external=st.booleans())
    def reset(self, which: int, external: bool) -> None:
        """While requests run nothing on the device goes, and of the CPU tier no event tells."""
        while external and self.running:
            self.finish()
        self.servers[which].reset(external=external)
        self.step(self.servers[which])

    # What must hold.

    @invariant()
    def the_atlas_is_the_naive_model(self) -> None:
        expected = self.model.residency("m")
        exported = self.atlas.residency("m")
        assert {lane: masks for lane, masks in exported.items() if masks} == expected
        skips = self.atlas.statistics().skips
        counts = self.model.counts
        assert {k: n for k, n in skips.items() if n} == {k: n for k, n in counts.items() if n}

    @invariant()
    def nothing_is_held_that_the_engine_has_dropped(self) -> None:
        for server in self.servers:
            mirror, truth = self.mirror(server), true_copies(server)
            assert mirror is None or mirror.copies.keys() <= truth.keys()

    @invariant()
    def all_is_held_but_what_a_report_may_have_hidden(self) -> None:
        """In the group that keeps every block; what starts a chain in a window may be a report."""
        for server in self.servers:
            mirror = self.mirror(server)
            held = {copy for copy in true_copies(server) if copy[1:] == (GPU, 0)}
            if mirror is not None:
                held -= mirror.copies.keys() | mirror.uncounted_ever
            assert not held

    @rule(which=st.integers(0, 2), prompt=prompts, more=st.integers(0, 3), extra=extras)
    def score(self, which: int, prompt: list[int], more: int, extra: Extra) -> None:
        token_ids = tokens_of(prompt, more)
        keys = self.model.keys(token_ids, model="m", **extra)
        scores = self.atlas.score(token_ids, model="m", strategy="longest_prefix", **extra)
        assert dict(scores.items()) == pytest.approx(self.model.score_keys("m", keys))

    @rule(prompt=prompts, more=st.integers(0, 3), extra=extras)
    def a_plain_server_scores_what_it_would_reuse(self, prompt: list[int], more: int, extra: Extra) -> None:
        server, token_ids = self.servers[0], tokens_of(prompt, more)
        held = {key for key, tier, _ in true_copies(server) if tier == GPU}
        run = 0
        for key in server.engine_hashes(token_ids, **extra):
            if key not in held:
                break
            run += 1
        score = dict(self.atlas.score(token_ids, model="m", strategy="longest_prefix", **extra).items()).get(
            "plain", 0.0
        )
        mirror = self.mirror(server)
        assert score <= run
        assert score == run or (mirror is not None and mirror.uncounted_ever)


def true_copies(server: SimulatedServer) -> dict[Copy, int]:
    return {
        (key, TIERS[tier], group): n
        for key, by_place in server.held().items()
        for (tier, group), n in by_place.items()
    }


TestAtlasBesideServers = pytest.mark.slow(pytest.mark.native(AtlasBesideServers.TestCase))
TestAtlasBesideServers.settings = settings(stateful_step_count=30)
