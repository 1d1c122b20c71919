"""Multimodal items on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.service.wire.features import read_features, write_features
from kvatlas.tokenize.service.wire.schema import message_class


def message(hashes: dict[str, list[str]], places: dict[str, list[tuple[int, int]]]) -> Any:
    return message_class("MultiModalFeatures")(
        mm_hashes={name: {"values": values} for name, values in hashes.items()},
        mm_placeholders={
            name: {"ranges": [{"offset": offset, "length": length} for offset, length in ranges]}
            for name, ranges in places.items()
        },
    )


def test_what_is_written_is_read() -> None:
    features = (("a", 1, 4), ("b", 5, 1), ("a", 9, 2))
    wire = message_class("MultiModalFeatures")()
    write_features(features, wire)
    arrived = message_class("MultiModalFeatures").FromString(wire.SerializeToString())
    assert read_features(arrived, 11, "x") == features


def test_items_of_all_modalities_are_in_the_order_of_the_prompt() -> None:
    wire = message({"image": ["i", "j"], "audio": ["a"]}, {"image": [(8, 2), (0, 3)], "audio": [(3, 5)]})
    assert read_features(wire, 10, "x") == (("j", 0, 3), ("a", 3, 5), ("i", 8, 2))
    assert read_features(message({}, {}), 0, "x") == ()


@pytest.mark.parametrize(
    ("hashes", "places", "expected"),
    [
        ({"image": ["a"]}, {}, "as many identifiers as placeholders"),
        ({}, {"image": [(0, 1)]}, "as many identifiers as placeholders"),
        ({"image": ["a"]}, {"image": [(9, 2)]}, "within 10 tokens, got 2 at 9"),
        ({"image": ["a"]}, {"image": [(-1, 2)]}, "within 10 tokens"),
        ({"image": ["a"]}, {"image": [(1, 0)]}, "within 10 tokens"),
        ({"image": ["a"]}, {"image": [(1, -5)]}, "within 10 tokens"),
        ({"image": ["a", "b"]}, {"image": [(0, 4), (3, 2)]}, "one after the other"),
        ({"image": ["a"]}, {"image": [(2**31 - 1, 2**31 - 1)]}, "within 10 tokens"),
    ],
)
def test_what_cannot_be_is_refused(
    hashes: dict[str, list[str]], places: dict[str, list[tuple[int, int]]], expected: str
) -> None:
    with pytest.raises(TokenizerError, match=expected):
        read_features(message(hashes, places), 10, "x")
