"""Tickets: a transfer has ended when all ranks have signed it off, and was good when none of them has
failed.
"""

from __future__ import annotations

import numpy as np
import pytest

from kvatlas.index.errors import InputError
from kvatlas.offload.window.tickets import Board, Tickets, sign_off


def _board(n_ranks: int = 2, length: int = 4) -> Board:
    return np.zeros((n_ranks, length), np.uint64)


def test_a_transfer_ends_when_all_ranks_have_signed_it_off() -> None:
    board = _board()
    tickets: Tickets[str] = Tickets(board)
    ticket = tickets.issue("load")
    assert not tickets.is_ended(ticket, 2)
    sign_off(board, 0, ticket, failed=False)
    assert not tickets.is_ended(ticket, 2)
    assert tickets.is_ended(ticket, 1), "the first rank is the only one that writes"
    sign_off(board, 1, ticket, failed=False)
    assert tickets.is_ended(ticket, 2)
    assert tickets.is_good(ticket, 2)
    assert tickets.take_back(ticket) == "load"
    assert len(tickets) == 0


def test_one_rank_that_failed_makes_it_bad() -> None:
    board = _board()
    tickets: Tickets[str] = Tickets(board)
    ticket = tickets.issue("store")
    sign_off(board, 0, ticket, failed=False)
    assert not tickets.is_good(ticket, 2)
    sign_off(board, 1, ticket, failed=True)
    assert tickets.is_ended(ticket, 2)
    assert not tickets.is_good(ticket, 2)


def test_words_of_earlier_tickets_say_nothing_of_later_ones() -> None:
    board = _board(length=4)
    tickets: Tickets[int] = Tickets(board)
    for number in range(50):
        ticket = tickets.issue(number)
        assert not tickets.is_ended(ticket, 2)
        for rank in (0, 1):
            sign_off(board, rank, ticket, failed=number % 3 == 0)
        assert tickets.is_good(ticket, 2) == (number % 3 != 0)
        tickets.take_back(ticket)


def test_no_word_is_used_twice_while_its_ticket_is_out() -> None:
    tickets: Tickets[int] = Tickets(_board(length=4))
    oldest = tickets.issue(0)
    for number in range(3):
        tickets.take_back(tickets.issue(number))
    assert not tickets.has_room
    with pytest.raises(InputError, match="one of the last 4, got one 4 ago"):
        tickets.issue(9)
    tickets.take_back(oldest)
    assert tickets.has_room
    tickets.issue(9)


def test_there_is_room_for_what_one_step_may_begin_or_none() -> None:
    tickets: Tickets[int] = Tickets(_board(length=8))
    for number in range(4):
        assert tickets.has_room
        tickets.issue(number)
    assert not tickets.has_room
    for number in range(4):
        tickets.issue(number)
