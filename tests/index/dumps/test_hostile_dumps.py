"""Dumps that somebody has made up, and places that take none: one clear error, and little memory."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kvatlas.index._native import content_of
from kvatlas.index.dumps.diffing import Dumped, diff
from kvatlas.index.dumps.dump_file import DumpReader, DumpWriter, write_dump
from kvatlas.index.dumps.meta import DumpMeta, KeyspacePrint, keyspaces_of, require_keyspaces
from kvatlas.index.dumps.searching import search
from kvatlas.index.errors import DumpError
from kvatlas.index.shards import ShardedIndex
from tests.index.dumps.worlds import added, apply_all, held_by, part_of

pytestmark = pytest.mark.native
META = DumpMeta(created_s=1.7e9)
packed = msgspec.msgpack.encode


def sections() -> list[bytes]:
    index = ShardedIndex(2)
    apply_all(index, [added(lane, segment) for segment in range(40) for lane in range(3)])
    return list(index.export())


SECTIONS = sections()


def written() -> bytes:
    stream = io.BytesIO()
    write_dump(stream, META, SECTIONS)
    return stream.getvalue()


WHOLE = written()


def read(of: Any) -> list[bytes]:
    with DumpReader(of) as dump:
        return list(dump)


def of_head(body: bytes) -> io.BytesIO:
    """A dump as far as its head."""
    head = struct.pack("<4sI", b"META", len(body))
    return io.BytesIO(WHOLE[:12] + head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body)


def head(**fields: Any) -> bytes:
    return packed({"created_s": 1.0, **fields})


def worker(lane: int) -> dict[str, Any]:
    return {"number": 0, "pod": "p", "rank": 0, "model": "m", "groups": [[lane]]}


def space(block_size: int) -> dict[str, Any]:
    return {"block_size_tokens": block_size, "algorithm": "fold64", "digest": b""}


# Heads.


@pytest.mark.parametrize(
    "body",
    [
        b"\x82" + packed("created_s") + packed(1.0) + packed("later") + b"\x91" * 100_000 + b"\xc0",
        *(head(created_s=created_s) for created_s in (float("nan"), float("inf"), -1.0, 1e300)),
        *(head(parts=[{"workers": [worker(lane)]}]) for lane in (-1, 65_535, 1 << 40)),
        *(head(parts=[{"stores": {"nfs": lane}}]) for lane in (-1, 65_535)),
        *(head(keyspaces={"m": space(size)}) for size in (0, -3, 4097, 1 << 40)),
        head(cluster=b"\xff"),
    ],
    ids=lambda body: f"{len(body)} bytes",
)
def test_a_head_that_nobody_writes_is_refused(body: bytes) -> None:
    with pytest.raises(DumpError, match="stream, byte 12: expected a DumpMeta"):
        DumpReader(of_head(body))


def test_a_head_of_millions_of_empty_parts_costs_no_memory() -> None:
    """A byte each in the file, two hundred in memory."""
    n = 32 << 20
    many = packed("parts") + b"\xdd" + struct.pack(">I", n) + b"\x80" * n
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dump = of_head(b"\x82" + packed("created_s") + packed(1.0) + many)
    with pytest.raises(DumpError, match="length <= 4096"):
        DumpReader(dump)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10, "in KiB"


def test_block_sizes_without_a_print_of_their_keys_are_refused() -> None:
    parts = (part_of({"a": 0}),)
    with pytest.raises(DumpError, match="model 'm': expected a print of its 16-token keys, got none"):
        require_keyspaces(DumpMeta(created_s=1.0, parts=parts), {})
    other = {"m": KeyspacePrint.of("m", 32, "fold64", "")}
    with pytest.raises(DumpError, match="of its 16-token keys, got one of 32 tokens"):
        require_keyspaces(DumpMeta(created_s=1.0, parts=parts, keyspaces=other), other)


# Names and numbers.

ODD = ["", " ", "\x1b[31m", "[/red]", "a/b@c", "\u202e", "\0", "n" * 5_000, "\N{SMILE}"]


def test_odd_names_come_back_as_they_were() -> None:
    parts = (part_of({name: lane for lane, name in enumerate(ODD)}, model="m\n"),)
    meta = DumpMeta(created_s=1.0, parts=parts, keyspaces=keyspaces_of(parts, "fold64", ""))
    stream = io.BytesIO()
    write_dump(stream, meta, SECTIONS)
    stream.seek(0)
    dump = DumpReader(stream)
    assert dump.meta == meta
    assert search(Dumped(dump.meta.parts, dump), pod="[/red]").total == 0


def test_a_name_that_is_no_text_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="expected names that are UTF-8"):
        DumpWriter(tmp_path / "d", DumpMeta(created_s=1.0, parts=(part_of({"a\udcff": 0}),)))
    with pytest.raises(DumpError, match="expected at most 67108864 bytes"):
        DumpWriter(tmp_path / "d", DumpMeta(created_s=1.0, cluster="n" * (65 << 20)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dump_of_zero_pods_and_one_of_ten_thousand_are_dumps() -> None:
    for n_pods in (0, 10_000):
        parts = (part_of({f"pod-{number}": number for number in range(n_pods)}),)
        meta = DumpMeta(created_s=1.0, parts=parts, keyspaces=keyspaces_of(parts, "fold64", ""))
        stream = io.BytesIO()
        write_dump(stream, meta, SECTIONS)
        dumps = [DumpReader(io.BytesIO(stream.getvalue())) for _ in range(3)]
        assert search(Dumped(parts, dumps[0]), pod="pod-2").total == (40 * 128 if n_pods else 0)
        left, right = (Dumped(dump.meta.parts, dump) for dump in dumps[1:])
        assert not any(row.only_left or row.only_right for row in diff(left, right))


def test_every_cut_is_refused_at_every_byte_of_frame_and_head() -> None:
    frame = 12 + 12 + struct.unpack_from("<I", WHOLE, 16)[0] + 12 + 64
    for at in (*range(frame), *range(len(WHOLE) - 150, len(WHOLE))):
        with pytest.raises(DumpError):
            read(io.BytesIO(WHOLE[:at]))
        for bit in (1, 128):
            flipped = bytearray(WHOLE)
            flipped[at] ^= bit
            with pytest.raises(DumpError):
                read(io.BytesIO(bytes(flipped)))


def test_an_older_dump_over_a_newer_one_is_what_is_held_then() -> None:
    index = ShardedIndex(3)

    def load(records: Iterable[Any]) -> list[bytes]:
        there = ShardedIndex(1)
        apply_all(there, records)
        content = list(there.export())
        index.load(content)
        return content

    older = load([added(0, 1), added(1, 2)])
    load([added(0, 1), added(0, 2), added(0, 3)])
    index.load(older)
    index.load(older)
    assert held_by(index.export()) == held_by(older)


@pytest.mark.slow
def test_a_load_into_too_small_a_budget_holds_no_more_than_it_says_and_counts_the_rest() -> None:
    there = ShardedIndex(1)
    apply_all(there, [added(0, segment) for segment in range(2_500)])
    index = ShardedIndex(1, table_bytes_max=4 << 20)
    index.load(there.export())
    [statistics] = index.statistics()
    assert statistics["dropped_adds"] + statistics["dropped_entries"] > 0
    held, told = (np.concatenate([content_of(one).keys for one in side.export()]) for side in (index, there))
    assert 0 < len(held) < len(told) and np.isin(held, told).all()
