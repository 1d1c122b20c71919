"""In what two contents differ: two dumps, or a dump and what an index holds now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvatlas.index._native import Table, differences, load_content
from kvatlas.index.dumps.owners import LaneOwner, owners_of
from kvatlas.index.errors import DumpError
from kvatlas.index.scores import TIERS
from kvatlas.index.view import FleetPart

TIER_NAMES = (*TIERS, "speculative")
"""By bit of a tier mask."""
_TABLE_BYTES_MAX = 1 << 38
"""Never reached: what is compared must be whole, and takes what memory it takes."""


class Dumped(NamedTuple):
    """Content records and who their lanes are."""

    parts: Sequence[FleetPart]
    sections: Iterable[bytes]


class DiffRow(NamedTuple):
    """One owner in one tier: how many blocks."""

    owner: LaneOwner
    tier: str
    only_left: int
    only_right: int
    both: int


def diff(left: Dumped, right: Dumped) -> list[DiffRow]:
    """Blocks by owner and tier that only one of the two holds, or both, most different first.

    Lanes that no part names are left out. Takes the memory of both contents, some 25 bytes a block. Raises
    DumpError for a content record or a dump that cannot be used.
    """
    lane_of_owner: dict[LaneOwner, int] = {}
    tables = [_filled(side, lane_of_owner) for side in (left, right)]
    owners = list(lane_of_owner)
    rows = [
        DiffRow(owners[lane], TIER_NAMES[tier_bit.bit_length() - 1], only_left, only_right, both)
        for lane, tier_bit, only_left, only_right, both in differences(*tables)
    ]
    return sorted(rows, key=lambda row: (-row.only_left - row.only_right, row.owner, row.tier))


def _filled(side: Dumped, lane_of_owner: dict[LaneOwner, int]) -> Table:
    """A table of one side, under lanes that both share."""
    owners = owners_of(side.parts)
    lanes = {lane: lane_of_owner.setdefault(owner, len(lane_of_owner)) for lane, owner in owners.items()}
    table = Table(budget_bytes=_TABLE_BYTES_MAX)
    load_content([table], side.sections, lanes)
    statistics = table.statistics()
    dropped = statistics["dropped_adds"] + statistics["dropped_entries"]
    if dropped:
        raise DumpError(f"diff: expected room for all of a content, got {dropped} blocks that found none")
    return table
