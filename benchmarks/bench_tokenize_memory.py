"""How many bytes a token the segment memo takes beyond its text, by own count and as resident memory.

A fresh process remembers the pieces of texts and chats, whose ids come through a pipe: it has no tokenizer,
so nothing else is counted. Then more than fits goes through a small memo.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from chats import TEXT_CHARS, Conversations, Texts, tokenizer_folder
from footprint import resident_bytes
from plain_tokenizing import PlainTokenizing
from results import Result, arguments, show

from kvatlas.tokenize import _native
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.exactness import prove

MODEL = "qwen3"
PIECE_BYTES = 2048
BYTES_MAX = 256 << 20
SMALL_BYTES_MAX = 1 << 20
_HEAD = struct.Struct("<I")


class Cuts(msgspec.Struct, frozen=True):
    """What a cutter is made from."""

    added_tokens: tuple[tuple[str, int], ...]
    line_rule: int

    def cutter(self) -> _native.Cutter:
        return _native.Cutter(self.added_tokens, self.line_rule, PIECE_BYTES)


class Learned(msgspec.Struct, frozen=True):
    """A text and the ids of those of its pieces that are new, 4 bytes each."""

    text: str
    ids: list[bytes]


class Held(msgspec.Struct, frozen=True):
    """What the process that remembers says in the end."""

    pieces: int
    tokens: int
    text_bytes: int
    counted_bytes: int
    resident_bytes: int
    """Growth."""
    evicted: int


# In the child.


def child(stream: BinaryIO, bytes_max: int) -> None:
    """The first text is remembered and forgotten before the measurement begins: all code is loaded."""
    cutter = msgspec.msgpack.decode(next(frames(stream)), type=Cuts).cutter()
    learn(_native.SegmentMemo(bytes_max, 1), cutter, itertools.islice(frames(stream), 1))
    before = resident_bytes()
    memo = _native.SegmentMemo(bytes_max, 2)
    learn(memo, cutter, frames(stream))
    grown = resident_bytes() - before
    told = memo.statistics()
    held = Held(
        pieces=told.pieces,
        tokens=told.tokens,
        text_bytes=told.missed_bytes,
        counted_bytes=told.bytes,
        resident_bytes=grown,
        evicted=told.evicted,
    )
    print(msgspec.json.encode(held).decode())


def learn(memo: _native.SegmentMemo, cutter: _native.Cutter, stream: Iterable[bytes]) -> None:
    for frame in stream:
        learned = msgspec.msgpack.decode(frame, type=Learned)
        plan = memo.plan(cutter, learned.text)
        plan.ids([np.frombuffer(ids, np.uint32) for ids in learned.ids] if plan.n_missing else ())


def frames(stream: BinaryIO) -> Iterator[bytes]:
    while head := stream.read(_HEAD.size):
        yield stream.read(_HEAD.unpack(head)[0])


# In the parent.


def texts_of(plain: PlainTokenizing, kind: str, count: int) -> Iterator[str]:
    texts = Texts()
    if kind == "text":
        yield from (texts.take(TEXT_CHARS) for _ in range(count))
        return
    for messages in Conversations(texts, count).begun:
        yield plain.render(messages)


def learned_frames(plain: PlainTokenizing, texts: Iterable[str]) -> Iterator[bytes]:
    """The cutter, then the texts with the ids of their new pieces; the first comes twice."""
    proven = prove(definition_of(plain.tokenizer))
    cuts = Cuts(proven.cuts, int(proven.line_rule))
    yield msgspec.msgpack.encode(cuts)
    cutter, memo = cuts.cutter(), _native.SegmentMemo(BYTES_MAX, 1)
    for number, text in enumerate(texts):
        plan = memo.plan(cutter, text)
        pieces = plan.missing()
        ids = [np.array(plain.encode(piece, add_special_tokens=False), np.uint32) for piece in pieces]
        plan.ids(ids)
        frame = msgspec.msgpack.encode(Learned(text, [one.tobytes() for one in ids]))
        yield from [frame, frame] if number == 0 else [frame]


def measure(sent: list[bytes], bytes_max: int) -> Held:
    command = [sys.executable, __file__, "--child", str(bytes_max)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for frame in sent:
            process.stdin.write(_HEAD.pack(len(frame)) + frame)
        process.stdin.close()
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the process that remembers failed: {process.returncode}")
    return msgspec.json.decode(printed, type=Held)


def bench_kind(plain: PlainTokenizing, kind: str, count: int) -> list[Result]:
    held = measure(list(learned_frames(plain, texts_of(plain, kind, count))), BYTES_MAX)
    assert held.evicted == 0 and held.pieces > 0
    print(f"{kind}: {held.pieces} pieces, {held.tokens} tokens, {held.text_bytes} bytes of text")
    return [
        line(f"memo/{kind}/{how}", f"{kind}, {how}, beyond its text", (size - held.text_bytes) / held.tokens)
        for how, size in (("counted", held.counted_bytes), ("resident", held.resident_bytes))
    ]


def bench_bound(plain: PlainTokenizing, count: int) -> list[Result]:
    held = measure(list(learned_frames(plain, texts_of(plain, "text", count))), SMALL_BYTES_MAX)
    assert held.evicted > 0 and held.counted_bytes <= SMALL_BYTES_MAX
    what = f"memo of 1 MiB, given {held.text_bytes / SMALL_BYTES_MAX:.1f} MiB of text: resident"
    return [line("memo/bound", what, held.resident_bytes / SMALL_BYTES_MAX, "times its bound")]


def line(row: str, what: str, size: float, unit: str = "bytes a token") -> Result:
    return Result(row=row, what=what, unit=unit, median=size, best=size)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--child", type=int, metavar="BYTES_MAX", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(sys.stdin.buffer, args.child)
        return
    folder: Path | None = tokenizer_folder(MODEL)
    results: list[Result] = []
    if folder is not None:
        plain, count = PlainTokenizing(folder), 30 if args.quick else 100
        results += bench_kind(plain, "text", count)
        results += bench_kind(plain, "chat", count)
        results += bench_bound(plain, count)
    show(results, args.json)


if __name__ == "__main__":
    main()
