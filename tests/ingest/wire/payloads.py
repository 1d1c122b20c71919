"""Hypothesis strategies for payloads of KV events, sound and unsound, in every form of the wire.

A sound one comes as a pair of what it says and its bytes; one that may be anything as its bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import strategies as st

from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored, Event, EventBatch
from tests.ingest.wire import wire_forms as wire
from tests.ingest.wire.mutations import mutate
from tests.ingest.wire.wire_values import (
    I64_MAX,
    U64_MAX,
    Raw,
    Sound,
    any_form,
    any_scalar,
    anything,
    listed,
    or_nil,
    sound_extra_keys,
    sound_hashes,
    sound_ints,
    sound_lora_names,
    sound_parents,
    sound_texts,
    written,
)

Fields = dict[str, tuple[Any, bytes]]

STORED_ORDER = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
)
REMOVED_ORDER = ("block_hashes", "medium", "group_idx")
MAP_ONLY = ("locality", "ownership")


def _one_of_the_rest(draw: st.DrawFn) -> Fields:
    """Fields that stored and removed events share."""
    return {
        "medium": draw(or_nil(sound_texts)),
        "group_idx": draw(or_nil(sound_ints(0, 63), 0)),
        "locality": draw(or_nil(sound_texts)),
        "ownership": draw(or_nil(sound_texts)),
    }


def _written_event(
    draw: st.DrawFn, tag: str, order: tuple[str, ...], fields: Fields
) -> tuple[dict[str, Any], bytes]:
    """An event as array or map with some of its fields, and the values of those."""
    raw_tag = draw(any_form(wire.str_forms(tag)))
    if draw(st.booleans()):
        kept = order[: draw(st.integers(1, len(order)))]
        more = draw(st.lists(anything, max_size=3)) if kept == order else []
        raw = draw(any_form(wire.array_forms([raw_tag, *(fields[k][1] for k in kept), *more])))
    else:
        optional = [name for name in fields if name != "block_hashes"]
        kept = ("block_hashes", *draw(st.lists(st.sampled_from(optional), unique=True)))
        raw = draw(_maps(raw_tag, {name: fields[name][1] for name in kept}))
    if draw(st.booleans()):
        raw = draw(any_form(wire.bin_forms(raw + draw(st.binary(max_size=2)))))
    return {name: fields[name][0] for name in kept}, raw


@st.composite
def _maps(draw: st.DrawFn, raw_tag: bytes, fields: dict[str, bytes]) -> bytes:
    """A map in any order, with keys to ignore, and worthless values before the repeated ones."""
    pairs = [(draw(any_form(wire.str_forms(name))), raw) for name, raw in fields.items()]
    pairs.append((draw(any_form(wire.str_forms("type"))), raw_tag))
    strange = st.tuples(anything.filter(lambda raw: raw not in _NAMES), anything)
    pairs = draw(st.permutations(pairs + draw(st.lists(strange, max_size=2))))
    if draw(st.booleans()):
        pairs.insert(0, (draw(st.sampled_from(pairs))[0], draw(anything)))
    return draw(any_form(wire.map_forms(pairs)))


def _stored_fields(draw: st.DrawFn) -> Fields:
    names, raw_hashes = draw(listed(sound_hashes))
    return _one_of_the_rest(draw) | {
        "block_hashes": (names, raw_hashes),
        "parent_block_hash": draw(sound_parents),
        "token_ids": draw(or_nil(listed(sound_ints(0, 2**32 - 1), max_size=8), ())),
        "block_size": draw(or_nil(sound_ints(0, 2**31 - 1), 0)),
        "lora_id": draw(or_nil(sound_ints(-I64_MAX - 1, U64_MAX))),
        "lora_name": draw(sound_lora_names()),
        "extra_keys": draw(sound_extra_keys(len(names))),
        "kv_cache_spec_kind": draw(or_nil(sound_texts)),
        "kv_cache_spec_sliding_window": draw(or_nil(sound_ints(0, 2**31 - 1))),
        "chunk_blocks": draw(or_nil(sound_ints(0, 2**31 - 1), 0)),
    }


def _removed_fields(draw: st.DrawFn) -> Fields:
    return _one_of_the_rest(draw) | {"block_hashes": draw(listed(sound_hashes))}


@st.composite
def sound_stored(draw: st.DrawFn) -> tuple[BlockStored, bytes]:
    values, raw = _written_event(draw, "BlockStored", STORED_ORDER, _stored_fields(draw))
    lora_name, cache_salt = values.pop("lora_name", (None, None))
    return BlockStored(lora_name=lora_name, cache_salt=cache_salt, **values), raw


@st.composite
def sound_removed(draw: st.DrawFn) -> tuple[BlockRemoved, bytes]:
    values, raw = _written_event(draw, "BlockRemoved", REMOVED_ORDER, _removed_fields(draw))
    return BlockRemoved(**values), raw


_PHASES: list[tuple[Literal["begin", "end"] | None, bytes]] = [
    ("begin", wire.text("begin")),
    ("end", wire.text("end")),
    *((None, raw) for raw in (wire.text("middle"), wire.integer(7), wire.NIL)),
]


@st.composite
def sound_cleared(draw: st.DrawFn) -> tuple[AllBlocksCleared, bytes]:
    if draw(st.booleans()):
        elements = [wire.text("AllBlocksCleared"), *draw(st.lists(anything, max_size=2))]
        return AllBlocksCleared(), draw(any_form(wire.array_forms(elements)))
    said, raw = draw(st.sampled_from(_PHASES))
    return AllBlocksCleared(said), draw(_maps(wire.text("AllBlocksCleared"), {"inventory": raw}))


sound_events: Sound[Event] = st.one_of(sound_stored(), sound_removed(), sound_cleared())


@st.composite
def sound_batches(draw: st.DrawFn) -> tuple[EventBatch, bytes]:
    """A batch without a fault, as array or map."""
    ts, raw_ts = draw(or_nil(written(st.floats(allow_nan=False), wire.float_forms)))
    rank, raw_rank = draw(or_nil(sound_ints(0, 65_535)))
    events, raw_events = draw(listed(sound_events))
    if draw(st.booleans()):
        elements = [raw_ts, raw_events, raw_rank, *draw(st.lists(anything, max_size=2))]
        raw = draw(any_form(wire.array_forms(elements)))
    else:
        fields = {"ts": raw_ts, "events": raw_events, "data_parallel_rank": raw_rank}
        pairs = [(draw(any_form(wire.str_forms(name))), value) for name, value in fields.items()]
        raw = draw(any_form(wire.map_forms(draw(st.permutations(pairs)))))
    return EventBatch(ts, rank, events, (), 0), raw + draw(st.binary(max_size=2))


_NAMES = {form for name in (*STORED_ORDER, *MAP_ONLY, "type", "cache_salt") for form in wire.str_forms(name)}


@st.composite
def doubtful_events(draw: st.DrawFn) -> bytes:
    """A stored or removed event with some values that may not be what their fields hold."""
    is_stored = draw(st.booleans())
    fields = _stored_fields(draw) if is_stored else _removed_fields(draw)
    order = STORED_ORDER if is_stored else REMOVED_ORDER
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        fields[name] = (None, draw(_doubtful_values))
    return _written_event(draw, "BlockStored" if is_stored else "BlockRemoved", order, fields)[1]


_doubtful_values: Raw = st.one_of(
    anything,
    sound_ints(-I64_MAX - 1, U64_MAX).map(lambda pair: pair[1]),
    sound_extra_keys(1).map(lambda pair: pair[1]),
    sound_lora_names().map(lambda pair: pair[1]),
    st.lists(sound_ints(-1, 2**32).map(lambda pair: pair[1]) | anything, max_size=3)
    .map(wire.array_forms)
    .flatmap(any_form),
)


@st.composite
def doubtful_batches(draw: st.DrawFn) -> bytes:
    """Whole msgpack values that resemble a batch more or less."""
    sound = sound_events.map(lambda pair: pair[1])
    event = st.one_of(doubtful_events(), doubtful_events(), sound, strange_events())
    events = st.lists(event, max_size=3).map(wire.array_forms).flatmap(any_form)
    elements = [draw(anything), draw(events), *draw(st.lists(anything, max_size=3))]
    shape = draw(st.sampled_from(["array", "array", "map", "anything"]))
    if shape == "array":
        return draw(any_form(wire.array_forms(elements)))
    if shape == "map":
        names = st.sampled_from(["ts", "events", "data_parallel_rank", "other"]).map(wire.text)
        more = draw(st.lists(st.tuples(names | anything, events | anything), max_size=3))
        pairs = draw(st.permutations([(wire.text("events"), elements[1]), *more]))
        return draw(any_form(wire.map_forms(pairs)))
    return draw(any_form(wire.array_forms(elements[:1])) | anything)


@st.composite
def strange_events(draw: st.DrawFn) -> bytes:
    """An event of an unknown type, one without a type, or another value altogether."""
    tag = draw(any_scalar)
    elements = draw(st.lists(anything, max_size=2))
    raw = draw(any_form(wire.array_forms([tag, *elements])) | _maps(tag, {}) | anything)
    return draw(any_form(wire.bin_forms(raw))) if draw(st.booleans()) else raw


@st.composite
def damaged_payloads(draw: st.DrawFn) -> bytes:
    """Batches with some of their bytes changed, lost, doubled or put elsewhere."""
    batches = st.one_of(sound_batches().map(lambda pair: pair[1]), doubtful_batches())
    payload, other = draw(batches), draw(batches)
    rng = draw(st.randoms(use_true_random=False))
    for _ in range(draw(st.integers(1, 3))):
        payload = mutate(rng, payload, other)
    return payload


payloads: Raw = st.one_of(
    sound_batches().map(lambda pair: pair[1]),
    doubtful_batches(),
    damaged_payloads(),
    st.binary(max_size=40),
)
