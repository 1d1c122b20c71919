"""The peer that is measured beside kvatlas: NVIDIA Dynamo's radix tree (`ai-dynamo-runtime`).

Its blocks have two names: an engine hash, and a hash of the block's own tokens by which the tree
is walked. Source: the stub file of dynamo._core.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import msgspec
from results import PEER
from workload import BLOCK_TOKENS, Event, Held, engine_keys


def load_peer() -> Peer | None:
    """The peer, or None after a line that says that it is missing."""
    try:
        return Peer(importlib.import_module("dynamo._core"))
    except ImportError as error:
        print(f"{PEER} is left out: {error}. `pip install 'kvatlas[bench]'` brings it.\n")
        return None


class Peer:
    """What of dynamo._core the benchmarks use."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._encode = msgspec.json.Encoder().encode

    def block_hashes(self, tokens: list[int]) -> list[int]:
        hashes: list[int] = self._core.compute_block_hash_for_seq(tokens, BLOCK_TOKENS)
        return hashes

    def tree(self) -> Any:
        """An empty RadixTree: apply_event(worker, JSON), find_matches(block hashes)."""
        return self._core.RadixTree()

    def filled_tree(self, sequences: Iterable[Held]) -> Any:
        tree = self.tree()
        for held in sequences:
            hashes = self.block_hashes(held.tokens.tolist())
            tree.apply_event(held.worker, self.stored(Event(held, held.first_new, len(hashes)), hashes))
        return tree

    def stored(self, event: Event, hashes: list[int]) -> bytes:
        """An event in the bytes that apply_event takes; `hashes` are the whole sequence's."""
        held, begin, end = event
        names = engine_keys(held.keys[max(begin - 1, 0) : end]).tolist()
        parent = names.pop(0) if begin else None
        blocks = [
            {"block_hash": name, "tokens_hash": own}
            for name, own in zip(names, hashes[begin:end], strict=True)
        ]
        return self._encode(
            {"event_id": 1, "data": {"stored": {"parent_hash": parent, "blocks": blocks}}, "dp_rank": 0}
        )
