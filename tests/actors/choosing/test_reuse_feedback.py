"""What workers have reused, on its way to their subscribers."""

from __future__ import annotations

from kvatlas.actors.choosing.reuse_feedback import ReuseFeedback
from kvatlas.actors.orders import ReuseReport, ReuseTold, decode, encode

FOLLOWED = {"a": "0", "b": "0", "c": "1"}


def test_comparisons_go_to_the_subscriber_that_follows_the_pod_once() -> None:
    feedback = ReuseFeedback()
    for pod, predicted, actual in (("a", 64, 48), ("c", 0, 16), ("a", 32, 32), ("b", 1, 1)):
        feedback.note(pod, 0, "m", predicted, actual)
    told = feedback.take(FOLLOWED.get)
    assert decode(encode(told["0"]), ReuseReport) == ReuseReport(
        workers=(ReuseTold("a", 0, "m", ((64, 48), (32, 32))), ReuseTold("b", 0, "m", ((1, 1),)))
    )
    assert told["1"].workers == (ReuseTold("c", 0, "m", ((0, 16),)),)
    assert feedback.take(FOLLOWED.get) == {}


def test_workers_that_nobody_follows_are_counted() -> None:
    feedback = ReuseFeedback()
    feedback.note("stranger", 0, "m", 1, 1)
    assert feedback.take(FOLLOWED.get) == {}
    assert feedback.counts["reuses_unclaimed"] == 1


def test_what_waits_is_bounded_and_what_the_bound_cost_is_counted() -> None:
    feedback = ReuseFeedback()
    for _ in range(300):
        feedback.note("a", 0, "m", 1, 1)
    for rank in range(9000):
        feedback.note("b", rank, "m", 1, 1)
    assert feedback.counts == {"reuses_noted": 256 + 8191, "reuses_dropped": 44 + 9000 - 8191}
