"""What a stream makes of gaps, restarts and late joins, one rule a test."""

from __future__ import annotations

import pytest

from kvatlas.ingest._native import checksum
from tests.ingest.stream.stream_rig import StreamRig, flowing


def test_batches_that_follow_are_applied_at_once() -> None:
    rig = flowing()
    rig.hear(3)
    assert rig.is_exact()
    assert rig.stream.last == 3 and rig.stream.request is None


def test_an_idle_warm_worker_is_known_after_a_late_join() -> None:
    rig = StreamRig(is_open=False)
    for name in range(5):
        rig.say(name)
    rig.reconnect()
    rig.answer()
    assert rig.is_exact() and rig.held == {0, 1, 2, 3, 4}


def test_nothing_is_known_before_the_first_batch() -> None:
    rig = StreamRig()
    rig.answer()
    assert rig.state == "BLIND" and rig.reasons == {"never_heard"}


def test_a_gap_is_asked_for_from_the_last_batch_and_its_payloads_applied_once() -> None:
    rig = flowing()
    rig.wait(70, answered=True)
    rig.say(3, 4)
    rig.lose()
    rig.hear(3)
    assert rig.reasons == {"gap"} and rig.stream.request is not None and rig.stream.request.start == 2
    rig.answer()
    assert rig.is_exact() and rig.held == {0, 1, 2, 4}
    assert rig.stream.counts["replayed"] == 2 and rig.stream.counts["repeated"] == 1


def test_live_batches_wait_in_order_while_a_gap_is_asked_for() -> None:
    rig = flowing()
    rig.say(3)
    rig.lose()
    rig.hear(4)
    rig.line.answer_on(0, 3)
    rig.hear(3)
    rig.hear(5)
    assert rig.held == {0, 1, 2}
    rig.answer()
    assert rig.is_exact() and rig.held == {0, 1, 2, 4, 5}


def test_a_lost_tail_of_an_idle_worker_is_found_by_the_timer() -> None:
    rig = flowing()
    rig.say(0)
    rig.lose()
    rig.wait(3)
    assert rig.stream.request is not None
    rig.answer()
    assert rig.is_exact() and rig.held == {1, 2}


def test_silence_is_confirmed_again_and_again_but_seldom() -> None:
    rig = flowing()
    before = rig.stream.counts["replays"]
    rig.wait(33, answered=True)
    assert rig.stream.counts["replays"] - before == 4
    assert rig.is_exact()


def test_a_sequence_that_runs_backwards_is_another_incarnation() -> None:
    rig = flowing()
    rig.engine.restart()
    rig.publisher.restart()
    rig.hear(7)
    assert rig.reasons == {"suspect"}
    rig.answer()
    assert rig.is_exact() and rig.held == {7}
    assert rig.stream.counts["restarts"] == 1


def test_another_payload_at_the_last_number_is_another_incarnation() -> None:
    rig = flowing()
    rig.restart(5, 6)
    rig.reconnect()
    rig.lose()
    rig.hear(7)
    rig.answer()
    assert rig.is_exact() and rig.held == {5, 6, 7}


@pytest.mark.parametrize("numbers", [1, 2, 3, 4, 5, 9])
def test_a_restart_that_overtakes_the_old_number_while_away_is_found(numbers: int) -> None:
    rig = flowing()
    rig.restart(*range(10, 10 + numbers))
    rig.reconnect()
    rig.hear(3)
    assert not rig.is_exact()
    rig.answer()
    assert rig.is_exact() and rig.held == {*range(10, 10 + numbers), 3}
    assert rig.stream.counts["restarts"] == 1


def test_a_restart_that_only_left_its_very_next_number_is_found_on_reconnect() -> None:
    rig = flowing()
    rig.restart(10, 11, 12)  # 0 to 2, as the old one
    rig.reconnect()
    rig.say(13)
    rig.answer()
    assert rig.is_exact() and rig.held == {10, 11, 12, 13}


def test_an_answer_of_the_old_engine_does_not_count_after_a_reconnect() -> None:
    rig = flowing()
    rig.stream.begin(rig.now_s)
    rig.line.answer_on(0, 2)  # read by the engine that is about to die
    rig.restart(10, 11, 12)
    rig.reconnect()
    rig.hear(13)
    rig.line.answer_late(0)
    rig.line.answer_late(0)
    assert not rig.is_exact()
    rig.answer()
    assert rig.is_exact() and rig.held == {10, 11, 12, 13}


def test_a_mixture_of_two_engines_at_a_reconnect_is_found_by_the_next_question() -> None:
    """What was left of the old connection is read after the reconnect was told; the new engine's
    number fits right behind, and its last batch alone would confirm the mixture."""
    rig = StreamRig()
    rig.line.mixes = True
    rig.say(1)
    old = rig.line.flight.pop()
    rig.restart()
    rig.reconnect()
    rig.answer()
    rig.line.flight = [old]
    rig.arrive()
    rig.say(2)
    rig.lose()
    rig.hear(3)
    rig.wait(3, answered=True)
    assert rig.is_exact() and rig.held == {2, 3}


def test_what_waits_at_a_reconnect_is_not_applied_behind_it() -> None:
    rig = StreamRig(buffer_steps=0)
    rig.say(5)
    rig.lose()
    rig.hear(6)
    rig.restart(7, 8)
    rig.reconnect()
    rig.wait(1, answered=True)
    rig.hear(9)
    rig.wait(1, answered=True)
    assert rig.held == {9} and rig.state == "PARTIAL"


def test_a_straggler_of_the_old_engine_that_would_fit_is_older_and_left_out() -> None:
    rig = flowing()
    rig.say(3)
    straggler = rig.line.flight.pop()
    rig.engine.restart()
    rig.publisher.restart()
    for name in (10, 11, 12):
        rig.hear(name)
        rig.answer()
    assert rig.is_exact()
    rig.line.flight = [straggler]
    rig.arrive()
    assert rig.held == {10, 11, 12}
    rig.wait(2, answered=True)
    rig.hear(13)
    rig.answer()
    assert rig.is_exact()


def test_a_restarted_engine_that_has_said_nothing_is_empty_and_not_exact_until_heard() -> None:
    rig = flowing()
    rig.restart()
    rig.reconnect()
    rig.answer()
    assert rig.held == set()
    rig.hear(1)
    rig.answer()
    assert rig.is_exact()


def test_a_batch_once_more_is_dropped() -> None:
    rig = flowing()
    rig.say(3)
    rig.line.repeat(0)
    rig.arrive()
    assert rig.is_exact() and rig.stream.counts["repeated"] == 1


def test_batches_out_of_order_end_in_order() -> None:
    rig = flowing()
    for name in (3, 4, 3):
        rig.say(name)
    rig.line.flight.reverse()
    rig.arrive()
    rig.answer()
    assert rig.is_exact() and rig.held == {0, 1, 2, 4}


def test_a_truncated_start_makes_it_partial_until_a_restart() -> None:
    rig = StreamRig(buffer_steps=2, is_open=False)
    for name in range(5):
        rig.say(name)
    rig.reconnect()
    rig.answer()
    assert rig.state == "PARTIAL" and rig.reasons == {"missed"}
    assert rig.held == {3, 4}
    rig.restart(9)
    rig.reconnect()
    rig.answer()
    assert rig.is_exact()


def test_a_gap_longer_than_the_replay_buffer_starts_anew() -> None:
    rig = flowing(buffer_steps=2)
    for name in (0, 5, 6, 7):
        rig.say(name)
    rig.lose()
    rig.hear(8)
    rig.answer()
    assert rig.state == "PARTIAL" and rig.held == {7, 8}


def test_a_permanent_hole_is_accepted_after_two_answers_without_it() -> None:
    rig = flowing()
    rig.say(0, for_good=True)
    rig.hear(5)
    rig.answer()
    assert rig.stream.counts["holes"] == 1
    assert rig.state == "DEGRADED" and rig.reasons == {"lost", "missed"}
    assert rig.stream.last == 4
    rig.hear(6)
    assert rig.stream.last == 5


def test_a_resync_asks_for_everything() -> None:
    rig = flowing()
    rig.listener.sink.held.add(99)
    rig.stream.resync(rig.now_s)
    rig.answer()
    assert rig.is_exact() and rig.stream.counts["resyncs"] == 1


def test_a_checkpoint_is_gone_on_from_and_what_came_since_is_asked_for() -> None:
    old = flowing()
    new = StreamRig(is_open=False)
    new.publisher, new.engine = old.publisher, old.engine
    new.line.publisher = old.publisher
    new.now_s = old.now_s
    new.held.update(old.held)
    position = old.stream.position
    assert position is not None
    old.say(7)
    new.stream.resume(*position, new.now_s)
    assert new.state == "DEGRADED"
    new.answer()
    assert new.is_exact() and new.stream.counts["replayed"] == 1


def test_a_checkpoint_of_another_incarnation_is_forgotten() -> None:
    rig = StreamRig(is_open=False)
    rig.held.update({50, 51})
    rig.stream.resume(2, checksum(b"of an engine that is no more"), rig.now_s)
    for name in range(5):
        rig.say(name)
    rig.lose()
    rig.answer()
    assert rig.is_exact() and rig.stream.counts["restarts"] == 1


def test_a_block_size_change_asks_for_everything_again() -> None:
    rig = flowing()
    rig.held.clear()
    rig.stream.forgotten(rig.now_s)
    assert rig.state == "PARTIAL"
    rig.answer()
    assert rig.is_exact()
