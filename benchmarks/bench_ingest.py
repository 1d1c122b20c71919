"""How many blocks a second go from raw payloads through decoder and mirror into the table, on one thread."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from peer import Peer, load_peer
from results import Result, arguments, rated, show
from timing import Contender, alternate, settle
from workload import BLOCK_TOKENS, MODEL, PAIRS, SEED, Held, events, fleet, pairs_of, payload, topic

from kvatlas import Atlas, AtlasConfig, ModelConfig

WORKERS = 64


class Stream(NamedTuple):
    """The same stores for both sides, one event a message."""

    messages: list[tuple[bytes, int, bytes]]
    """Topic, sequence number, payload."""
    peer_messages: list[tuple[int, bytes]]
    """Worker, event as JSON."""


def make_stream(sequences: list[Held], blocks: int, peer: Peer | None) -> Stream:
    stream = Stream([], [])
    numbers = dict.fromkeys(range(WORKERS), 0)
    hashes = {id(held): peer.block_hashes(held.tokens.tolist()) for held in sequences} if peer else {}
    for event in events(sequences, blocks):
        worker = event.held.worker
        stream.messages.append((topic(worker), numbers[worker], payload(event)))
        numbers[worker] += 1
        if peer is not None:
            stream.peer_messages.append((worker, peer.stored(event, hashes[id(event.held)])))
    return stream


def new_atlas() -> Atlas:
    settle()
    return Atlas(AtlasConfig(hash_seed=SEED, models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}))


def ingest(messages: list[tuple[bytes, int, bytes]], atlas: Atlas) -> None:
    for frames in messages:
        atlas.ingest(*frames)


def new_tree(peer: Peer) -> Any:
    settle()
    return peer.tree()


def apply_events(messages: list[tuple[int, bytes]], tree: Any) -> None:
    for message in messages:
        tree.apply_event(*message)
    tree.find_matches([])  # what was applied on the tree's own thread is done now


def bench_event_size(blocks: int, pairs: int, rounds: int, peer: Peer | None) -> Result:
    sequences = fleet(WORKERS, pairs)
    stream = make_stream(sequences, blocks, peer)
    n_blocks = pairs_of(sequences)
    contenders = {"ours": Contender(new_atlas, functools.partial(ingest, stream.messages), n_blocks)}
    if peer is not None:
        run = functools.partial(apply_events, stream.peer_messages)
        contenders["peer"] = Contender(functools.partial(new_tree, peer), run, n_blocks)
    check(stream, n_blocks)
    timings = alternate(contenders, rounds=rounds, warm_up=1)
    name = "1 block" if blocks == 1 else f"{blocks} blocks"
    return rated(f"ingest/{blocks}", f"{name} an event", timings["ours"], timings.get("peer"))


def check(stream: Stream, n_blocks: int) -> None:
    atlas = new_atlas()
    ingest(stream.messages, atlas)
    statistics = atlas.statistics()
    assert statistics.events["blocks_stored"] == n_blocks, statistics
    assert not any(statistics.skips.values()), statistics.skips


def main() -> None:
    args = arguments(__doc__).parse_args()
    peer = load_peer()
    pairs, rounds = (PAIRS // 10, 3) if args.quick else (PAIRS, 5)
    results = [bench_event_size(blocks, pairs, rounds, peer) for blocks in (512, 16, 1)]
    show(results, args.json)


if __name__ == "__main__":
    main()
