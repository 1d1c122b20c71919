"""What is claimed of a worker: doubts, their states, and who says what heals them."""

from __future__ import annotations

import logging

import pytest

from kvatlas.ingest.stream.truth import DOUBTS, STATES, Truth


def heard() -> Truth:
    truth = Truth("a rank 0 of m", 0.0)
    truth.settle("never_heard")
    return truth


def test_a_worker_of_which_nothing_was_heard_is_blind() -> None:
    truth = Truth("a", 3.0)
    assert truth.state == "BLIND"
    assert [(reason.name, reason.since_s) for reason in truth.reasons] == [("never_heard", 3.0)]


@pytest.mark.parametrize("doubt", sorted(DOUBTS))
def test_each_doubt_makes_its_state_and_healing_it_unmakes_it(doubt: str) -> None:
    truth = heard()
    truth.doubt(doubt, 1.0, "why")
    assert truth.state == DOUBTS[doubt].state != "EXACT"
    (reason,) = truth.reasons
    assert reason.says.endswith(": why") and reason.heals
    truth.settle(doubt)
    assert (truth.state, truth.reasons) == ("EXACT", ())


def test_the_worst_doubt_decides_and_is_named_first() -> None:
    truth = heard()
    truth.doubt("orphans", 1.0)
    truth.doubt("lost", 2.0)
    truth.doubt("missed", 3.0)
    assert truth.state == "DEGRADED"
    assert [reason.name for reason in truth.reasons] == ["lost", "orphans", "missed"]
    truth.settle("lost")
    assert str(truth.state) == "PARTIAL"


def test_a_doubt_that_stands_keeps_its_age_and_tells_its_latest_detail() -> None:
    truth = heard()
    truth.doubt("orphans", 1.0, "3")
    truth.doubt("orphans", 9.0, "5")
    (reason,) = truth.reasons
    assert reason.since_s == 1.0 and reason.says.endswith(": 5")


def test_a_change_is_seen_counted_and_logged_once_and_never_passes_through_a_better_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[tuple[str, str]] = []
    truth = Truth("a rank 0 of m", 0.0, lambda old, new: seen.append((old, new)))
    with caplog.at_level(logging.INFO, "kvatlas"):
        truth.change(1.0, doubts={"missed": "batches before 7"}, settled=("never_heard",))
        truth.doubt("missed", 2.0, "batches before 8")
        truth.settle("missed")
    assert seen == [("BLIND", "PARTIAL"), ("PARTIAL", "EXACT")]
    assert truth.transitions == 2
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "a rank 0 of m: BLIND -> PARTIAL" in caplog.messages[0]


def test_what_another_process_must_go_on_doubting_is_carried_over_and_no_more() -> None:
    truth = heard()
    for doubt in DOUBTS:
        truth.doubt(doubt, 1.0, doubt.upper())
    other = heard()
    other.restore({**truth.lasting(), "of a later version": ""}, 5.0)
    names = {reason.name for reason in other.reasons}
    assert {"lost", "missed", "unread"} <= names
    assert not names & {"never_heard", "disconnected", "gap", "orphans", "contested"}


def test_the_states_are_in_order_best_first() -> None:
    assert STATES == ("EXACT", "PARTIAL", "DEGRADED", "BLIND")
