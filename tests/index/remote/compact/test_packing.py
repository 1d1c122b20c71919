"""Batches as calls of the script, beside a plain model of them."""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pytest

from kvatlas.index._native import remote_lanes_of, remote_pack, remote_questions
from kvatlas.index.errors import InputError
from kvatlas.index.remote.connection.commands import Command, Packed, pack
from tests.index.remote.compact.records import ADD, CPU, GPU, REMOVE, Keys, chain, cleared, closed, told

_RECORD = struct.Struct("<BIH")


class Told(NamedTuple):
    """One key of a batch, under its physical lane."""

    op: int
    element: int
    key: int


class Call(NamedTuple):
    """One call of the script, read as it reads it."""

    bucket: int
    lone: list[tuple[bytes, Told]]
    others: list[tuple[bytes, list[Told]]]


def _names_of(count: int, packed: bytes) -> list[bytes]:
    words = packed.split(b"\r\n")
    assert words.pop() == b""
    names = words[1::2]
    assert words[::2] == [b"$%d" % len(name) for name in names]
    assert len(names) == count
    return names


def _record_at(records: bytes, at: int) -> tuple[list[Told], int]:
    op, element, count = _RECORD.unpack_from(records, at)
    assert count > 0
    at += _RECORD.size
    keys = struct.unpack_from(f"<{count}Q", records, at)
    return [Told(op, element, key) for key in keys], at + 8 * count


def _records_at(records: bytes, at: int) -> tuple[list[Told], int]:
    (count,) = struct.unpack_from("<H", records, at)
    at += 2
    out: list[Told] = []
    for _ in range(count):
        keys, at = _record_at(records, at)
        out += keys
    return out, at


def _calls_of(batch: bytes, phys_of: dict[int, int], n_buckets: int = 1) -> list[Call]:
    calls = []
    for bucket, n_segments, packed, records, n_keys in remote_pack(batch, phys_of, n_buckets, "k"):
        names = _names_of(n_segments, packed)
        lone, at = _records_at(records, 0)
        others = []
        for name in names[len(lone) :]:
            segment, at = _records_at(records, at)
            others.append((name, segment))
        assert at == len(records)
        assert n_keys == len(lone) + sum(len(segment) for _, segment in others)
        calls.append(Call(bucket, list(zip(names, lone, strict=False)), others))
    return calls


def _random_batch(rng: random.Random, chains: list[Keys]) -> tuple[bytes, list[tuple[int, int, int, Keys]]]:
    """A batch, and what it says: op (0: the lane is cleared), lane, tiers, keys of one segment."""
    batch, said = b"", []
    for _ in range(rng.randrange(1, 300)):
        keys, lane = rng.choice(chains), rng.randrange(8)
        if rng.random() < 0.01:
            batch += cleared(lane) + closed(lane)
            said.append((0, lane, 0, keys[:0]))
            continue
        op, tiers, first = rng.choice((ADD, ADD, REMOVE)), rng.choice((GPU, CPU, 63)), rng.randrange(128)
        last = min(128, first + rng.choice((1, 1, 1, 1, 2, 40, 128)))
        batch += told(op, lane, keys, tiers=tiers, first=first, last=last)
        said.append((op, lane, tiers, keys[first:last]))
    return batch, said


def _plain(
    said: list[tuple[int, int, int, Keys]], name_of: dict[int, bytes], phys_of: dict[int, int]
) -> dict[bytes, list[Told]]:
    """What is to be done to each segment, by its name."""
    out: dict[bytes, list[Told]] = defaultdict(list)
    cleared_at = {lane: place for place, (op, lane, _, _) in enumerate(said) if not op}
    for place, (op, lane, tiers, keys) in enumerate(said):
        if place > cleared_at.get(lane, -1) and lane in phys_of:
            for key in keys.tolist():
                out[name_of[key]].append(Told(op, phys_of[lane] << 8 | tiers, key))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("n_buckets", [1, 3])
def test_calls_say_of_each_segment_what_the_batch_says_and_no_more(n_buckets: int) -> None:
    rng = random.Random(n_buckets)
    chains = [chain(128, seed) for seed in range(200)]
    chains[0][5] = 0  # told as 1: no other key may be 0
    names = [remote_questions(keys, n_buckets, "k")[0][1][0] for keys in chains]
    name_of = {key: name for keys, name in zip(chains, names, strict=True) for key in keys.tolist()}
    phys_of = {lane: 1000 * lane + 7 for lane in range(7)}  # one lane has none
    for _ in range(60):
        batch, said = _random_batch(rng, rng.sample(chains, rng.choice((2, 200))))
        expected = _plain(said, name_of, phys_of)
        got: dict[bytes, list[Told]] = defaultdict(list)
        for call in _calls_of(batch, phys_of, n_buckets):
            for name, one in call.lone:
                assert name not in got
                got[name].append(one)
                assert len(expected[name]) == 1
            for name, segment in call.others:
                got[name] += segment
                assert len(expected[name]) > 1
            assert all(b"{k:%d}:s:" % call.bucket in name for name, _ in (*call.lone, *call.others))
            assert [one.op for _, one in call.lone] == sorted((one.op for _, one in call.lone), reverse=True)
        assert got == {
            name: [one._replace(key=max(1, one.key)) for one in segment] for name, segment in expected.items()
        }


def test_lone_blocks_of_many_lanes_take_one_record_a_lane() -> None:
    keys = chain(4000)
    batch = b"".join(told(ADD, place % 16, keys[place : place + 1]) for place in range(len(keys)))
    calls = remote_pack(batch, {lane: lane + 1 for lane in range(16)}, 1, "k")
    assert [call[4] for call in calls] == [1024, 1024, 1024, 928]
    n_records = sum(struct.unpack_from("<H", call[3])[0] for call in calls)
    assert n_records <= 16 + len(calls) - 1
    assert all(len(call[3]) == 2 + 7 * struct.unpack_from("<H", call[3])[0] + 8 * call[4] for call in calls)


def test_packed_names_are_the_arguments_that_they_would_be_one_by_one() -> None:
    keys = chain(500)
    batch = b"".join(told(ADD, 1, keys[place : place + 1]) for place in range(len(keys)))
    ((_, count, packed, _, _),) = remote_pack(batch, {1: 1}, 1, "k")
    one_by_one = tuple(_names_of(count, packed))
    assert sorted(one_by_one) == sorted(
        remote_questions(keys[place : place + 1], 1, "k")[0][1][0] for place in range(len(keys))
    )
    assert pack([Command(None, (b"X", Packed(count, packed), 7)), Command(None, (b"Y",))]) == pack(
        [Command(None, (b"X", *one_by_one, 7)), Command(None, (b"Y",))]
    )


def test_what_a_batch_says_before_it_clears_a_lane_is_left_out() -> None:
    keys = chain(100)
    batch = told(ADD, 1, keys) + told(ADD, 2, keys) + cleared(1) + told(ADD, 1, keys, last=4)
    assert remote_lanes_of(batch) == ([1, 2], [1], [])
    (call,) = remote_pack(batch, {1: 5, 2: 6}, 1, "k")
    assert call[4] == 104


def test_calls_are_short_and_keep_the_order_of_a_segment() -> None:
    keys = chain(128)
    batch = b"".join(told(ADD, lane, keys) for lane in range(100))
    calls = remote_pack(batch, {lane: lane + 1 for lane in range(100)}, 1, "k")
    assert sum(call[4] for call in calls) == 12_800
    assert all(call[4] <= 1024 + 256 for call in calls)
    lanes = [
        struct.unpack_from("<I", call[3], at + 1)[0] >> 8
        for call in calls
        for at in range(4, len(call[3]), 7 + 1024)
    ]
    assert lanes == sorted(lanes)


def test_malformed_batches_are_refused() -> None:
    for batch in (b"x", told(ADD, 1, chain(3))[:-1]):
        with pytest.raises(InputError):
            remote_lanes_of(batch)
        with pytest.raises(InputError):
            remote_pack(batch, {}, 1, "k")


def test_a_batch_of_nothing_is_no_call() -> None:
    assert remote_pack(b"", {}, 1, "k") == []
    assert remote_pack(told(ADD, 1, np.empty(0, np.uint64)), {1: 1}, 1, "k") == []
    assert remote_pack(told(ADD, 1, chain(3)), {}, 1, "k") == []
