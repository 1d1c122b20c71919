"""The workload of all benchmarks: a fleet that holds sequences of which groups share their first half.

512 blocks of 16 tokens a sequence; 32 sequences a group share the first 256; each sequence lies on
a worker drawn at random, until the fleet holds a million (block, worker) pairs. Token ids are
uniform over a vocabulary of 128 256, so half of them take five bytes on the wire.
"""

from __future__ import annotations

import itertools
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import kvatlas
from kvatlas import Atlas, AtlasConfig, ModelConfig
from kvatlas.index._native import SEGMENT_BLOCKS, shard_of
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest.simulator.event_encoder import WireBlockStored, encode_batch

MODEL = "bench"
SEED = "bench"
BLOCK_TOKENS = 16
PAIRS = 1_000_000
VOCABULARY = 128_256
ADD, REMOVE, CLOSE = 1, 2, 4
_RECORD = struct.Struct("<BBHIIIQ")
"""The head of a delta record: index/native/delta.hpp."""

Keys = npt.NDArray[np.uint64]


class Held(NamedTuple):
    """A sequence that a worker holds."""

    worker: int
    tokens: npt.NDArray[np.uint32]
    keys: Keys
    first_new: int
    """The worker held the blocks before it already, of another sequence of the group."""


class Event(NamedTuple):
    """Blocks that a worker stores at once."""

    held: Held
    begin: int
    end: int


def fleet(
    workers: int, pairs: int = PAIRS, *, blocks: int = 512, shared: int = 256, group: int = 32, seed: int = 1
) -> list[Held]:
    """Sequences on workers, group by group, until there are so many (block, worker) pairs."""
    random = np.random.default_rng(seed)
    sequences: list[Held] = []
    held = 0
    while held < pairs:
        prefix = random_tokens(random, shared)
        owners: set[int] = set()
        for worker in random.integers(workers, size=group).tolist():
            tokens = np.concatenate([prefix, random_tokens(random, blocks - shared)])
            first_new = shared if worker in owners else 0
            owners.add(worker)
            sequences.append(Held(worker, tokens, keys_of(tokens), first_new))
            held += blocks - first_new
    return sequences


def long_sequences(workers: int) -> list[Held]:
    """Eight sequences of 8 192 blocks that share their first half."""
    return fleet(workers, 1, blocks=8192, shared=4096, group=8, seed=2)


def random_tokens(random: np.random.Generator, blocks: int) -> npt.NDArray[np.uint32]:
    return random.integers(VOCABULARY, size=blocks * BLOCK_TOKENS, dtype=np.uint32)


def keys_of(tokens: npt.NDArray[np.uint32]) -> Keys:
    return kvatlas.block_keys(tokens, model=MODEL, block_size=BLOCK_TOKENS, hash_seed=SEED)


def pairs_of(sequences: Iterable[Held]) -> int:
    return sum(len(held.keys) - held.first_new for held in sequences)


def distinct_of(sequences: Iterable[Held]) -> int:
    return len(np.unique(np.concatenate([held.keys for held in sequences])))


def events(sequences: Iterable[Held], blocks: int) -> Iterator[Event]:
    """What the workers store, at most so many blocks an event; the workers take turns."""
    by_worker: dict[int, list[Event]] = defaultdict(list)
    for held in sequences:
        for begin in range(held.first_new, len(held.keys), blocks):
            by_worker[held.worker].append(Event(held, begin, min(begin + blocks, len(held.keys))))
    for turn in itertools.zip_longest(*by_worker.values()):
        yield from (event for event in turn if event is not None)


def engine_keys(keys: Keys) -> Keys:
    """By which the model server names the blocks."""
    named: Keys = keys * np.uint64(0x9E3779B97F4A7C15)
    return named


def topic(worker: int) -> bytes:
    return f"kv@pod-{worker}@{MODEL}".encode()


def payload(event: Event) -> bytes:
    """As vLLM 0.32 announces it: one event, a map, in a batch of its own."""
    held, begin, end = event
    names = engine_keys(held.keys[max(begin - 1, 0) : end]).tolist()
    parent = names.pop(0) if begin else None
    stored = WireBlockStored(
        block_hashes=names,
        parent_block_hash=parent,
        token_ids=held.tokens[begin * BLOCK_TOKENS : end * BLOCK_TOKENS].tolist(),
        block_size=BLOCK_TOKENS,
        lora_id=None,
        medium="GPU",
        lora_name=None,
        extra_keys=[None for _ in names],
        group_idx=0,
        kv_cache_spec_kind="full_attention",
    )
    return encode_batch([stored], timestamp_s=1.8e9)


def record(op: int, lane: int, segment_key: int = 0, keys: Keys | None = None) -> bytes:
    """A delta record of gpu blocks."""
    body = b"" if keys is None else keys.tobytes()
    return _RECORD.pack(op, op in (ADD, REMOVE), 0, len(body) // 8, lane, 0, segment_key) + body


def additions(held: Held, shards: int = 1) -> list[bytes]:
    """The delta records of a stored sequence, one buffer a shard; the worker's number is its lane."""
    buffers = [bytearray() for _ in range(shards)]
    for begin in range(0, len(held.keys), SEGMENT_BLOCKS):
        segment_key = int(held.keys[begin])
        new = held.keys[max(begin, held.first_new) : begin + SEGMENT_BLOCKS]
        if len(new):
            buffers[shard_of(segment_key, shards)] += record(ADD, held.worker, segment_key, new)
    return [bytes(buffer) for buffer in buffers]


def filled_index(sequences: Iterable[Held], *, shards: int = 1, closed: bool = True) -> ShardedIndex:
    """An index that holds the sequences. `closed`: its lanes say that they are closed under prefixes."""
    index = ShardedIndex(shards)
    workers = set()
    for held in sequences:
        index.apply(additions(held, shards))
        workers.add(held.worker)
    for worker in workers:
        index.roster.set(worker, [worker], [])
        if closed:
            index.apply([record(CLOSE, worker)] * shards)
    return index


def filled_atlas(sequences: list[Held]) -> Atlas:
    """An atlas that has heard of the sequences as its servers announce them; all workers are EXACT."""
    atlas = Atlas(AtlasConfig(hash_seed=SEED, models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}))
    numbers: dict[int, int] = {}
    for event in events(sequences, 512):
        worker = event.held.worker
        atlas.ingest(topic(worker), numbers.get(worker, 0), payload(event))
        numbers[worker] = numbers.get(worker, 0) + 1
    assert all(worker.closed for worker in atlas.statistics().workers)
    return atlas
