"""A small world of prompts, so that random events meet the same blocks again and again.

An engine names a block by hashing its whole chain, and so does `Chain.key`: events about one
chain always agree with one another, in whatever order they come.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

from kvatlas.ingest.wire.events import ExtraKey
from tests.models.block_keys import Feature, overlapping

VARIANTS = (
    "plain",
    "plain_unsaid",
    "twin",
    "lora",
    "lora_unsaid",
    "lora_numbered",
    "lora_unnamed",
    "salt",
    "salt_beside",
    "lora_and_salt",
    "two_salts",
    "image",
    "image_first",
    "bare_image",
    "embedding",
    "opaque",
)
LORA_NAMES = {7: "seven"}
BLOCKS_MAX = 6


@dataclass(frozen=True)
class Chain:
    """The engine blocks of one prompt on an engine with blocks of `size` tokens."""

    variant: str
    path: tuple[int, ...]
    """What each block holds, as a small number."""
    size: int

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        return tuple(map(self._token, range(start * self.size, stop * self.size)))

    def _token(self, position: int) -> int:
        """Of choice 1 a block differs from its first token on, of choice 2 from its middle on."""
        choice = self.path[position // self.size]
        differs = choice == 1 or (choice == 2 and position % self.size >= self.size // 2)
        return position * 7 + (1_000 * choice if differs else 0)

    def key(self, i: int) -> int:
        """The engine's name of block `i`."""
        return engine_key(self, i)

    @property
    def lora_id(self) -> int | None:
        return {"lora_numbered": 7, "lora_unnamed": 9, "lora_and_salt": 7}.get(self.variant)

    @property
    def lora(self) -> str | None:
        """As the events name it."""
        named = self.variant in ("lora", "lora_unsaid", "lora_and_salt")
        return "lo" if named else None

    @property
    def unsaid(self) -> bool:
        """The events carry no extra keys at all."""
        return self.variant.endswith(("_unsaid", "_numbered", "_unnamed"))

    def extras(self, i: int) -> tuple[ExtraKey, ...] | None:
        """The extra keys of block `i`, as vLLM orders them."""
        if self.variant == "lora":
            return ("lo",)
        if self.variant == "lora_and_salt":
            return ("lo", "lo") if i == 0 else ("lo",)
        if self.variant.startswith("image"):
            items = overlapping(self.features, i * self.size, self.size)
            return tuple(items) or None
        by_block: dict[tuple[str, int], tuple[ExtraKey, ...]] = {
            ("salt", 0): ("s1",),
            ("two_salts", 0): ("s1", "s2"),
            ("bare_image", 1): ("img",),
            ("embedding", 1): (b"\x01\x02",),
            ("opaque", 2): (None,),
        }
        return by_block.get((self.variant, i))

    @property
    def salt_beside(self) -> str | None:
        return "s1" if self.variant == "salt_beside" else None

    @property
    def features(self) -> list[Feature]:
        size = self.size
        if self.variant == "image":
            return [("img", size + size // 2, size), ("a", 2 * size + 1, 1)]
        return [("img", 0, 2 * size), ("b", 0, 1)] if self.variant == "image_first" else []

    def prompt(self, blocks: int, more: int) -> dict[str, Any]:
        """A request for the chain's first blocks and some tokens more."""
        named = {7: "seven"}.get(self.lora_id or 0)
        salts = {"salt": "s1", "salt_beside": "s1", "lora_and_salt": "lo"}
        return {
            "token_ids": [*self.tokens(0, min(blocks, len(self.path))), *range(more)],
            "lora": self.lora or named,
            "cache_salt": salts.get(self.variant),
            "features": self.features or None,
        }


@functools.lru_cache(maxsize=100_000)
def engine_key(chain: Chain, i: int) -> int:
    """The same for all chains that are alike up to block `i`; 0 and 2^64-1 are names as well."""
    if i == BLOCKS_MAX - 1 and set(chain.path) == {1}:
        return 0
    if i == 1 and chain.variant == "plain" and set(chain.path[:2]) == {1}:
        return 2**64 - 1
    kind = chain.variant.removesuffix("_unsaid")
    kind = kind if kind not in ("image", "bare_image", "embedding", "opaque") else "plain"
    extras = [chain.extras(j) for j in range(i + 1)]
    name = repr((kind, chain.size, chain.path[: i + 1], extras))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
