"""What a stream makes of bad answers, of none, and of worlds without a replay socket."""

from __future__ import annotations

import itertools

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.stream.limits import StreamLimits
from tests.ingest.stream.stream_rig import StreamRig, flowing


def gap(**options: object) -> StreamRig:
    """A rig that has heard batches 0 to 2 and 4, and asks for 3."""
    rig = flowing(**options)
    rig.wait(70, answered=True)
    rig.say(3)
    rig.lose()
    rig.hear(4)
    assert rig.stream.request is not None
    return rig


def test_replies_to_an_older_request_are_ignored() -> None:
    rig = gap()
    old = rig.stream.request
    assert old is not None
    rig.stream.replay_began(old.number, rig.now_s)
    rig.stream.replay_failed(old.number, "cut", rig.now_s)
    rig.wait(0.2)
    assert rig.stream.request is not None and rig.stream.request.number > old.number
    batch = rig.publisher.answer(3)[0]
    rig.stream.replayed(old.number, batch.seq, batch.payload, rig.now_s)
    rig.stream.replay_ended(old.number, rig.now_s)
    assert rig.stream.counts["late_replies"] == 1 and rig.held == {0, 1, 2}
    rig.wait(1, answered=True)
    assert rig.is_exact() and rig.held == {0, 1, 2, 3, 4}


def test_a_cut_answer_is_asked_for_again_and_what_came_counts() -> None:
    rig = flowing()
    rig.wait(70, answered=True)
    rig.say(3)
    rig.say(4)
    rig.lose()
    rig.hear(5)
    rig.line.answer_on(0, 4)  # sent, read, confirmed, one batch
    rig.line.cut(0)
    assert rig.stream.last == 3
    rig.wait(0.2)
    assert rig.stream.request is not None and rig.stream.request.start == 3
    rig.answer()
    assert rig.is_exact()


def test_a_lost_end_marker_is_noticed_by_a_timer() -> None:
    rig = gap()
    rig.line.answer_on(0, 3)
    rig.line.lose_end(0)
    rig.wait(6)
    assert rig.stream.counts["replays_failed"] == 1
    rig.answer()
    assert rig.is_exact()


def test_an_answer_with_a_batch_missing_is_asked_for_again_from_there() -> None:
    rig = flowing()
    for name in (3, 4, 5):
        rig.say(name)
    rig.lose()
    rig.hear(6)
    rig.line.answer_on(0, 6)
    rig.line.thin(0)
    rig.answer()
    assert rig.is_exact() and rig.stream.counts["holes"] == 0


def test_a_batch_missing_twice_is_no_hole_when_the_third_answer_has_it() -> None:
    rig = flowing()
    rig.wait(70, answered=True)
    rig.say(3)
    rig.say(4)
    rig.lose()
    rig.hear(5)
    for _ in range(2):
        rig.line.answer_on(0, 3)  # sent, read, confirmed
        rig.line.thin(0)
        rig.line.answer_on(0, 3)  # two batches and the end
    rig.answer()
    assert rig.is_exact() and rig.stream.counts["holes"] == 0


def test_an_answer_out_of_order_ends_in_order() -> None:
    rig = flowing()
    for name in (3, 4, 3, 5):
        rig.say(name)
    rig.lose()
    rig.hear(6)
    rig.line.answer_on(0, 5)
    rig.line.shuffle(0)
    rig.answer()
    rig.wait(5, answered=True)
    assert rig.is_exact()


def test_an_answer_that_never_ends_fails_by_its_length() -> None:
    rig = gap(limits=StreamLimits(replay_s_max=10.0))
    number = rig.stream.request.number if rig.stream.request else 0
    rig.stream.replay_began(number, rig.now_s)
    batch = rig.publisher.answer(2)[0]
    for _ in range(11):
        rig.stream.replayed(number, batch.seq, batch.payload, rig.now_s)
        rig.wait(1.0)
    assert rig.stream.counts["replays_failed"] == 1
    rig.answer()
    assert rig.is_exact()


def test_a_replay_socket_that_never_answers_leaves_batches_flowing_in_doubt() -> None:
    rig = gap()
    rig.line.deaf = True
    rig.wait(25, answered=False)
    for _ in range(300):
        rig.line.answer_on(0)
        rig.wait(0.1)
    assert rig.stream.last == 4
    assert rig.state in ("DEGRADED", "BLIND") and {"unconfirmed", "lost"} <= rig.reasons
    rig.line.deaf = False
    rig.wait(15, answered=True)
    assert rig.is_exact(), rig.reasons


def test_retries_pause_longer_and_longer() -> None:
    rig = flowing()
    rig.stream.begin(rig.now_s)
    asked_s = []
    for _ in range(400):
        request = rig.stream.request
        if request is not None:
            asked_s.append(rig.now_s)
            rig.stream.replay_failed(request.number, "refused", rig.now_s)
        rig.wait(0.1)
    pauses_s = [later_s - s for s, later_s in itertools.pairwise(asked_s)]
    assert all(later_s > pause_s - 0.3 for pause_s, later_s in itertools.pairwise(pauses_s))
    assert pauses_s[0] < 0.4 and pauses_s[-1] > 9


def test_live_batches_beyond_the_buffer_are_dropped_and_asked_for() -> None:
    rig = gap(limits=StreamLimits(buffer_batches_max=3))
    for name in range(5, 12):
        rig.hear(name)
    assert rig.stream.buffer.dropped > 0 and len(rig.stream.buffer) == 3
    rig.answer()
    assert rig.is_exact() and rig.stream.last == 11


def test_the_buffer_is_bounded_in_bytes_too() -> None:
    rig = gap(limits=StreamLimits(buffer_bytes_max=60))
    for name in range(5, 12):
        rig.hear(name)
    assert rig.stream.buffer.n_bytes <= 60 and rig.stream.buffer.dropped > 0
    rig.answer()
    assert rig.is_exact()


def test_a_gap_without_a_replay_socket_is_a_loss() -> None:
    rig = StreamRig(has_replay=False)
    rig.hear(0)
    assert rig.is_exact()
    rig.say(1)
    rig.lose()
    rig.hear(2)
    assert rig.state == "DEGRADED" and rig.reasons == {"lost", "missed"}


def test_a_restart_without_a_replay_socket_empties_the_worker() -> None:
    rig = StreamRig(has_replay=False)
    rig.hear(0)
    rig.hear(1)
    rig.engine.restart()
    rig.publisher.restart()
    rig.hear(5)
    assert rig.is_exact() and rig.held == {5}


def test_a_late_join_without_a_replay_socket_is_partial() -> None:
    rig = StreamRig(has_replay=False, is_open=False)
    rig.say(0)
    rig.reconnect()
    rig.hear(1)
    assert rig.state == "PARTIAL" and rig.held == {1}


def test_a_reconnect_without_a_replay_socket_is_a_loss() -> None:
    rig = StreamRig(has_replay=False)
    rig.hear(0)
    rig.line.break_off(told=True)
    assert rig.reasons == {"disconnected"}
    rig.reconnect()
    assert rig.state == "DEGRADED" and "lost" in rig.reasons


def test_silence_without_a_replay_socket_is_in_doubt_until_the_next_batch() -> None:
    rig = StreamRig(has_replay=False)
    rig.hear(0)
    rig.wait(3)
    assert rig.state == "DEGRADED" and rig.reasons == {"silent"}
    rig.hear(1)
    assert rig.is_exact()


def test_a_worker_out_of_contact_becomes_blind_and_recovers() -> None:
    rig = flowing()
    rig.line.break_off(told=True)
    rig.line.deaf = True
    for _ in range(400):
        rig.line.answer_on(0)
        rig.wait(0.1)
    assert rig.state == "BLIND" and "lost_contact" in rig.reasons
    rig.line.deaf = False
    rig.reconnect()
    rig.wait(15, answered=True)
    assert rig.is_exact()


def test_too_many_restarts_are_two_publishers() -> None:
    rig = flowing()
    for i in range(7):
        rig.restart(i)
        rig.reconnect()
        rig.wait(3, answered=True)
    assert rig.state == "DEGRADED" and "contested" in rig.reasons
    rig.wait(70, answered=True)
    assert rig.is_exact()


def test_another_publisher_makes_it_contested_for_a_while() -> None:
    rig = flowing()
    rig.stream.contest(rig.now_s)
    assert rig.reasons == {"contested"}
    rig.wait(70, answered=True)
    assert rig.is_exact()


def test_a_live_batch_that_no_replay_knows_is_left_out_in_doubt() -> None:
    rig = flowing()
    rig.line.forge(1 << 63, b"0.0 -1 +77")
    rig.wait(1, answered=True)
    assert rig.stream.counts["contradicted"] == 1 and 77 not in rig.held
    assert rig.reasons == {"contradicted"}
    rig.hear(3)
    rig.answer()
    assert rig.is_exact()


def test_a_publisher_that_keeps_nothing_is_heard_from_its_first_batch() -> None:
    rig = StreamRig(buffer_steps=0)
    rig.hear(0)
    rig.wait(1, answered=True)
    rig.hear(1)
    rig.wait(1, answered=True)
    assert rig.state in ("EXACT", "PARTIAL") and {1} <= rig.held <= rig.engine.held


def test_a_publisher_that_keeps_nothing_is_never_taken_for_empty() -> None:
    rig = StreamRig(buffer_steps=0)
    rig.hear(0)
    rig.wait(5, answered=True)
    assert rig.engine.held == {0} and not (rig.state == "EXACT" and not rig.held)


def test_another_source_takes_over_with_a_question_or_a_loss() -> None:
    rig = flowing()
    rig.stream.take_over(rig.now_s, has_replay=True)
    assert rig.reasons == {"reconnected"}
    rig.answer()
    assert rig.is_exact()
    rig.stream.take_over(rig.now_s, has_replay=False)
    assert rig.state == "DEGRADED" and rig.reasons == {"lost", "missed"}


@pytest.mark.parametrize("name", ["retry_s_min", "hole_answers", "buffer_bytes_max"])
def test_limits_out_of_range_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        StreamLimits(**{name: 0})
    with pytest.raises(ConfigError, match="retry_s_min"):
        StreamLimits(retry_s_min=11.0)
