"""What the extras of an event say about one block: the naive reading of the wire's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.models.block_keys import Extras

Extra = str | bytes | tuple[str, int] | None
"""One element of a block's list on the wire; None is one that the decoder could not place."""

FIRST = -(2**63)
"""Offset before all others: identifiers without one come first, in the order of the wire."""


@dataclass(frozen=True)
class Place:
    """Where the block lies and under which rules it is keyed."""

    first: bool
    """It is the first block of its chain."""
    aligned: bool
    """It is exactly one index block."""
    algorithm: str
    lora: str | None
    salt: str | None
    """A salt that came beside the lists."""


def peel(elements: Sequence[Extra] | None, place: Place) -> Extras | str:
    """The block's extras, or the reason for which the block cannot be indexed."""
    rest = list(elements or ())
    if rest and place.lora is not None and rest[0] == place.lora:
        rest = rest[1:]
    pairs = [element for element in rest if isinstance(element, tuple)]
    embeddings = [element for element in rest if isinstance(element, bytes)]
    strings = [element for element in rest if isinstance(element, str)]
    salts = [salt for salt in [*strings, place.salt] if salt] if place.first else []
    bare = [] if place.first else strings
    if None in rest:
        return "extras_opaque"
    if len(salts) > 1:
        return "extras_ambiguous"
    if place.algorithm == "fnv64a_cbor" and (salts or embeddings):
        return "extras_unsupported"
    if bare and place.algorithm == "fold64":
        return "extras_without_offset"
    if (pairs or embeddings or bare) and not place.aligned:
        return "extras_misaligned"
    return Extras(
        multimodal=tuple([(name, FIRST + i) for i, name in enumerate(bare)] + pairs),
        salt=salts[0] if salts else None,
        embeddings=tuple(embeddings),
    )
