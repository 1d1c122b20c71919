"""How many bytes a distinct block and a (block, worker) pair take, by own count and as resident memory.

Each structure is filled in a fresh process that is fed through a pipe, so nothing else is counted.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec
from footprint import peak_bytes, resident_bytes
from peer import Peer, load_peer
from results import Result, arguments, show
from workload import (
    BLOCK_TOKENS,
    MODEL,
    PAIRS,
    SEED,
    Held,
    additions,
    distinct_of,
    events,
    fleet,
    pairs_of,
    payload,
    topic,
)

from kvatlas import Atlas, AtlasConfig, ModelConfig
from kvatlas.index.keys import keyspace
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest._native import Decoder, Mirror

_FRAME = struct.Struct("<II")
Frames = Iterable[tuple[int, bytes]]
"""Workers and what is applied for them."""


class Footprint(NamedTuple):
    """Of one structure, bytes."""

    resident: int
    peak: int
    counted: int
    """By its own statistics; 0 where there are none."""


# In the child: each fills its structure and returns it with its own count of bytes.


def fill_table(frames: Frames) -> tuple[Any, int]:
    index = ShardedIndex()
    for _, delta in frames:
        index.apply([delta])
    return index, sum(table["bytes"] for table in index.statistics())


def fill_mirrors(frames: Frames) -> tuple[Any, int]:
    space = keyspace(MODEL, BLOCK_TOKENS, "fold64", SEED)
    decoder = Decoder()
    mirrors: dict[int, Mirror] = {}
    for worker, batch in frames:
        mirror = mirrors.get(worker)
        if mirror is None:
            mirror = mirrors[worker] = Mirror(space)
            mirror.set_lane(0, worker)
        decoder.decode(batch)
        mirror.gather(decoder)
        mirror.take()
    return mirrors, sum(mirror.sizes()["bytes"] for mirror in mirrors.values())


def fill_atlas(frames: Frames) -> tuple[Any, int]:
    atlas = Atlas(AtlasConfig(hash_seed=SEED, models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}))
    for sequence, (worker, batch) in enumerate(frames):
        atlas.ingest(topic(worker), sequence, batch)
    statistics = atlas.statistics()
    tables = sum(table["bytes"] for table in statistics.tables)
    return atlas, tables + sum(worker.mirror_bytes for worker in statistics.workers)


def fill_tree(frames: Frames) -> tuple[Any, int]:
    peer = load_peer()
    assert peer is not None
    tree = peer.tree()
    for worker, event in frames:
        tree.apply_event(worker, event)
    tree.find_matches([])
    return tree, 0


FILLERS: dict[str, Callable[[Frames], tuple[Any, int]]] = {
    "table": fill_table,
    "mirrors": fill_mirrors,
    "atlas": fill_atlas,
    "tree": fill_tree,
}


def child(filler: Callable[[Frames], tuple[Any, int]], stream: BinaryIO) -> None:
    """Fill from the first frames, to have all code loaded, then measure with all of them."""
    frames = read_frames(stream)
    first = [next(frames)]
    kept = filler(first)
    del kept
    before = resident_bytes()
    kept, counted = filler(frames)
    footprint = Footprint(resident_bytes() - before, peak_bytes() - before, counted)
    print(msgspec.json.encode(footprint).decode())
    del kept


def read_frames(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while head := stream.read(_FRAME.size):
        worker, size = _FRAME.unpack(head)
        yield worker, stream.read(size)


# In the parent.


def measure(what: str, frames: Frames) -> Footprint:
    command = [sys.executable, __file__, "--child", what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        frames = list(frames)
        for worker, body in [frames[0], *frames]:
            process.stdin.write(_FRAME.pack(worker, len(body)) + body)
        process.stdin.close()
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the process that fills the {what} failed: {process.returncode}")
    return msgspec.json.decode(printed, type=Footprint)


def bench_fleet(workers: int, pairs: int, peer: Peer | None) -> list[Result]:
    sequences = fleet(workers, pairs)
    n_pairs, n_distinct = pairs_of(sequences), distinct_of(sequences)
    print(f"{workers} workers: {n_pairs} (block, worker) pairs, {n_distinct} distinct blocks")
    stores = list(events(sequences, 512))
    payloads = [(event.held.worker, payload(event)) for event in stores]
    footprints = {
        "table": measure("table", [(held.worker, additions(held)[0]) for held in sequences]),
        "mirrors": measure("mirrors", payloads),
        "atlas": measure("atlas", payloads),
    }
    tree = measure("tree", tree_frames(sequences, peer)) if peer else None
    results = []
    for name, unit, n in (
        ("table", "distinct block", n_distinct),
        ("mirrors", "pair", n_pairs),
        ("atlas", "pair", n_pairs),
        ("atlas", "distinct block", n_distinct),
    ):
        for kind in ("counted", "resident", "peak"):
            theirs = getattr(tree, kind) / n if tree and kind != "counted" and name != "mirrors" else None
            size = getattr(footprints[name], kind) / n
            row = f"memory/{name}/{unit.replace(' ', '-')}/{workers}/{kind}"
            results.append(line(row, f"{name}, {workers} workers, {kind}, per {unit}", size, theirs))
    return results


def tree_frames(sequences: list[Held], peer: Peer) -> Frames:
    hashes = {id(held): peer.block_hashes(held.tokens.tolist()) for held in sequences}
    return [(e.held.worker, peer.stored(e, hashes[id(e.held)])) for e in events(sequences, 512)]


def line(row: str, what: str, size: float, theirs: float | None) -> Result:
    return Result(
        row=row, what=what, unit="bytes", median=size, best=size, peer_median=theirs, peer_best=theirs
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--child", choices=FILLERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(FILLERS[args.child], sys.stdin.buffer)
        return
    peer = load_peer()
    results: list[Result] = []
    for workers in (64,) if args.quick else (8, 64):
        results += bench_fleet(workers, PAIRS, peer)
    show(results, args.json)


if __name__ == "__main__":
    main()
