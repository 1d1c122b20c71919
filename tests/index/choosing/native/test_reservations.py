"""The life of a reservation: what it counts as, and by what it ends."""

from __future__ import annotations

import pytest

from kvatlas.index._native import LoadBook
from tests.index.choosing.native.fleets import SmallFleet, terms

pytestmark = pytest.mark.native

IDLE = (0.0, 0.0, 0)


def test_a_choice_counts_at_once_as_what_is_to_be_prefilled_and_held() -> None:
    fleet = SmallFleet(2)
    decision = fleet.choose(1000, held={1: 50}, output_tokens=30)
    assert decision.is_reserved and decision.slot == 1
    assert fleet.loads() == [IDLE, (200, 1030, 1)]


def test_without_asking_nothing_is_reserved() -> None:
    fleet = SmallFleet(2)
    assert not fleet.choose(reserve=False).is_reserved
    assert fleet.loads() == [IDLE, IDLE]


def test_when_the_prefill_is_done_only_what_is_held_counts() -> None:
    fleet = SmallFleet(1)
    fleet.choose(1000, output_tokens=30)
    assert fleet.book.prefill_done(fleet.last_id, 1.0)
    assert fleet.book.prefill_done(fleet.last_id, 2.0)  # said twice
    assert fleet.loads() == [(0, 1030, 1)]
    assert fleet.book.statistics()["prefilled"] == 1


def test_the_first_token_says_that_the_prefill_is_done() -> None:
    fleet = SmallFleet(1)
    fleet.choose(1000, output_tokens=30)
    assert fleet.book.produced(fleet.last_id, 0, 1.0)
    assert fleet.loads() == [(1000, 1030, 1)]
    assert fleet.book.produced(fleet.last_id, 1, 1.0)
    assert fleet.loads() == [(0, 1030, 1)]


def test_more_output_than_was_expected_counts_and_less_changes_nothing() -> None:
    fleet = SmallFleet(1)
    fleet.choose(1000, output_tokens=30)
    for produced, held in ((29, 1030), (31, 1031), (100, 1100), (50, 1100)):
        fleet.book.produced(fleet.last_id, produced, 1.0)
        assert fleet.loads() == [(0, held, 1)]
    fleet.book.completed(fleet.last_id, 2.0)
    assert fleet.loads() == [IDLE]


def test_where_roles_are_split_a_reservation_counts_as_its_part_alone() -> None:
    fleet = SmallFleet(1)
    fleet.choose(1000, output_tokens=30, by=terms(reserves_decode=False))
    assert fleet.loads() == [(1000, 0, 1)]
    fleet.book.produced(fleet.last_id, 500, 1.0)
    assert fleet.loads() == [(0, 0, 1)]
    fleet.book.completed(fleet.last_id, 1.0)
    fleet.choose(1000, output_tokens=30, by=terms(reserves_prefill=False))
    assert fleet.loads() == [(0, 1030, 1)]


def test_what_has_ended_says_how_long_it_took_and_what_was_predicted() -> None:
    fleet = SmallFleet(1)
    fleet.choose(1000, held={0: 50}, now_s=10.0)
    fleet.book.prefill_done(fleet.last_id, 10.5)
    ended = fleet.book.completed(fleet.last_id, 12.0, cached_tokens=800)
    assert ended is not None
    assert (ended.request_id, ended.slot, ended.prompt_tokens) == (fleet.last_id, 0, 1000)
    assert (ended.prefill_tokens, ended.cached_tokens, ended.is_by_index) == (200, 800, True)
    assert (ended.seconds, ended.prefill_seconds) == (2.0, 0.5)


def test_a_failed_request_frees_what_it_held() -> None:
    fleet = SmallFleet(1)
    fleet.choose(1000)
    ended = fleet.book.failed(fleet.last_id, 1.0)
    assert ended is not None and ended.prefill_seconds is None
    assert fleet.loads() == [IDLE]


def test_requests_that_are_not_there_are_said_to_be_unknown_and_counted() -> None:
    book = SmallFleet(1).book
    assert not book.prefill_done("?", 0)
    assert not book.produced("?", 1, 0)
    assert book.completed("?", 0) is None
    assert book.failed("?", 0) is None
    assert book.statistics()["unknown"] == 4


def test_an_id_that_is_there_is_not_reserved_again_and_the_first_stays() -> None:
    fleet = SmallFleet(2)
    fleet.choose(1000, request_id="twin")
    assert not fleet.choose(10, request_id="twin").is_reserved
    assert sum(requests for _, _, requests in fleet.loads()) == 1
    assert fleet.book.statistics()["unreserved_duplicates"] == 1
    fleet.book.failed("twin", 1.0)
    assert fleet.choose(10, request_id="twin").is_reserved


def test_beyond_the_bound_requests_are_chosen_for_but_not_reserved_and_counted() -> None:
    fleet = SmallFleet(2, reservations_max=3)
    reserved = [fleet.choose().is_reserved for _ in range(5)]
    assert reserved == [True] * 3 + [False] * 2
    assert fleet.book.statistics()["unreserved_full"] == 2
    fleet.book.completed("request0", 1.0)
    assert fleet.choose().is_reserved


def test_silent_reservations_expire_and_any_mention_keeps_one_alive() -> None:
    fleet = SmallFleet(1)
    for at in range(4):
        fleet.choose(100, now_s=float(at), request_id=f"r{at}")
    fleet.book.prefill_done("r0", 5.0)
    fleet.book.produced("r2", 0, 6.0)
    assert fleet.book.expire(12.9, 10.0) == ["r1"]
    assert fleet.book.expire(13.0, 10.0) == ["r3"]
    assert fleet.book.expire(15.0, 10.0) == ["r0"]
    assert fleet.book.expire(100.0, 10.0) == ["r2"]
    assert fleet.loads() == [IDLE]
    assert fleet.book.statistics()["expired"] == 4


def test_the_reservations_of_a_pod_that_left_end_of_all_its_ranks() -> None:
    book = LoadBook(10)
    slots = [book.slot("gone", 0), book.slot("gone", 1), book.slot("gone2", 0)]
    for name, slot in zip("abc", slots, strict=True):
        book.reserve(slot, request_id=name, prefill_tokens=1, prompt_tokens=1, output_tokens=0, now_s=0)
    book.prefill_done("a", 0)
    assert sorted(book.forget("gone")) == ["a", "b"]
    assert book.forget("gone") == []
    assert book.completed("a", 1.0) is None
    assert [book.name(slot) for slot in slots] == [None, None, ("gone2", 0)]
    assert book.own()[0].tolist() == [slots[2]]


def test_a_slot_is_one_workers_and_is_not_given_away_soon_after() -> None:
    book = LoadBook(10)
    first = book.slot("a", 0)
    assert book.slot("a", 0) == first != book.slot("a", 1)
    book.forget("a")
    assert book.slot("a", 0) != first
    assert book.name(first) is None


def test_slots_of_workers_long_gone_are_used_again_without_what_was_theirs() -> None:
    book = LoadBook(10)
    used = set()
    for life in range(20_000):
        slot = book.slot(f"pod{life}", 0)
        used.add(slot)
        book.reserve(slot, request_id="r", prefill_tokens=5, prompt_tokens=5, output_tokens=0, now_s=0)
        book.changed()
        assert book.forget(f"pod{life}") == ["r"]
    assert len(used) < 5000
    assert len(book.changed()[0]) == 0 and len(book.own()[0]) == 0
    assert book.statistics()["slots"] == 0


def test_nothing_is_reserved_on_a_slot_that_is_nobodys() -> None:
    book = LoadBook(10)
    assert not book.reserve(3, request_id="r", prefill_tokens=1, prompt_tokens=1, output_tokens=0, now_s=0)
    assert book.statistics()["reservations"] == 0
