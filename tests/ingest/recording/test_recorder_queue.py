"""The bounded queue between a recorder's threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvatlas.ingest.recording.recorder_queue import Received, RecorderQueue, Taken


def taken_now(queue: RecorderQueue) -> Taken:
    taken = queue.take(0)
    assert taken is not None
    return taken


@given(sizes=st.lists(st.integers(0, 4000), max_size=60), takes=st.sets(st.integers(0, 59)))
def test_every_message_is_taken_or_counted_as_lost_and_in_order(sizes: list[int], takes: set[int]) -> None:
    queue = RecorderQueue(bytes_max=6000)
    order: list[int | str] = []

    def take() -> None:
        taken = taken_now(queue)
        order.extend(message.monotonic_ns for message in taken.received)
        order.extend("lost" for _ in range(taken.lost.get(7, 0)))

    for number, size in enumerate(sizes):
        queue.put(Received(7, (bytes(size),), number))
        assert queue.waiting_bytes <= 6000
        if number in takes:
            take()
    take()
    assert len(order) == len(sizes)
    assert all(entry in ("lost", number) for number, entry in enumerate(order)), "a loss keeps its place"


def test_the_time_and_the_sources_of_a_loss_are_told() -> None:
    queue = RecorderQueue(bytes_max=1000)
    assert queue.put(Received(0, (b"x",), 1))
    assert not queue.put(Received(1, (bytes(2000),), 2))
    assert not queue.put(Received(0, (b"small, but behind a loss",), 3))
    taken = taken_now(queue)
    assert (len(taken.received), taken.lost, taken.lost_ns) == (1, {0: 1, 1: 1}, 2)
    assert queue.put(Received(0, (b"x",), 4))


def test_frames_without_bytes_cost_room_too() -> None:
    queue = RecorderQueue(bytes_max=10_000)
    assert not queue.put(Received(0, (b"",) * 1000, 1))


def test_a_closed_queue_gives_out_what_waits_and_then_nothing() -> None:
    queue = RecorderQueue(bytes_max=1000)
    queue.put(Received(0, (b"x",), 1))
    queue.close()
    assert len(taken_now(queue).received) == 1
    assert queue.take(timeout_s=100) is None
