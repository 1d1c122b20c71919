"""Predicted against actual reuse, and how far behind its server a worker is."""

from __future__ import annotations

import pytest

from kvatlas import Atlas, AtlasConfig, ConfigError
from kvatlas.ingest.stream.agreement import Agreement, AgreementLimits
from kvatlas.ingest.stream.lag import Lag
from tests.ingest.plain_batches import batch, stored

TOKENS = list(range(64))


def names(atlas: Atlas) -> set[str]:
    (worker,) = atlas.statistics().workers
    return {reason.name for reason in worker.truth.reasons}


def told_atlas() -> Atlas:
    limits = AgreementLimits(window_requests=4, wrong_max=1)
    atlas = Atlas(AtlasConfig(agreement=limits))
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    return atlas


def test_predictions_that_fail_again_and_again_are_a_doubt_of_their_kind() -> None:
    atlas = told_atlas()
    atlas.reused("a", 48, 16, model="m")
    assert names(atlas) == set(), "one may be put down to events on their way"
    atlas.reused("a", 48, 0, model="m")
    assert names(atlas) == {"overpredicted"}
    (worker,) = atlas.statistics().workers
    assert (worker.truth.state, worker.predictions, worker.predictions_wrong) == ("DEGRADED", 2, 2)
    for _ in range(2):
        atlas.reused("a", 0, 48, model="m")
    assert "underpredicted" in names(atlas)
    atlas.close()


def test_predictions_that_come_true_heal_it() -> None:
    atlas = told_atlas()
    for _ in range(3):
        atlas.reused("a", 48, 16, model="m")
    for _ in range(3):
        assert names(atlas) == {"overpredicted"}
        atlas.reused("a", 48, 48, model="m")
    assert names(atlas) == set()
    atlas.close()


def test_a_request_that_neither_side_reuses_anything_of_proves_nothing() -> None:
    atlas = told_atlas()
    for _ in range(3):
        atlas.reused("a", 48, 16, model="m")
    for _ in range(20):
        atlas.reused("a", 0, 0, model="m")
    assert names(atlas) == {"overpredicted"}
    atlas.close()


def test_agreement_heals_nothing_but_disagreement() -> None:
    atlas = told_atlas()
    atlas.ingest(b"kv@a@m", 5, batch(stored([9], TOKENS[:16], 4)))
    assert names(atlas) == {"lost", "missed"}
    for _ in range(50):
        atlas.reused("a", 48, 48, model="m")
    assert names(atlas) == {"lost", "missed"}
    atlas.close()


def test_an_unknown_worker_is_ignored() -> None:
    atlas = told_atlas()
    atlas.reused("nobody", 1, 0, model="m")
    atlas.reused("a", 1, 0, model="other")
    atlas.close()


@pytest.mark.parametrize("values", [{"window_requests": 0}, {"window_requests": 4, "wrong_max": 4}])
def test_limits_that_can_never_be_met_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        AgreementLimits(**values)


def test_a_window_that_is_forgotten_judges_nothing() -> None:
    agreement = Agreement(AgreementLimits(window_requests=3, wrong_max=0))
    agreement.note(5, 4)
    assert agreement.overpredicted and not agreement.underpredicted
    agreement.forget()
    assert not agreement.overpredicted
    assert (agreement.compared, agreement.wrong) == (1, 1)


def test_lag_is_what_the_clocks_say_until_their_offset_is_known() -> None:
    lag = Lag()
    assert (lag.report().seconds, lag.report().clock_offset_s) == (None, None)
    lag.note(100.0, 105.5)
    assert (lag.report().seconds, lag.report().clock_offset_s) == (5.5, None)
    for i in range(20):
        lag.note(101.0 + i, 106.0 + i)
    lag.note(130.0, 135.25)
    assert lag.report().clock_offset_s == 5.0
    assert lag.report().seconds == pytest.approx(0.25)


def test_a_clock_that_is_set_is_followed_within_two_windows() -> None:
    lag = Lag()
    for i in range(300):
        lag.note(float(i), i + 2.0)
    for i in range(300, 500):
        lag.note(float(i), i + 9.0)
    assert lag.report().clock_offset_s == 9.0


def test_a_worker_that_restarts_has_another_clock() -> None:
    lag = Lag()
    for i in range(20):
        lag.note(float(i), i + 50.0)
    lag.restart()
    assert lag.report().seconds is None
