"""Announcements keep their order and their bound."""

from __future__ import annotations

from kvatlas.offload.storing.announcements import Announcement, Announcements
from tests.offload.storing.scripted_backend import key_of


def test_stores_and_removals_come_out_in_the_order_in_which_they_happened() -> None:
    announcements = Announcements(100)
    announcements.add([key_of(1), key_of(2)], is_removal=False)
    announcements.add([key_of(1)], is_removal=True)
    announcements.add([], is_removal=True)
    announcements.add([key_of(1)], is_removal=False)
    assert len(announcements) == 4
    assert announcements.take() == [
        Announcement([key_of(1), key_of(2)], False),
        Announcement([key_of(1)], True),
        Announcement([key_of(1)], False),
    ]
    assert len(announcements) == 0 and announcements.take() == []


def test_beyond_the_bound_the_oldest_stores_go_before_any_removal() -> None:
    announcements = Announcements(4)
    announcements.add([key_of(1)], is_removal=True)
    announcements.add([key_of(2), key_of(3)], is_removal=False)
    announcements.add([key_of(4)], is_removal=True)
    announcements.add([key_of(5)], is_removal=False)
    assert [one.keys for one in announcements.take()] == [[key_of(1)], [key_of(4)], [key_of(5)]]
    assert announcements.dropped == 2


def test_removals_alone_are_bounded_too() -> None:
    announcements = Announcements(2)
    for number in range(5):
        announcements.add([key_of(number)], is_removal=True)
    assert [one.keys for one in announcements.take()] == [[key_of(3)], [key_of(4)]]
    assert announcements.dropped == 3


def test_where_nobody_listens_nothing_is_kept() -> None:
    announcements = Announcements(4, is_on=False)
    announcements.add([key_of(number) for number in range(9)], is_removal=False)
    assert len(announcements) == 0 and announcements.dropped == 0
