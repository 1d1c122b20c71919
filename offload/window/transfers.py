"""Copies between the GPU and slots of the window, as the engine core sees them: begun, ended, or abandoned
at a reset.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError
from kvatlas.offload._native import Slots
from kvatlas.offload.window.tickets import Board, Tickets

Rows = npt.NDArray[np.int32]


class Transfer(msgspec.Struct, frozen=True):
    """Chunks that all workers copy, each its part of the rows. A row of -1: it is not in the window."""

    keys: Sequence[bytes]
    rows: Rows
    is_load: bool


class StoreBegun(msgspec.Struct, frozen=True):
    """Slots for chunks to be copied into; `evicted` had to leave for them."""

    keys: list[bytes]
    rows: Rows
    evicted: list[bytes]
    ticket: int


class Transfers:
    """The transfers of one engine that are under way; one thread.

    The slots of a store are FILLING, those of a load pinned, until all workers have signed off.
    """

    def __init__(self, slots: Slots, board: Board, *, key_bytes: int, n_writing_ranks: int) -> None:
        self._slots, self._key_bytes = slots, key_bytes
        self._n_ranks, self._n_writing_ranks = board.shape[0], n_writing_ranks
        self._tickets: Tickets[Transfer] = Tickets(board)
        self._load_of_request: dict[str, int] = {}
        self._store_of_key: dict[bytes, int] = {}
        self._abandoned: dict[int, Transfer] = {}
        self.failed_loads = 0
        self.failed_stores = 0
        self.broken_promises = 0
        """Chunks that were to be loaded and did not lie in the window; always 0."""

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def has_room(self) -> bool:
        return self._tickets.has_room

    def begin_load(self, keys: Collection[bytes], request: str) -> tuple[Rows, int]:
        """Pins chunks that are READY; their rows, in the keys' order, and the ticket."""
        rows = self._slots.pin(b"".join(keys))
        self.broken_promises += int(np.count_nonzero(rows < 0))
        ticket = self._tickets.issue(Transfer(list(keys), rows, is_load=True))
        self._load_of_request[request] = ticket
        return rows, ticket

    def end_load(self, request: str) -> bool:
        """The request's load has ended on all ranks; whether it went well on all of them."""
        ticket = self._load_of_request.pop(request, None)
        if ticket is None:  # from before a reset
            return True
        is_good = self._tickets.is_good(ticket, self._n_ranks)
        self.failed_loads += not is_good
        self._unpin(self._tickets.take_back(ticket))
        return is_good

    def begin_store(self, keys: Sequence[bytes]) -> StoreBegun | None:
        """Takes slots for those of the keys that have none. None: no room just now, nothing has changed."""
        taken = self._slots.fill(b"".join(keys)) if self.has_room else None
        if taken is None:
            return None
        slots, evicted = taken
        stored = [key for key, slot in zip(keys, slots.tolist(), strict=True) if slot >= 0]
        rows, ticket = slots[slots >= 0], 0
        if stored:
            ticket = self._tickets.issue(Transfer(stored, rows, is_load=False))
            self._store_of_key.update(dict.fromkeys(stored, ticket))
        return StoreBegun(stored, rows, split(evicted, self._key_bytes), ticket)

    def end_store(self, keys: Collection[bytes], *, succeeded: bool) -> Transfer | None:
        """The store of these has ended on all ranks. What lies READY now; None where it failed on one of
        them.
        """
        ticket = self._store_of_key.get(next(iter(keys), b""))
        if ticket is None:  # from before a reset
            return None
        is_good = succeeded and self._tickets.is_good(ticket, self._n_writing_ranks)
        transfer = self._tickets.take_back(ticket)
        for key in transfer.keys:
            del self._store_of_key[key]
        if not is_good:
            self.failed_stores += 1
            self._slots.drop(transfer.rows)
            return None
        self._slots.ready(transfer.rows)
        return transfer

    def abandon(self) -> None:
        """After a reset nobody reports the ends of what is under way. Its slots stay as they are until the
        workers sign off.
        """
        self._abandoned.update(self._tickets.all_out())
        self._load_of_request.clear()
        self._store_of_key.clear()

    def free_abandoned(self) -> None:
        """Frees the slots of abandoned transfers that no worker touches any more."""
        for ticket, transfer in list(self._abandoned.items()):
            if not self._tickets.is_ended(
                ticket, self._n_ranks if transfer.is_load else self._n_writing_ranks
            ):
                continue
            del self._abandoned[ticket]
            self._tickets.take_back(ticket)
            if not transfer.is_load:
                self._slots.drop(transfer.rows)
                continue
            self._unpin(transfer)
            for row in transfer.rows[transfer.rows >= 0]:
                with contextlib.suppress(InputError):  # it is also being written: it stays
                    self._slots.drop(np.array([row], np.int32))

    @property
    def n_abandoned(self) -> int:
        return len(self._abandoned)

    def _unpin(self, transfer: Transfer) -> None:
        rows = transfer.rows.tolist()
        self._slots.unpin(b"".join(key for key, row in zip(transfer.keys, rows, strict=True) if row >= 0))


def split(packed: bytes, key_bytes: int) -> list[bytes]:
    """Packed keys, one by one."""
    return [packed[at : at + key_bytes] for at in range(0, len(packed), key_bytes)]
