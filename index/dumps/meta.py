"""What a dump says of itself: whose content it is, and with which keys it was made.

Lanes are small numbers that mean something only beside the parts that name them; so a dump carries
the parts. Block keys mean something only to who makes them alike; so it carries prints of the keyspaces,
never their seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
import numpy as np

from kvatlas.index.errors import DumpError
from kvatlas.index.keys import BLOCK_SIZE_MAX, Algorithm, keyspace
from kvatlas.index.view import FleetPart

_LANES_MAX = 65535
_CREATED_S_MAX = 1e11
"""The year 5138."""
_PARTS_MAX = 4096
"""More than a cluster has sessions; an empty one takes a byte in a file and two hundred in memory."""


class KeyspacePrint(msgspec.Struct, frozen=True):
    """What the block keys of a model were made with, without the seed itself."""

    block_size_tokens: Annotated[int, msgspec.Meta(ge=1, le=BLOCK_SIZE_MAX)]
    algorithm: Algorithm
    digest: bytes
    """Of one block key: differs when the seed or the model does."""

    @classmethod
    def of(cls, model: str, block_size_tokens: int, algorithm: Algorithm, hash_seed: str) -> KeyspacePrint:
        space = keyspace(model, block_size_tokens, algorithm, hash_seed)
        probe = space.keys(np.arange(block_size_tokens, dtype=np.uint32), None, None, None)
        digest = hashlib.blake2b(probe.tobytes(), digest_size=8, person=b"kvatlas.dump").digest()
        return cls(block_size_tokens, algorithm, digest)


class DumpMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a dump."""

    created_s: Annotated[float, msgspec.Meta(ge=0, le=_CREATED_S_MAX)]
    """Unix time of the instant that the content is of."""
    cluster: str = ""
    """Name of where it comes from; for people."""
    keyspaces: dict[str, KeyspacePrint] = {}
    """By model."""
    parts: Annotated[tuple[FleetPart, ...], msgspec.Meta(max_length=_PARTS_MAX)] = ()
    """Who the lanes are."""

    def __post_init__(self) -> None:
        """Raises ValueError for lanes that are none: whoever reads a dump may use them as they are."""
        for part in self.parts:
            lanes = [group.lane for worker in part.workers for group in worker.groups]
            for lane in (*lanes, *part.stores.values()):
                if not 0 <= lane < _LANES_MAX:
                    raise ValueError(f"expected lanes from 0 to {_LANES_MAX - 1}, got {lane}")


class DumpTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a dump."""

    sections: int = 0
    entries: int = 0
    """Blocks; one that several sections hold counts in each."""
    pairs: int = 0
    """Of a block and a lane that holds it."""
    section_bytes: int = 0
    checksum: int = 0
    """zlib's crc32 over the checksums of the sections, 4 bytes each, in their order."""


def keyspaces_of(
    parts: Iterable[FleetPart], algorithm: Algorithm, hash_seed: str
) -> dict[str, KeyspacePrint]:
    """Of every model whose block size is known. Where parts speak of one model, the last is believed."""
    sizes = _block_sizes(parts)
    return {model: KeyspacePrint.of(model, size, algorithm, hash_seed) for model, size in sizes.items()}


def _block_sizes(parts: Iterable[FleetPart]) -> dict[str, int]:
    return {model: size for part in parts for model, size in part.block_sizes.items() if size > 0}


def require_keyspaces(
    meta: DumpMeta, live: Mapping[str, KeyspacePrint], *, name: str = "dump"
) -> tuple[str, ...]:
    """Raise DumpError unless the dump's block keys are those that `live` makes.

    Returns the models that only the dump has: their keys cannot be compared.
    """
    for model, size in _block_sizes(meta.parts).items():
        space = meta.keyspaces.get(model)
        if space is None or space.block_size_tokens != size:
            told = "none" if space is None else f"one of {space.block_size_tokens} tokens"
            raise DumpError(f"{name}, model {model!r}: expected a print of its {size}-token keys, got {told}")
    for model, theirs in meta.keyspaces.items():
        ours = live.get(model)
        if ours is None or ours == theirs:
            continue
        if (ours.block_size_tokens, ours.algorithm) == (theirs.block_size_tokens, theirs.algorithm):
            raise DumpError(f"{name}, model {model!r}: expected block keys of this hash_seed, got another's")
        raise DumpError(
            f"{name}, model {model!r}: expected block keys of {ours.block_size_tokens} tokens by"
            f" {ours.algorithm}, got {theirs.block_size_tokens} tokens by {theirs.algorithm}"
        )
    return tuple(sorted(set(meta.keyspaces) - set(live)))
