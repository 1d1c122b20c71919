"""What the script HELD answers, checked, and as an excerpt (docs/indexer.md) that can be matched."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.llmd.fields import FieldReader, Holders

_HEADER = struct.Struct("<4sHHIIIIII")
_WHOLE = 1


class Held(NamedTuple):
    """Who holds some keys, in their order."""

    wrong_type: int
    """Keys that hold something else than a hash: nobody's."""
    oversized: int
    """Keys of which there was too much to be told: nobody's."""
    runs: list[tuple[int, int]]
    """(place in `sets`, or -1: nobody; count of keys)."""
    sets: list[list[bytes]]
    """Fields."""

    def numbers(self) -> list[int]:
        """Of each key the place of its set."""
        return [number for number, length in self.runs for _ in range(length)]


def read_held(answers: Sequence[Any], lengths: Sequence[int]) -> Held:
    """Put the answers to calls of so many keys each together.

    Raises RemoteIndexError for what the script would not answer.
    """
    runs: list[tuple[int, int]] = []
    sets: list[list[bytes]] = []
    wrong_type = oversized = 0
    for answer, length in zip(answers, lengths, strict=True):
        told = _checked(answer, length)
        wrong_type += told.wrong_type
        oversized += told.oversized
        runs += [(number if number < 0 else number + len(sets), count) for number, count in told.runs]
        sets += told.sets
    return Held(wrong_type, oversized, runs, sets)


def _checked(answer: Any, length: int) -> Held:
    try:
        wrong_type, oversized, flat, sets = answer
        runs = [(number - 1, count) for number, count in zip(flat[::2], flat[1::2], strict=True)]
        held = Held(int(wrong_type), int(oversized), runs, sets)
        good = (
            sum(count for _, count in runs) == length
            and all(-1 <= number < len(sets) and count > 0 for number, count in runs)
            and all(type(field) is bytes for fields in sets for field in fields)
        )
        if good:
            return held
    except (TypeError, ValueError):
        pass
    raise RemoteIndexError(
        f"server: expected who holds {length} keys, got {answer!r:.200}: who changes answers?"
    )


def excerpt_of(held: Held, n_keys: int, reader: FieldReader) -> bytes:
    """The same as an excerpt's bytes."""
    told = [reader.holders(fields) for fields in held.sets]
    numbers: dict[Holders, int] = {(): 0}
    for holders in told:
        numbers.setdefault(holders, len(numbers))
    runs = list(_joined((0 if at < 0 else numbers[told[at]], count) for at, count in held.runs))
    sets = [holders for holders in numbers if holders]
    lanes = sorted({lane for holders in sets for lane, _ in holders})
    places = {lane: place for place, lane in enumerate(lanes)}
    elements = [places[lane] << 8 | mask for holders in sets for lane, mask in holders]
    whole = 0 if held.wrong_type or held.oversized else _WHOLE
    head = _HEADER.pack(b"kvax", 1, whole, n_keys, len(lanes), len(sets), len(elements), len(runs), 0)
    flat = [part for run in runs for part in run]
    return head + np.array([*lanes, *map(len, sets), *elements, *flat], "<u4").tobytes()


def _joined(runs: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Neighbours of one set as one: different fields may say the same."""
    last, length = -1, 0
    for number, count in runs:
        if number == last:
            length += count
            continue
        if length:
            yield last, length
        last, length = number, count
    if length:
        yield last, length


def decimal(keys: npt.NDArray[np.uint64]) -> list[bytes]:
    """Block keys as llm-d names them."""
    return [b"%d" % key for key in keys.tolist()]
