"""The sums and quantiles of a run."""

from __future__ import annotations

import pytest

from kvatlas.cluster.demo.run_report import RequestOutcome, RunReport


def outcome(pod: int, prompt: int, cached: int, predicted: int, decision_s: float = 1e-6) -> RequestOutcome:
    return RequestOutcome(
        pod=pod,
        prompt_tokens=prompt,
        predicted_tokens=predicted,
        cached_tokens=cached,
        decision_s=decision_s,
    )


def report_of(*outcomes: RequestOutcome) -> RunReport:
    report = RunReport("by score", pods=2)
    for one in outcomes:
        report.add(one)
    return report


def test_tokens_are_summed_and_shares_are_of_tokens_not_of_requests() -> None:
    report = report_of(outcome(0, 100, 80, 80), outcome(1, 300, 0, 16), outcome(0, 100, 100, 100))
    assert (report.prompt_tokens, report.cached_tokens, report.prefill_tokens) == (500, 180, 320)
    assert report.hit_rate == pytest.approx(0.36)
    assert report.exact_share == pytest.approx(2 / 3)
    assert report.requests_by_pod == [2, 1]
    assert report.busiest_share == pytest.approx(2 / 3)


def test_the_moving_hit_rate_forgets_what_left_its_window() -> None:
    report = report_of(*[outcome(0, 100, cached, 0) for cached in (0, 100, 100, 50)])
    assert report.moving_hit_rate(2).tolist() == [0.0, 0.5, 1.0, 0.75]
    assert report.moving_hit_rate(10).tolist() == pytest.approx([0.0, 0.5, 2 / 3, 0.625])


def test_quantiles_of_decision_times() -> None:
    report = report_of(*[outcome(0, 1, 0, 0, decision_s=n * 1e-6) for n in range(101)])
    assert report.decision_quantiles_s((0.5, 0.99)) == pytest.approx([50e-6, 99e-6])


def test_a_run_without_requests_has_no_hits_and_no_times() -> None:
    report = report_of()
    assert report.hit_rate == report.exact_share == report.busiest_share == 0
    assert report.decision_quantiles_s((0.5,)) == [0.0]
