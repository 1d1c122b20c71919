"""Delta records as what is to be done to llm-d's hashes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import llmd_lanes_of
from kvatlas.index.remote.llmd.entries import encode_entry
from kvatlas.index.remote.llmd.lane_names import LaneName, LaneNames

_ADD = 1
_TIER_BITS = (1, 2, 4, 8, 16, 32)


class Change(NamedTuple):
    """Fields that are to be added to hashes, or removed."""

    is_add: bool
    fields: tuple[bytes, ...]
    keys: npt.NDArray[np.uint64]


class Changes(NamedTuple):
    """What a delta comes to."""

    emptied: frozenset[int]
    """Lanes that are emptied before all else."""
    changes: list[Change]
    """In this order. Fields of two lanes never meet, so only the order within a lane counts."""
    left_out_blocks: int
    """Told of lanes that are not written."""


def changes_of(delta: bytes, names: LaneNames) -> Changes:
    """Raises InputError when malformed, and for a lane without a name."""
    changes: list[Change] = []
    emptied: set[int] = set()
    left_out = 0
    for lane, is_emptied, n_keys, steps in llmd_lanes_of(delta):
        if names.is_left_out(lane):
            left_out += n_keys
            continue
        name = names.name_of(lane)
        if is_emptied:
            emptied.add(lane)
        changes += [Change(op == _ADD, fields_of(name, tiers), keys) for op, tiers, keys in steps]
    return Changes(frozenset(emptied), changes, left_out)


@functools.lru_cache(maxsize=4096)
def fields_of(name: LaneName, tiers: int) -> tuple[bytes, ...]:
    """The fields of a lane's copies, one a tier bit."""
    return tuple(encode_entry(name.pod, bit, name.group) for bit in _TIER_BITS if tiers & bit)
