"""Reservations in memory, against a grant that runs out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvatlas.offload.capacity.claims import Claims


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def granted(n_bytes: int, clock: Clock | None = None, valid_s: float = 10.0) -> Claims:
    claims = Claims(valid_s, clock or Clock())
    claims.grant(n_bytes, claims.totals())
    return claims


def test_nothing_may_be_written_before_a_grant() -> None:
    claims = Claims(10.0, Clock())
    assert not claims.reserve(1)
    assert (claims.refused, claims.refused_bytes) == (1, 1)


def test_reservations_end_at_the_grant_and_come_back_when_nothing_was_stored() -> None:
    claims = granted(100)
    assert claims.reserve(60) and not claims.reserve(41)
    assert claims.reserve(40)
    claims.not_stored(60)
    claims.stored(40)
    assert claims.reserve(60) and not claims.reserve(1)
    assert claims.totals()[:2] == (40, 1)
    claims.stored(60, 3)
    assert claims.totals()[:2] == (100, 4)


def test_a_grant_runs_out_and_is_renewed() -> None:
    clock = Clock()
    claims = granted(100, clock, valid_s=10.0)
    clock.now_ns = int(10e9)
    assert not claims.reserve(1)
    claims.grant(100, claims.totals())
    assert claims.reserve(1)


def test_what_is_reserved_stays_granted_when_the_rest_is_given_up() -> None:
    claims = granted(100)
    claims.reserve(30)
    assert claims.lower(0) == 30
    assert not claims.reserve(1)


def test_a_grant_settles_what_was_wanted_then_and_not_what_came_since() -> None:
    claims = Claims(10.0, Clock())
    claims.reserve(10)
    claims.reserve(30)
    considered = claims.totals()
    assert (considered.wanted_bytes, considered.largest_wanted_bytes) == (40, 30)
    claims.reserve(5)
    claims.grant(0, considered)
    assert claims.totals().wanted_bytes == 5
    claims.grant(0, claims.totals())
    assert claims.totals()[4:6] == (0, 0)


def test_a_process_that_stood_still_before_its_grant_gets_none() -> None:
    clock = Clock()
    claims = Claims(10.0, clock)
    considered = claims.totals()
    clock.now_ns = int(11e9)
    claims.grant(100, considered)
    assert not claims.reserve(1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "stored", "not_stored", "grant", "lower"]), st.integers(1, 50))
    )
)
def test_no_order_of_calls_reserves_more_than_was_granted(calls: list[tuple[str, int]]) -> None:
    claims, open_bytes, most = Claims(10.0, Clock()), [0], 0
    for name, n_bytes in calls:
        if name == "reserve":
            if claims.reserve(n_bytes):
                open_bytes.append(n_bytes)
        elif name in ("stored", "not_stored") and len(open_bytes) > 1:
            getattr(claims, name)(open_bytes.pop())
        elif name == "grant":
            totals = claims.totals()
            claims.grant(totals.granted_bytes + n_bytes, totals)
        elif name == "lower":
            claims.lower(claims.totals().granted_bytes - n_bytes)
        totals = claims.totals()
        most = max(most, totals.granted_bytes)
        assert totals.written_bytes + sum(open_bytes) == totals.reserved_bytes <= totals.granted_bytes <= most
