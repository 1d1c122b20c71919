"""Block keys in plain Python: the model that the native keys are held to.

Written from the definitions, for reading and not for speed. `Fold64` and `Fnv64aCbor` know one
keyspace each; `block_keys` is what a reader calls, and the model of the atlas calls `root` and
`next_key` for what a writer was told.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import cbor2

U64 = 2**64 - 1

Feature = tuple[str, int, int]
"""Identifier, offset and length of a multimodal item, in tokens of the prompt."""


@dataclass(frozen=True)
class Extras:
    """What enters the key of one block besides its tokens. An empty salt is none."""

    multimodal: tuple[tuple[str, int], ...] = ()
    """Identifier and offset relative to the block."""
    salt: str | None = None
    embeddings: tuple[bytes, ...] = ()


NO_EXTRAS = Extras()


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def fold(a: int, b: int) -> int:
    """Both halves of the 128-bit product, one onto the other."""
    product = a * b
    return (product & U64) ^ (product >> 64)


class Fold64:
    """The seeded multiply-fold chain of one keyspace."""

    algorithm = "fold64"

    def __init__(self, hash_seed: str, model: str, block_size: int) -> None:
        self.block_size = block_size
        name = b"kvatlas.fold64.v1\0"
        for text in (utf8(hash_seed), utf8(model)):
            name += struct.pack("<I", len(text)) + text
        name += struct.pack("<I", block_size)
        stripe = hashlib.blake2b(name, digest_size=64, salt=b"stripe").digest()
        chain = hashlib.blake2b(name, digest_size=64, salt=b"chain").digest()
        self.secrets: tuple[int, ...] = struct.unpack("<16Q", stripe + chain)

    def root(self, lora: str | None) -> int:
        s = self.secrets
        if not lora:
            return s[14]
        return fold(s[14] ^ s[10], self.bytes_hash(b"l" + utf8(lora)) ^ s[11])

    def next_key(self, previous: int, tokens: Sequence[int], extras: Extras) -> int:
        s = self.secrets
        key = fold(previous ^ s[8], self.digest(tokens) ^ s[9])
        encoded = self.encode(extras)
        if encoded:
            key = fold(key ^ s[10], self.bytes_hash(encoded) ^ s[11])
        return key or 1

    def digest(self, tokens: Sequence[int]) -> int:
        s = self.secrets
        padded = list(tokens) + [0] * (-len(tokens) % 16)
        words = [low | high << 32 for low, high in zip(padded[::2], padded[1::2], strict=True)]
        result: int | None = None
        for start in range(0, len(words), 8):
            stripe = sum(fold(words[start + i] ^ s[i], words[start + i + 1] ^ s[i + 1]) for i in (0, 2, 4, 6))
            stripe &= U64
            result = stripe if result is None else fold(result ^ s[12], stripe ^ s[13])
        assert result is not None, "a block has at least one token"
        return result

    def bytes_hash(self, data: bytes) -> int:
        s = self.secrets
        state = fold(len(data) ^ s[8], s[12])
        for start in range(0, len(data), 16):
            chunk = data[start : start + 16].ljust(16, b"\0")
            first, second = struct.unpack("<QQ", chunk)
            state = fold(state ^ first ^ s[12], second ^ s[13])
        return state

    @staticmethod
    def encode(extras: Extras) -> bytes:
        encoded = b""
        items = [(offset, utf8(identifier)) for identifier, offset in extras.multimodal]
        for offset, identifier in sorted(items):
            encoded += b"m" + struct.pack("<I", len(identifier)) + identifier
            encoded += struct.pack("<q", offset)
        if extras.salt:
            encoded += b"s" + struct.pack("<I", len(utf8(extras.salt))) + utf8(extras.salt)
        for embedding in extras.embeddings:
            encoded += b"e" + struct.pack("<I", len(embedding)) + embedding
        return encoded


class Fnv64aCbor:
    """llm-d's chain of one keyspace: FNV-1a over canonical CBOR."""

    algorithm = "fnv64a_cbor"

    def __init__(self, hash_seed: str, model: str, block_size: int) -> None:
        self.block_size = block_size
        self.model = model
        self.seed = fnv1a64(utf8(hash_seed))

    def root(self, lora: str | None) -> int:
        return fnv_link(self.seed, None, lora or self.model)

    def next_key(self, previous: int, tokens: Sequence[int], extras: Extras) -> int:
        assert extras.salt is None and not extras.embeddings, "there is no place for them"
        ordered = sorted(extras.multimodal, key=lambda item: (item[1], utf8(item[0])))
        hashes = [{"Hash": identifier} for identifier, _ in ordered]
        return fnv_link(previous, list(tokens), hashes or None)


def fnv1a64(data: bytes) -> int:
    state = 0xCBF29CE484222325
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & U64
    return state


def fnv_link(parent: int, tokens: list[int] | None, extra: object) -> int:
    return fnv1a64(cbor2.dumps([parent, tokens, extra], canonical=True))


Keyspace = Fold64 | Fnv64aCbor


def keyspace(algorithm: str, hash_seed: str, model: str, block_size: int) -> Keyspace:
    if algorithm == "fold64":
        return Fold64(hash_seed, model, block_size)
    assert algorithm == "fnv64a_cbor"
    return Fnv64aCbor(hash_seed, model, block_size)


def overlapping(features: Sequence[Feature] | None, start: int, size: int) -> tuple[tuple[str, int], ...]:
    """The items that overlap the block at `start`, with offsets relative to it."""
    return tuple(
        (identifier, offset - start)
        for identifier, offset, length in features or ()
        if offset < start + size and start < offset + length and length > 0
    )


def block_keys(
    token_ids: Sequence[int],
    *,
    model: str,
    block_size: int = 16,
    algorithm: str = "fold64",
    hash_seed: str = "",
    lora: str | None = None,
    cache_salt: str | None = None,
    features: Sequence[Feature] | None = None,
    parent: int | None = None,
) -> list[int]:
    """The keys of the prompt's full blocks; `lora` and `cache_salt` are in the parent, if any."""
    space = keyspace(algorithm, hash_seed, model, block_size)
    key = space.root(lora) if parent is None else parent
    keys: list[int] = []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        salt = cache_salt if start == 0 and parent is None else None
        extras = Extras(multimodal=overlapping(features, start, block_size), salt=salt)
        key = space.next_key(key, token_ids[start : start + block_size], extras)
        keys.append(key)
    return keys
