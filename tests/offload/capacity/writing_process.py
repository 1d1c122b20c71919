"""A process that writes to a store as fast as it may, until it is killed."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path

from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.capacity.limits import CapacityLimits
from tests.offload.capacity.stores_at_hand import key_of, store

FILE_BYTES = 16 << 10


def write_until_killed(root: Path, folder: Path, cap: int, seed: int, told: Connection) -> None:
    """Says 0 when it begins, and then how many files it has stored, after every 50."""
    limits = CapacityLimits(
        capacity_bytes=cap,
        lease_s=0.0,
        touch_s=0.0,
        period_s=0.01,
        dead_s=1.0,
        evictor_dead_s=0.2,
        crawl_s=0.5,
    )
    capacity = Capacity(root, limits, writer=os.urandom(16), folder=folder)
    number, stored = seed * 10**9, 0
    told.send(0)
    while True:
        if store(capacity, folder, key_of(number), FILE_BYTES):
            stored += 1
            if stored % 50 == 0:
                told.send(stored)
        number += 1
