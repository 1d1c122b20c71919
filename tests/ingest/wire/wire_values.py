"""Hypothesis strategies for the values inside payloads of KV events, in every form of the wire.

A sound one comes as a pair of what it says and its bytes; one that may be anything as its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

from kvatlas.ingest.wire.events import ExtraKey
from tests.ingest.wire import wire_forms as wire

T = TypeVar("T")
Sound = st.SearchStrategy[tuple[T, bytes]]
Raw = st.SearchStrategy[bytes]

U64_MAX = (1 << 64) - 1
I64_MAX = (1 << 63) - 1


def any_form(forms: list[bytes]) -> Raw:
    return st.sampled_from(forms)


def written(values: st.SearchStrategy[T], forms: Callable[[T], list[bytes]]) -> Sound[T]:
    """Values, each with any of its encodings."""
    return values.flatmap(lambda value: st.tuples(st.just(value), any_form(forms(value))))


def listed(elements: Sound[T], min_size: int = 0, max_size: int = 4) -> Sound[tuple[T, ...]]:
    """Lists of sound elements, in any form of an array."""

    def join(pairs: list[tuple[T, bytes]]) -> Sound[tuple[T, ...]]:
        forms = wire.array_forms([raw for _, raw in pairs])
        return st.tuples(st.just(tuple(value for value, _ in pairs)), any_form(forms))

    return st.lists(elements, min_size=min_size, max_size=max_size).flatmap(join)


def or_nil(sound: Sound[T], meaning: Any = None) -> Sound[Any]:
    return st.just((meaning, wire.NIL)) | sound


texts = (
    st.sampled_from(["GPU", "cpu", "STORAGE", "LOCAL", "full_attention", "cache_salt", ""])
    | st.text(max_size=5)
    | st.binary(max_size=40).map(lambda body: body.decode("utf-8", "surrogateescape"))
)
edges = st.sampled_from([0, 1, 31, 32, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**32 - 1])
sound_texts = written(texts, wire.str_forms)


def sound_ints(low: int, high: int) -> Sound[int]:
    values = edges.filter(lambda value: low <= value <= high) | st.integers(low, high)
    return written(values, wire.int_forms)


def _hash_forms(value: int) -> list[bytes]:
    whole = value.to_bytes(8, "big")
    digests = [whole, b"\xff" * 24 + whole, whole.lstrip(b"\0") or b"\0"]
    forms = wire.int_forms(value) + [raw for body in digests for raw in wire.bin_forms(body)]
    return forms + wire.int_forms(value - (1 << 64)) if value > I64_MAX else forms


def _parent_forms(value: int | None) -> list[bytes]:
    return _hash_forms(value) if value else [wire.NIL, *_hash_forms(0)]


hashes = st.integers(0, U64_MAX) | st.integers(0, 300) | st.just(U64_MAX)
sound_hashes = written(hashes, _hash_forms)
sound_parents = written(st.none() | st.integers(1, U64_MAX), _parent_forms)

any_scalar: Raw = st.one_of(
    st.sampled_from([wire.NIL, wire.TRUE, wire.FALSE, b"\x90", b"\x80"]),
    sound_ints(-I64_MAX - 1, U64_MAX).map(lambda pair: pair[1]),
    written(st.floats(), wire.float_forms).map(lambda pair: pair[1]),
    sound_texts.map(lambda pair: pair[1]),
    written(st.binary(max_size=9), wire.bin_forms).map(lambda pair: pair[1]),
    st.builds(wire.ext_forms, st.integers(-128, 127), st.binary(max_size=17)).flatmap(any_form),
)
anything: Raw = st.recursive(
    any_scalar,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(wire.array_forms),
        st.lists(st.tuples(inner, inner), max_size=3).map(wire.map_forms),
    ).flatmap(any_form),
    max_leaves=6,
)
"""Any one whole msgpack value."""


@st.composite
def _sound_pairs(draw: st.DrawFn) -> tuple[tuple[str, int], bytes]:
    """A multimodal identifier and its offset, and perhaps more behind it."""
    identifier, raw_identifier = draw(sound_texts)
    offset, raw_offset = draw(sound_ints(-I64_MAX - 1, I64_MAX))
    more = draw(st.lists(anything, max_size=1))
    raw = draw(any_form(wire.array_forms([raw_identifier, raw_offset, *more])))
    return (identifier, offset), raw


@st.composite
def sound_lora_names(draw: st.DrawFn) -> tuple[tuple[str | None, str | None], bytes]:
    """LoRA name and cache salt: a name, or the map that holds the salt."""
    if draw(st.booleans()):
        name, raw = draw(or_nil(sound_texts))
        return (name, None), raw
    others = draw(st.lists(st.tuples(any_scalar, anything), max_size=2))
    pairs = [(key, value) for key, value in others if b"cache_salt" not in key]
    salt: str | None = None
    for _ in range(draw(st.integers(0, 2))):
        salt, raw = draw(sound_texts | st.just((None, wire.TRUE)))
        pairs.append((draw(any_form(wire.str_forms("cache_salt"))), raw))
    return (None, salt), draw(any_form(wire.map_forms(pairs)))


def sound_extra_keys(n_blocks: int) -> Sound[tuple[tuple[ExtraKey, ...] | None, ...] | None]:
    opaque = [wire.TRUE, wire.integer(7), wire.array(), wire.array(wire.text("x")), wire.mapping()]
    elements: Sound[ExtraKey] = (
        sound_texts
        | written(st.binary(max_size=9), wire.bin_forms)
        | _sound_pairs()
        | st.sampled_from(opaque).map(lambda raw: (None, raw))
    )
    blocks = or_nil(listed(elements, max_size=3))
    return or_nil(listed(blocks, min_size=n_blocks, max_size=n_blocks))
