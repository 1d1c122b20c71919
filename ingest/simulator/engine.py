"""The engine of the simulated model server: requests in, events out, no sockets and no bytes.

One step is `prefill`, `decode` and `finish` of any requests, in any order, then `end_step`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.index.keys import Feature
from kvatlas.ingest.simulator.block_pool import BlockPool, BlockPoolStatistics
from kvatlas.ingest.simulator.event_encoder import WireEvent
from kvatlas.ingest.simulator.offload_chunks import SharedStorage
from kvatlas.ingest.simulator.offload_tiers import OffloadStatistics, OffloadTiers
from kvatlas.ingest.simulator.options import EngineOptions
from kvatlas.ingest.simulator.prefix_cache import PrefixCache
from kvatlas.ingest.simulator.request import (
    PromptIds,
    SimulatedRequest,
    engine_hash,
    root_digest,
)

Copies = dict[tuple[str, int], int]
"""(tier, group) -> copies; the tiers are "gpu" and "cpu"."""


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated engine has done since it started."""

    steps: int
    events: int
    running: int
    """Requests that are not finished."""
    requests: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompts: reused."""
    device: BlockPoolStatistics
    offload: OffloadStatistics | None


class SimulatedEngine:
    """A prefix cache at work. Not safe to call from several threads at once.

    `storage` is shared by the engines that are given the same one, and needs a CPU tier to be
    written from. Raises ConfigError on options that do not fit together.
    """

    def __init__(self, options: EngineOptions, storage: SharedStorage | None = None) -> None:
        if storage is not None and not options.cpu_blocks:
            raise ConfigError("storage: expected cpu_blocks with it, to be written from; got 0")
        self.options = options
        self._root = root_digest(options.block_hash_seed)
        self._storage = storage
        self._begin()

    def _begin(self) -> None:
        options = self.options
        self._pool = BlockPool(options.blocks, hashes_as_bytes=options.hashes_as_bytes)
        self._cache = PrefixCache(self._pool, options.layout())
        self._offload: OffloadTiers | None = None
        if options.cpu_blocks:
            self._offload = OffloadTiers(
                name=self._pool.name,
                block_size=options.block_size,
                capacity_blocks=options.cpu_blocks,
                chunk_blocks=options.chunk_blocks,
                storage=self._storage,
                self_describing=options.self_describing,
            )
        self._running: set[SimulatedRequest] = set()
        self._scheduled: dict[SimulatedRequest, None] = {}  # in this step, in order
        self._lora_ids: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    @property
    def has_pending_work(self) -> bool:
        """Whether an idle engine would go on stepping, to announce its transfers."""
        return self._offload is not None and self._offload.has_pending_work

    def prefill(
        self,
        token_ids: PromptIds,
        *,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Sequence[Feature] = (),
        report: bool = False,
    ) -> SimulatedRequest:
        """Computes a prompt behind what is held of it; `cached_tokens` of the result says how much.

        `report` announces the reused blocks again (`kv_cache_report_mode: full`).
        Raises OutOfBlocksError when it does not fit beside the running requests.
        """
        request = self._request(token_ids, lora, cache_salt, features)
        if lora is not None:
            request.lora_id = self._lora_ids.setdefault(lora, len(self._lora_ids) + 1)
        hit = self._cache.longest_hit(request)
        if report:
            self._cache.report(request, hit)
        loaded = self._offload.load(request, hit.tokens) if self._offload is not None else 0
        self._cache.admit(request, hit, request.prompt_tokens)
        request.cached_tokens = request.computed_tokens = hit.tokens + loaded
        if loaded:
            self._compute(request, request.cached_tokens)
        # Of a prompt that was loaded whole, the last token is computed again in its place.
        self._compute(request, request.prompt_tokens)
        self._running.add(request)
        self._scheduled[request] = None
        self._counts.update(
            requests=1, prompt_tokens=request.prompt_tokens, cached_tokens=request.cached_tokens
        )
        return request

    def decode(self, request: SimulatedRequest, output: int | Sequence[int]) -> list[int]:
        """Samples tokens, these or so many invented ones; returns them.

        Each is computed when the next one is sampled, the last one never; a block that fills is
        announced by itself.
        Raises OutOfBlocksError when there is no room: the request keeps what it has so far.
        """
        self._check_running(request)
        sampled = request.invented(output) if isinstance(output, int) else list(output)
        self._scheduled[request] = None
        for token_id in sampled:
            if request.computed_tokens < len(request.token_ids):
                self._compute(request, request.computed_tokens + 1)
            request.append([token_id])
        return sampled

    def finish(self, request: SimulatedRequest) -> None:
        """Frees the request's blocks; what they hold stays until they are handed out again."""
        self._check_running(request)
        self._running.remove(request)
        request.finished = True
        self._scheduled[request] = None
        self._cache.free(request)

    def reset(self, *, external: bool = False) -> bool:
        """Empties the device's cache, announced with the next step; False while requests run.

        `external` empties the CPU tier as well, which no event says. Storage stays.
        """
        if external and self._offload is not None:
            self._offload.reset()
            self._scheduled = {r: None for r in self._scheduled if not r.finished}
            for request in self._running:
                request.offered_chunks = 0
                request.used_chunks.clear()
        return self._pool.clear()

    def restart(self) -> None:
        """The process dies and comes back: nothing is held any more, and no event says so."""
        self._begin()

    def end_step(self) -> list[WireEvent]:
        """Ends the step; returns its events, the device's first."""
        events = self._pool.take_events()
        if self._offload is not None:
            events += self._offload.end_step(list(self._scheduled))
        self._scheduled.clear()
        self._counts.update(steps=1, events=len(events))
        return events

    def cached_tokens(
        self,
        token_ids: PromptIds,
        *,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Sequence[Feature] = (),
    ) -> int:
        """How much of this prompt would be reused now; changes nothing."""
        request = self._request(token_ids, lora, cache_salt, features)
        tokens = self._cache.longest_hit(request).tokens
        return tokens + (self._offload.loadable_tokens(request, tokens) if self._offload else 0)

    def engine_hashes(
        self,
        token_ids: PromptIds,
        *,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Sequence[Feature] = (),
    ) -> list[int]:
        """This engine's names of a prompt's full blocks [n_blocks]."""
        request = self._request(token_ids, lora, cache_salt, features)
        return [engine_hash(digest) for digest in request.digests]

    def held(self) -> dict[int, Copies]:
        """Engine hash -> copies per (tier, group), all that this engine could reuse.

        A chunk on the CPU holds all of its blocks, although a placeholder names only the last.
        What lies in shared storage is no engine's own: ask the storage.
        """
        held: dict[int, Copies] = {}
        for name, group, copies in self._pool.held():
            held.setdefault(name, {})["gpu", group] = copies
        for name, copies in self._offload.held().items() if self._offload is not None else ():
            held.setdefault(name, {})["cpu", 0] = copies
        return held

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            steps=self._counts["steps"],
            events=self._counts["events"],
            running=len(self._running),
            requests=self._counts["requests"],
            prompt_tokens=self._counts["prompt_tokens"],
            cached_tokens=self._counts["cached_tokens"],
            device=self._pool.statistics(),
            offload=self._offload.statistics() if self._offload is not None else None,
        )

    def _request(
        self,
        token_ids: PromptIds,
        lora: str | None,
        cache_salt: str | None,
        features: Sequence[Feature],
    ) -> SimulatedRequest:
        return SimulatedRequest(
            # numpy's own integers cannot be written to the wire.
            token_ids=token_ids.tolist() if isinstance(token_ids, np.ndarray) else list(token_ids),
            block_size=self.options.block_size,
            root=self._root,
            lora=lora,
            cache_salt=cache_salt,
            features=list(features),
        )

    def _compute(self, request: SimulatedRequest, tokens: int) -> None:
        self._cache.extend(request, tokens)
        self._cache.commit(request, tokens)
        request.computed_tokens = tokens

    def _check_running(self, request: SimulatedRequest) -> None:
        if request not in self._running:
            raise InputError("request: expected one that runs on this server, got another one")
