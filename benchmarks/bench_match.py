"""How long a lookup takes in a table of 1 M (block, worker) pairs: hits, misses, shards, workers."""

from __future__ import annotations

from typing import Any

import numpy as np
from peer import Peer, load_peer
from results import Result, arguments, show, timed
from timing import Contender, Timing, alternate, over
from workload import (
    MODEL,
    PAIRS,
    Event,
    Held,
    filled_atlas,
    filled_index,
    fleet,
    keys_of,
    long_sequences,
    random_tokens,
)

from kvatlas import Atlas
from kvatlas.index.shards import ShardedIndex

QUERIES = 512


class Prompts:
    """Prompts as tokens, and as both sides' hashes of them."""

    def __init__(self, tokens: list[Any], peer: Peer | None) -> None:
        self.tokens = tokens
        self.lists = [t.tolist() for t in tokens]
        self.keys = [keys_of(t) for t in tokens]
        self.hashes = [peer.block_hashes(tokens) for tokens in self.lists] if peer else []


def measure(
    indexes: dict[str, ShardedIndex], tree: Any, prompts: Prompts, rounds: int
) -> tuple[dict[str, Timing], Timing | None]:
    contenders: dict[str, Contender] = {
        name: over(index.match, prompts.keys) for name, index in indexes.items()
    }
    if tree is not None:
        contenders["peer"] = over(tree.find_matches, prompts.hashes)
    check(indexes, tree, prompts)
    timings = alternate(contenders, rounds=rounds)
    theirs = timings.pop("peer", None)
    return timings, theirs


def check(indexes: dict[str, ShardedIndex], tree: Any, prompts: Prompts) -> None:
    """Both sides find the same, and a prompt is held whole or not at all."""
    for i, keys in enumerate(prompts.keys[:16]):
        for index in indexes.values():
            found = sorted(index.match(keys).blocks.tolist())
            assert found == [] or found[-1] == len(keys), found
            if tree is not None:
                assert found == sorted(tree.find_matches(prompts.hashes[i]).scores.values())


def bench_fleet(workers: int, pairs: int, peer: Peer | None, rounds: int) -> list[Result]:
    """Hits and misses in a fleet of so many workers, and from tokens to scores."""
    stored = fleet(workers, pairs)
    deep = long_sequences(workers)
    everything = stored + deep
    random = np.random.default_rng(4)
    chosen = random.choice(len(stored), size=min(QUERIES, len(stored)), replace=False).tolist()
    prompts = {
        "512 blocks hit": Prompts([stored[i].tokens for i in chosen], peer),
        "8 192 blocks hit": Prompts([held.tokens for held in deep], peer),
        "512 blocks miss": Prompts([random_tokens(random, 512) for _ in range(64)], peer),
    }
    names = {"512 blocks hit": "hit512", "8 192 blocks hit": "hit8192", "512 blocks miss": "miss512"}
    indexes = {
        "closed": filled_index(everything),
        "open": filled_index(everything, closed=False),
        "closed/4": filled_index(everything, shards=4),
        "closed/16": filled_index(everything, shards=16),
    }
    tree = peer.filled_tree(everything) if peer else None
    results = []
    for what, asked in prompts.items():
        timings, theirs = measure(indexes, tree, asked, rounds)
        for kind, timing in timings.items():
            lanes, _, shards = kind.partition("/")
            label = f"{what}, {workers} workers, {lanes} lanes" + (f", {shards} shards" if shards else "")
            results.append(timed(f"match/{names[what]}/{workers}/{kind}", label, timing, theirs))
    atlas = filled_atlas(everything)
    for what, asked in prompts.items():
        row, label = f"score/{names[what]}/{workers}", f"{what}, {workers} workers, tokens to scores"
        results.append(bench_scores(row, label, atlas, peer, tree, asked, rounds))
    return results


def bench_scores(
    row: str, label: str, atlas: Atlas, peer: Peer | None, tree: Any, asked: Prompts, rounds: int
) -> Result:
    """Token ids to a score by worker, each side from the kind of ids it likes best."""
    contenders = {"ours": over(lambda tokens: dict(atlas.score(tokens, model=MODEL)), asked.tokens)}
    if peer is not None:
        contenders["peer"] = over(
            lambda tokens: tree.find_matches(peer.block_hashes(tokens)).scores, asked.lists
        )
    timings = alternate(contenders, rounds=rounds)
    return timed(row, label, timings["ours"], timings.get("peer"))


def bench_matching_lanes(pairs: int, peer: Peer | None, rounds: int, chains: int) -> list[Result]:
    """The same chain of 512 blocks held by more and more workers, in one table."""
    random = np.random.default_rng(5)
    held_by: dict[int, list[Held]] = {}
    asked: dict[int, Prompts] = {}
    for workers in (8, 64, 1024):
        tokens = [random_tokens(random, 512) for _ in range(chains)]
        asked[workers] = Prompts(tokens, peer)
        held_by[workers] = [
            Held(worker, t, keys, 0)
            for t, keys in zip(tokens, asked[workers].keys, strict=True)
            for worker in range(workers)
        ]
    everything = fleet(64, pairs) + [held for group in held_by.values() for held in group]
    indexes = {"closed": filled_index(everything), "open": filled_index(everything, closed=False)}
    tree = peer.filled_tree(fleet(64, pairs)) if peer else None
    if peer is not None:
        for workers, group in held_by.items():
            fill_tree(tree, peer, group, asked[workers])
    results = []
    for workers, prompts in asked.items():
        timings, theirs = measure(indexes, tree, prompts, rounds)
        for kind, timing in timings.items():
            label = f"512 blocks that {workers} workers hold, {kind} lanes"
            results.append(timed(f"lanes/{workers}/{kind}", label, timing, theirs))
    return results


def fill_tree(tree: Any, peer: Peer, group: list[Held], prompts: Prompts) -> None:
    hashes = {id(keys): own for keys, own in zip(prompts.keys, prompts.hashes, strict=True)}
    for held in group:
        own = hashes[id(held.keys)]
        tree.apply_event(held.worker, peer.stored(Event(held, 0, len(own)), own))


def main() -> None:
    args = arguments(__doc__).parse_args()
    peer = load_peer()
    pairs, rounds = (PAIRS // 4, 15) if args.quick else (PAIRS, 101)
    results: list[Result] = []
    for workers in (8, 64):
        results += bench_fleet(workers, pairs, peer, rounds)
    results += bench_matching_lanes(pairs, peer, rounds, chains=1 if args.quick else 4)
    show(results, args.json)


if __name__ == "__main__":
    main()
