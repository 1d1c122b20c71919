"""The demo in small: real sockets, a fleet in its own process, the real atlas."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from rich.console import Console

from kvatlas.cluster.demo.demo import quick_demo, run_demo, summary_of
from kvatlas.cluster.demo.demo_atlas import EmbeddedAtlas
from kvatlas.cluster.demo.demo_run import DemoConfig, DemoRun, empty_caches
from kvatlas.cluster.demo.demo_run import run_policy as run_policy_over
from kvatlas.cluster.demo.demo_screen import LiveScreen, progress_view
from kvatlas.cluster.demo.fleet import Fleet, FleetConfig, FleetError
from kvatlas.cluster.demo.routing import ByScore, RoundRobin
from kvatlas.cluster.demo.run_report import RunReport

CONFIG = quick_demo(pods=4, seed=1)
SETTLED = msgspec.structs.replace(CONFIG, settle_each_turn=True)


def ignore(run: DemoRun) -> None:
    pass


def run_policy(config: DemoConfig, policy: str, show: Callable[[DemoRun], None]) -> RunReport:
    """Over a fleet and an atlas of its own."""
    with Fleet(config.fleet) as fleet, EmbeddedAtlas(fleet) as atlas:
        fleet.wait_for_subscribers()
        return run_policy_over(config, policy, fleet, atlas, show)


@pytest.fixture(scope="module")
def settled() -> dict[str, RunReport]:
    """Both runs, each decision made with all events at hand."""
    return {policy: run_policy(SETTLED, policy, ignore) for policy in (ByScore.name, RoundRobin.name)}


@pytest.mark.slow
def test_predictions_are_exact_whenever_the_events_have_arrived(settled: dict[str, RunReport]) -> None:
    for report in settled.values():
        assert report.requests == SETTLED.traffic.turns
        assert report.evictions > 1000, "a cache that never evicts proves little"
        wrong = [o for o in report.outcomes if o.predicted_tokens != o.cached_tokens]
        assert wrong == []


@pytest.mark.slow
def test_the_same_traffic_routed_by_score_reuses_far_more(settled: dict[str, RunReport]) -> None:
    by_score, round_robin = settled[ByScore.name], settled[RoundRobin.name]
    assert by_score.prompt_tokens == round_robin.prompt_tokens
    assert by_score.hit_rate > 1.5 * round_robin.hit_rate
    assert len(set(round_robin.requests_by_pod)) == 1


@pytest.mark.slow
def test_a_settled_run_is_the_same_every_time(settled: dict[str, RunReport]) -> None:
    again = run_policy(SETTLED, ByScore.name, ignore)
    told = [[(o.pod, o.cached_tokens) for o in run.outcomes] for run in (settled[ByScore.name], again)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_the_demo_prints_plain_lines_and_a_table_without_a_terminal() -> None:
    out = io.StringIO()
    reports = run_demo(CONFIG, Console(file=out, width=120))
    said = out.getvalue()
    assert "\x1b" not in said
    assert "by score: 300/300 requests" in said
    assert "round robin: 300/300 requests" in said
    for row in ("prefix hit rate", "prefill tokens saved", "time per decision, p99", "events ingested"):
        assert row in said
    assert set(summary_of(*reports)) == {"by score", "round robin"}


@pytest.mark.slow
def test_the_live_view_shows_every_pod_with_its_blocks() -> None:
    views: list[str] = []

    def draw(run: DemoRun) -> None:
        if run.report.requests == 150:
            console = Console(file=io.StringIO(), width=120, record=True)
            console.print(progress_view(run))
            views.append(console.export_text())

    run_policy(SETTLED, ByScore.name, draw)
    (view,) = views
    assert "150 of 300 requests" in view
    rows = [line for line in view.splitlines() if "pod-" in line]
    assert len(rows) == CONFIG.fleet.pods
    for row in rows:
        blocks_held = re.search(r"━\D*([\d,]+)", row)  # "pod-0  31  ━━━━  509  81.2 %"
        assert blocks_held is not None, row
        assert 0 < int(blocks_held[1].replace(",", "")) < CONFIG.fleet.blocks_per_pod


@pytest.mark.slow
def test_a_terminal_gets_a_live_view_that_is_gone_at_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    small = msgspec.structs.replace(
        CONFIG, traffic=msgspec.structs.replace(CONFIG.traffic, turns=40, open_chats=8)
    )
    with LiveScreen(console) as screen:
        run_policy(small, ByScore.name, screen.show)
    assert "of 40 requests" in out.getvalue()


@pytest.mark.slow
def test_a_fleet_whose_process_died_is_a_clear_error() -> None:
    with Fleet(FleetConfig(pods=1)) as fleet:
        tokens = np.arange(64, dtype=np.uint32)
        assert fleet.serve(0, tokens, tokens[:8]).cached_tokens == 0
        assert fleet.serve(0, tokens, tokens[:8]).cached_tokens == 48
        assert fleet.process_id is not None
        os.kill(fleet.process_id, signal.SIGKILL)
        with pytest.raises(FleetError, match="their process has ended"):
            fleet.serve(0, tokens, tokens[:8])


@pytest.mark.slow
def test_a_request_too_large_for_a_pod_is_a_clear_error_and_the_fleet_goes_on() -> None:
    with Fleet(FleetConfig(pods=1, blocks_per_pod=8)) as fleet:
        tokens = np.arange(16 * 9, dtype=np.uint32)
        with pytest.raises(FleetError, match="free blocks"):
            fleet.serve(0, tokens, tokens[:1])
        assert fleet.serve(0, tokens[:32], tokens[:1]).cached_tokens == 0


@pytest.mark.slow
def test_a_run_over_emptied_caches_is_the_same_again() -> None:
    with Fleet(SETTLED.fleet) as fleet, EmbeddedAtlas(fleet) as atlas:
        fleet.wait_for_subscribers()
        reports = []
        for _ in range(2):
            reports.append(run_policy_over(SETTLED, ByScore.name, fleet, atlas, ignore))
            empty_caches(fleet, atlas)
            assert not atlas.score(np.arange(64, dtype=np.uint32), model=SETTLED.fleet.model)
    first, second = reports
    assert [(o.pod, o.cached_tokens) for o in first.outcomes] == [
        (o.pod, o.cached_tokens) for o in second.outcomes
    ]
    assert (first.evictions, first.events) == (second.evictions, second.events)
    assert first.exact_share == second.exact_share == 1
