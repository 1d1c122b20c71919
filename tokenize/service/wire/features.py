"""Multimodal items on the wire: identifiers and placeholders by modality."""

from __future__ import annotations

from typing import Any

from kvatlas.index.errors import TokenizerError
from kvatlas.index.keys import Feature

_MODALITY = "image"  # the one that requests have a field for; kvatlas itself keys by identifier alone


def write_features(features: tuple[Feature, ...], message: Any) -> None:
    """Fills a MultiModalFeatures."""
    for identifier, offset, length in features:
        message.mm_hashes[_MODALITY].values.append(identifier)
        message.mm_placeholders[_MODALITY].ranges.add(offset=offset, length=length)


def read_features(message: Any, n_tokens: int, where: str) -> tuple[Feature, ...]:
    """Of a MultiModalFeatures, by offset. Raises TokenizerError where they cannot be those of `n_tokens`
    tokens."""
    features: list[Feature] = []
    for modality in sorted({*message.mm_hashes, *message.mm_placeholders}):
        # Asking a protobuf map for what it has not makes it.
        identifiers = message.mm_hashes[modality].values if modality in message.mm_hashes else ()
        ranges = message.mm_placeholders[modality].ranges if modality in message.mm_placeholders else ()
        if len(identifiers) != len(ranges):
            raise TokenizerError(
                f"{where}: expected as many identifiers as placeholders of {modality!r}, "
                f"got {len(identifiers)} and {len(ranges)}"
            )
        features += [(name, r.offset, r.length) for name, r in zip(identifiers, ranges, strict=True)]
    features.sort(key=lambda feature: feature[1])
    end = 0
    for identifier, offset, length in features:
        if offset < end or length < 1 or offset + length > n_tokens:
            raise TokenizerError(
                f"{where}: expected placeholders one after the other within {n_tokens} tokens, "
                f"got {length} at {offset} of {identifier!r}"
            )
        end = offset + length
    return tuple(features)
