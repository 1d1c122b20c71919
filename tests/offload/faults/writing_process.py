"""A process that stores chunk after chunk until it is killed."""

from __future__ import annotations

import random
from multiprocessing.connection import Connection
from pathlib import Path

from tests.offload.storing.files_at_hand import open_process

N_CHUNKS = 400
"""Numbers of the chunks that writers store, in an order of their own."""
_AT_ONCE = 16  # fewer than there are rows, and neighbours: no two in one row


def write_until_killed(root: Path, seed: int, told: Connection) -> None:
    """Says "writing" once its first chunks are stored."""
    process = open_process(root, writers=4, inventory=False)
    starts = list(range(0, N_CHUNKS, _AT_ONCE))
    random.Random(seed).shuffle(starts)
    process.store(*range(starts[0], starts[0] + _AT_ONCE))
    told.send("writing")
    while True:
        for first in starts:
            process.store(*range(first, first + _AT_ONCE))
