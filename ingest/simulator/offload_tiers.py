"""Where the simulated model server keeps copies of blocks behind its device: CPU and shared storage.

    filled on device --offer--> CPU (bounded, LRU) --write--> storage (shared by many servers)
          ^                          |    ^                       |
          +----------- load ---------+    +------ promotion ------+

Each transfer is announced one step after the one that began it. Everything moves in chunks of
whole blocks; a chunk is named by the digest of its last block.
Source: behaviour of vLLM 0.32's offloading connector with a file-system tier.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.event_encoder import CPU, STORAGE, EngineHash, WireEvent
from kvatlas.ingest.simulator.offload_chunks import Chunk, ChunkAnnouncer, SharedStorage
from kvatlas.ingest.simulator.request import SimulatedRequest, engine_hash


class OffloadStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the CPU tier has done since the start, in chunks."""

    capacity: int
    held: int
    stored: int
    evicted: int
    promoted: int
    """From storage."""
    refused: int
    """Offers that came while nothing could be evicted; they are made again with the next step."""


class OffloadTiers:
    """The CPU tier of one server, and its way into a shared storage.

    `self_describing` events carry tokens and parent; placeholders only a chunk's last hash.
    Raises ConfigError when not even one chunk fits.
    """

    def __init__(
        self,
        *,
        name: Callable[[bytes], EngineHash],
        block_size: int,
        capacity_blocks: int,
        chunk_blocks: int = 1,
        storage: SharedStorage | None = None,
        self_describing: bool = True,
    ) -> None:
        self._capacity = capacity_blocks // chunk_blocks if chunk_blocks > 0 else 0
        if self._capacity < 1:
            raise ConfigError(
                f"cpu_blocks: expected room for a chunk of {chunk_blocks}, got {capacity_blocks}"
            )
        locality = storage.locality if storage is not None else None
        self._announce = ChunkAnnouncer(name=name, block_size=block_size, locality=locality)
        self._block_size = block_size
        self._chunk_blocks = chunk_blocks
        self._chunk_tokens = chunk_blocks * block_size
        self._storage = storage
        self._self_describing = self_describing
        self._chunks: OrderedDict[bytes, Chunk] = OrderedDict()  # least recently used first
        self._arriving: list[Chunk] = []
        self._arriving_keys: set[bytes] = set()
        self._writing: list[Chunk] = []
        self._cpu_events: list[WireEvent] = []
        self._storage_events: list[WireEvent] = []
        self._counts: Counter[str] = Counter()

    @property
    def has_pending_work(self) -> bool:
        """Whether another step has transfers to announce."""
        return bool(self._arriving or self._writing)

    def loadable_tokens(self, request: SimulatedRequest, device_tokens: int) -> int:
        """How much could be loaded behind what the device holds of the prompt."""
        start = device_tokens // self._chunk_tokens
        tokens = (start + self._run(request, start)) * self._chunk_tokens - device_tokens
        return tokens if tokens >= self._chunk_tokens else 0

    def load(self, request: SimulatedRequest, device_tokens: int) -> int:
        """Makes `loadable_tokens` ready on the CPU, from storage where they are not; returns them."""
        tokens = self.loadable_tokens(request, device_tokens)
        if tokens == 0:
            return 0
        start = device_tokens // self._chunk_tokens
        end = (device_tokens + tokens) // self._chunk_tokens
        chunks = [self._chunk(request, index) for index in range(start, end)]
        keys = {chunk.key for chunk in chunks}
        for index, chunk in enumerate(chunks, start):
            if chunk.key not in self._chunks:
                self._evict(1, keys)
                self._chunks[chunk.key] = chunk
                self._counts["promoted"] += 1
                self._cpu_events.append(self._announce.stored(chunk, CPU))
            request.used_chunks[index] = chunk.key
        request.offered_chunks = end
        return tokens

    def offer(self, request: SimulatedRequest) -> None:
        """Begins to copy the request's full chunks that the CPU does not hold yet."""
        first, end = request.offered_chunks, request.computed_tokens // self._chunk_tokens
        chunks = [self._chunk(request, index) for index in range(first, end)]
        missing = [chunk for chunk in chunks if chunk.key not in self._chunks]
        for index, chunk in enumerate(chunks, first):
            if chunk.key not in self._arriving_keys:
                request.used_chunks[index] = chunk.key
        if not self._evict(len(missing), {chunk.key for chunk in chunks}):
            self._counts["refused"] += 1
            return
        for chunk in missing:
            self._chunks[chunk.key] = chunk
            self._arriving_keys.add(chunk.key)
        self._arriving.extend(missing)
        request.offered_chunks = max(first, end)

    def finish(self, request: SimulatedRequest) -> None:
        """The request's chunks become the most recently used, its prefix's head last."""
        for _, key in sorted(request.used_chunks.items(), reverse=True):
            if key in self._chunks:
                self._chunks.move_to_end(key)

    def end_step(self, requests: Sequence[SimulatedRequest]) -> list[WireEvent]:
        """Completes the transfers of the step before, begins those of this one, returns its events."""
        arrived, self._arriving = self._arriving, []
        self._finish_writes()
        for request in requests:
            self.offer(request)
            if request.finished:
                self.finish(request)
        # Jobs are kept in sets, so chunks are announced in no particular order.
        arrived.sort(key=lambda chunk: chunk.key)
        for chunk in arrived:
            self._arriving_keys.discard(chunk.key)
            self._cpu_events.append(self._announce.stored(chunk, CPU))
        self._counts["stored"] += len(arrived)
        if self._storage is not None:
            self._writing = arrived
        events = self._cpu_events + self._storage_events
        self._cpu_events, self._storage_events = [], []
        return events

    def reset(self) -> None:
        """Empties the CPU tier, which no event says; writes to storage that have begun are finished."""
        for chunk in self._writing:
            chunk.described = False
        self._finish_writes()
        self._chunks.clear()
        self._arriving.clear()
        self._arriving_keys.clear()
        self._cpu_events.clear()

    def held(self) -> Counter[int]:
        """Engine hash -> chunks that hold the block and can be loaded.

        Chunks of prompts that branch off inside of a chunk hold the blocks before it in common.
        """
        held: Counter[int] = Counter()
        for key, chunk in self._chunks.items():
            if key not in self._arriving_keys:
                held.update(map(engine_hash, chunk.digests))
        return held

    def statistics(self) -> OffloadStatistics:
        return OffloadStatistics(
            capacity=self._capacity,
            held=len(self._chunks) - len(self._arriving_keys),
            stored=self._counts["stored"],
            evicted=self._counts["evicted"],
            promoted=self._counts["promoted"],
            refused=self._counts["refused"],
        )

    def _run(self, request: SimulatedRequest, start: int) -> int:
        """Leading chunks from `start` that can all be on the CPU at once."""
        busy = self._arriving_keys.union(chunk.key for chunk in self._writing)
        room = self._capacity - len(busy)
        run = 0
        for index in range(start, request.prompt_tokens // self._chunk_tokens):
            key = request.digests[(index + 1) * self._chunk_blocks - 1]
            if key in self._arriving_keys:
                break
            if key not in self._chunks and (self._storage is None or key not in self._storage):
                break
            room -= key not in busy
            if room < 0:
                break
            run += 1
        return run

    def _chunk(self, request: SimulatedRequest, index: int) -> Chunk:
        first, end = index * self._chunk_blocks, (index + 1) * self._chunk_blocks
        return Chunk(
            digests=request.digests[first:end],
            parent=request.digests[first - 1] if first else None,
            token_ids=request.token_ids[first * self._block_size : end * self._block_size],
            lora_id=request.lora_id,
            lora=request.lora,
            described=self._self_describing,
        )

    def _evict(self, arriving: int, protected: set[bytes]) -> bool:
        """Makes room for this many chunks; False, and nothing goes, when it cannot be had."""
        excess = len(self._chunks) + arriving - self._capacity
        if excess <= 0:
            return True
        kept = protected.union(self._arriving_keys, (chunk.key for chunk in self._writing))
        victims: list[Chunk] = []
        for key, chunk in self._chunks.items():
            if len(victims) == excess:
                break
            if key not in kept:
                victims.append(chunk)
        if len(victims) < excess:
            return False
        for chunk in victims:
            del self._chunks[chunk.key]
        self._counts["evicted"] += len(victims)
        self._cpu_events.append(self._announce.removed(victims, CPU))
        return True

    def _finish_writes(self) -> None:
        written, self._writing = self._writing, []
        for chunk in written:
            assert self._storage is not None
            for digests in self._storage.write(chunk.key, chunk.digests):
                gone = Chunk(digests, described=self._self_describing)
                self._storage_events.append(self._announce.removed([gone], STORAGE))
            self._storage_events.append(self._announce.stored(chunk, STORAGE))
