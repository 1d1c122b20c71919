"""Tickets: how the manager of a window learns which transfers its workers have ended, and how.

A transfer between device and window has a ticket, a number that is never used twice. When it has ended,
each worker writes one word to its row of a board in shared memory:

    board [n_ranks, TICKETS] uint64     board[rank, ticket % TICKETS] = 2 * ticket + failed

The engine reports ends too, but cannot say that one failed (a reported failure ends it), and says nothing
of transfers from before a reset, whose memory must not be used again while they run.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError

TICKETS = 8192
"""Transfers whose tickets can be out at the same time, more or less: the board's length."""

Board = npt.NDArray[np.uint64]

_Transfer = TypeVar("_Transfer")


def sign_off(board: Board, rank: int, ticket: int, *, failed: bool) -> None:
    """A worker says that a transfer has ended on its rank: nothing of it touches the window any more."""
    board[rank, ticket % board.shape[1]] = np.uint64(2 * ticket + failed)


class Tickets(Generic[_Transfer]):
    """The transfers that are out, by ticket; one thread. A board has one of these, for its whole life."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._next = 1  # a board of zeros says nothing of anybody
        self._out: dict[int, _Transfer] = {}

    def __len__(self) -> int:
        return len(self._out)

    @property
    def has_room(self) -> bool:
        """Whether half of the board is free: enough for all that one step may begin."""
        n_words: int = self._board.shape[1]
        return self._span() < n_words // 2

    def _span(self) -> int:
        # The word of a new ticket must not be that of one that is still out.
        return self._next - next(iter(self._out), self._next)

    def issue(self, transfer: _Transfer) -> int:
        """Raises InputError where the board is full."""
        if self._span() >= self._board.shape[1]:
            raise InputError(
                f"tickets: expected the oldest transfer to be one of the last {self._board.shape[1]}, "
                f"got one {self._span()} ago"
            )
        ticket = self._next
        self._next += 1
        self._out[ticket] = transfer
        return ticket

    def is_ended(self, ticket: int, n_ranks: int) -> bool:
        """Whether the first `n_ranks` workers have all signed off, with success or without."""
        words = self._board[:n_ranks, ticket % self._board.shape[1]]
        return bool(np.all(words >> np.uint64(1) == ticket))

    def is_good(self, ticket: int, n_ranks: int) -> bool:
        """Whether they have all signed off with success. Who has not signed has not copied."""
        words = self._board[:n_ranks, ticket % self._board.shape[1]]
        return bool(np.all(words == np.uint64(2 * ticket)))

    def take_back(self, ticket: int) -> _Transfer:
        return self._out.pop(ticket)

    def all_out(self) -> dict[int, _Transfer]:
        """They stay out until each is taken back."""
        return dict(self._out)
