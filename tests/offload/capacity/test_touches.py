"""Notes of use."""

from __future__ import annotations

from kvatlas.offload.capacity.touches import Touches


def test_a_key_is_noted_once_within_its_time_and_again_after_it() -> None:
    now = [0]
    touches = Touches(10.0, clock_ns=lambda: now[0])
    touches.add([b"a", b"b", b"a"])
    assert list(touches.take()) == [b"a", b"b"]
    now[0] = int(9.9e9)
    touches.add([b"a"])
    assert list(touches.take()) == []
    now[0] = int(10e9)
    touches.add([b"a"])
    assert list(touches.take()) == [b"a"]


def test_waiting_notes_are_bounded_and_what_was_dropped_is_counted() -> None:
    touches = Touches(10.0, waiting_max=2)
    touches.add([b"a", b"b", b"c"])
    assert list(touches.take()) == [b"a", b"b"] and touches.dropped == 1
    touches.add([b"c"])
    assert list(touches.take()) == [b"c"]


def test_remembered_keys_are_bounded_the_ones_noted_longest_ago_go() -> None:
    touches = Touches(10.0, remembered_max=2, clock_ns=lambda: 0)
    touches.add([b"a", b"b", b"c"])
    list(touches.take())
    touches.add([b"c", b"b", b"a"])
    assert list(touches.take()) == [b"a"]
