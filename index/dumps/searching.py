"""Looking for pairs in a content: by pod, model, store, tier or block key."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import search_section
from kvatlas.index.dumps.diffing import TIER_NAMES, Dumped
from kvatlas.index.dumps.owners import LaneOwner, owners_of
from kvatlas.index.errors import InputError


class FoundRow(NamedTuple):
    """An owner holds a block."""

    key: int
    tag: int
    """Of the block's segment."""
    owner: LaneOwner
    tiers: tuple[str, ...]


class Found(NamedTuple):
    """What a search has found."""

    total: int
    """Pairs of a block and an owner, also those beyond `rows`."""
    rows: list[FoundRow]


def search(
    dumped: Dumped,
    *,
    pod: str | None = None,
    model: str | None = None,
    store: str | None = None,
    tier: str | None = None,
    keys: npt.NDArray[np.uint64] | None = None,
    rows_max: int = 100,
) -> Found:
    """Who holds what, of all that is asked for; None: any. In no particular order.

    Lanes that no part names are left out. Raises InputError for an unknown tier, DumpError for a content
    record or a dump that cannot be used.
    """
    if tier is not None and tier not in TIER_NAMES:
        raise InputError(f"tier: expected one of {', '.join(TIER_NAMES)}, got {tier!r}")
    mask = (1 << len(TIER_NAMES)) - 1 if tier is None else 1 << TIER_NAMES.index(tier)
    owners = {
        lane: owner
        for lane, owner in owners_of(dumped.parts).items()
        if pod in (None, owner.pod) and model in (None, owner.model) and store in (None, owner.store)
    }
    wanted = dict.fromkeys(owners, mask)
    total, rows = 0, list[FoundRow]()
    for section in dumped.sections:
        n, found = search_section(section, wanted, keys, rows_max - len(rows))
        total += n
        rows += [FoundRow(key, tag, owners[lane], _tiers(bits)) for key, tag, lane, bits in found]
    return Found(total, rows)


def _tiers(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(TIER_NAMES) if bits >> bit & 1)
