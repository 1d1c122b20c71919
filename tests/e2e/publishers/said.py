"""What a server says of its cache, and what follows from it: made together, from prompts.

It makes events in the newest form, with the hashes of a server of its own; what holds is told as the
block keys that a reader computes from the same prompts. So an atlas that agrees has understood
the events, and the events of two releases mean the same.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from kvatlas import block_keys
from tests.e2e.publishers.publisher import MODEL, Event, Publisher

BLOCK_SIZE_TOKENS = 16
HASH_SEED = "old publishers"
GPU_BIT = 1
LORA_NUMBERS = {"a lora": 7}


@dataclass(frozen=True)
class Prompt:
    """Full blocks only."""

    tokens: tuple[int, ...]
    lora: str | None = None
    cache_salt: str | None = None
    hashes_are_bytes: bool = False

    @property
    def blocks(self) -> int:
        return len(self.tokens) // BLOCK_SIZE_TOKENS

    @functools.cached_property
    def keys(self) -> list[int]:
        """Block keys, as a reader computes them."""
        keys = block_keys(
            self.tokens,
            model=MODEL,
            block_size=BLOCK_SIZE_TOKENS,
            hash_seed=HASH_SEED,
            lora=self.lora,
            cache_salt=self.cache_salt,
        )
        return [int(key) for key in keys]

    @functools.cached_property
    def _digests(self) -> list[bytes]:
        digests = [repr((self.lora, self.cache_salt)).encode()]
        for first in range(0, len(self.tokens), BLOCK_SIZE_TOKENS):
            block = repr(self.tokens[first : first + BLOCK_SIZE_TOKENS]).encode()
            digests.append(hashlib.sha256(digests[-1] + block).digest())
        return digests[1:]

    def engine_hash(self, block: int) -> int | bytes:
        """As the releases do: 32 bytes, or of them the last eight as a number."""
        digest = self._digests[block]
        return digest if self.hashes_are_bytes else int.from_bytes(digest[-8:], "big")

    def extra_keys(self, block: int) -> tuple[str, ...] | None:
        lora = () if self.lora is None else (self.lora,)
        salt = () if self.cache_salt is None or block > 0 else (self.cache_salt,)
        return lora + salt or None


def prompt(seed: str, blocks: int, **options: Any) -> Prompt:
    """A prompt of its own: those of two seeds share no block."""
    source = random.Random(seed)
    return Prompt(tuple(source.randrange(100_000) for _ in range(blocks * BLOCK_SIZE_TOKENS)), **options)


def longer(start: Prompt, blocks: int) -> Prompt:
    """The prompt with further blocks."""
    more = prompt(repr(start), blocks)
    return Prompt(start.tokens + more.tokens, start.lora, start.cache_salt, start.hashes_are_bytes)


class Said:
    """Counts copies of blocks as the events add and remove them."""

    def __init__(self) -> None:
        self._copies: Counter[int] = Counter()

    def held(self) -> dict[int, int]:
        """Tier bits by block key."""
        return dict.fromkeys(+self._copies, GPU_BIT)

    def store(self, what: Prompt, first: int = 0, last: int | None = None) -> Event:
        """Blocks `first` up to but without `last`."""
        blocks = range(what.blocks)[first:last]
        self._copies.update(what.keys[first:last])
        return {
            "type": "BlockStored",
            "block_hashes": [what.engine_hash(block) for block in blocks],
            "parent_block_hash": what.engine_hash(first - 1) if first else None,
            "token_ids": list(what.tokens[first * BLOCK_SIZE_TOKENS : blocks.stop * BLOCK_SIZE_TOKENS]),
            "block_size": BLOCK_SIZE_TOKENS,
            "lora_id": None if what.lora is None else LORA_NUMBERS[what.lora],
            "lora_name": what.lora,
            "medium": "GPU",
            "extra_keys": [what.extra_keys(block) for block in blocks],
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }

    def remove(self, what: Prompt, block: int) -> Event:
        """One copy of one block, as servers do."""
        self._copies[what.keys[block]] -= 1
        return {
            "type": "BlockRemoved",
            "block_hashes": [what.engine_hash(block)],
            "medium": "GPU",
            "group_idx": 0,
        }

    def clear(self) -> Event:
        self._copies.clear()
        return {"type": "AllBlocksCleared"}


def conversation(publisher: Publisher, said: Said, name: str, batches: int = 20) -> Prompt:
    """A chat that grows by a block a batch, while one block of another is stored and removed."""
    chat = prompt(f"{name} chat", batches)
    passing = prompt(f"{name} passing", 1)
    publisher.publish(
        *(
            [said.store(chat, turn, turn + 1), said.store(passing), said.remove(passing, 0)]
            for turn in range(batches)
        )
    )
    return chat
