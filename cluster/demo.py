"""The demo: the same chats routed by score and round robin, side by side, and the picture of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from kvatlas.cluster.chart import draw_chart
from kvatlas.cluster.demo_run import DemoConfig, run_policy
from kvatlas.cluster.demo_screen import LiveScreen, PlainScreen, result_table
from kvatlas.cluster.fleet import FleetConfig
from kvatlas.cluster.routing import ByScore, RoundRobin
from kvatlas.cluster.run_report import RunReport
from kvatlas.cluster.traffic import TrafficConfig


def default_demo(pods: int, turns: int, seed: int) -> DemoConfig:
    """Chats whose histories fill the caches: where a turn goes decides what is still there."""
    return DemoConfig(
        fleet=FleetConfig(pods=pods),
        traffic=TrafficConfig(turns=turns, open_chats=12 * pods, system_prompts=3 * pods, seed=seed),
    )


def quick_demo(pods: int, seed: int) -> DemoConfig:
    """The same in small, for a look or a test."""
    return DemoConfig(
        fleet=FleetConfig(pods=pods, blocks_per_pod=512),
        traffic=TrafficConfig(
            turns=300,
            open_chats=5 * pods,
            system_prompts=3 * pods,
            system_prompt_tokens=256,
            seed=seed,
        ),
    )


def run_demo(config: DemoConfig, console: Console) -> tuple[RunReport, RunReport]:
    """Runs the traffic both ways and prints the result: (by score, round robin)."""
    traffic, fleet = config.traffic, config.fleet
    console.print(
        f"{fleet.pods} simulated model servers of {fleet.blocks_per_pod} blocks, "
        f"{traffic.turns} chat turns, {traffic.open_chats} chats at a time, "
        f"{traffic.system_prompts} system prompts; events over ZeroMQ",
        highlight=False,
        soft_wrap=True,
    )
    reports: list[RunReport] = []
    for policy_name in (ByScore.name, RoundRobin.name):
        with (LiveScreen if console.is_terminal else PlainScreen)(console, reports) as screen:
            reports.append(run_policy(config, policy_name, screen.show))
    by_score, round_robin = reports
    console.print(result_table(by_score, round_robin))
    return by_score, round_robin


def save_chart(path: Path, config: DemoConfig, by_score: RunReport, round_robin: RunReport) -> None:
    """Raises OSError when the file cannot be written."""
    caption = (
        f"The same {config.traffic.turns:,} chat turns on {config.fleet.pods} simulated model servers, "
        "whose KV events arrive over ZeroMQ"
    )
    path.write_text(draw_chart(by_score, round_robin, caption), encoding="utf-8")


def summary_of(*reports: RunReport) -> dict[str, dict[str, float]]:
    """The figures of each run, for programs; times in seconds."""
    return {
        report.policy: {
            "requests": report.requests,
            "prompt_tokens": report.prompt_tokens,
            "cached_tokens": report.cached_tokens,
            "hit_rate": report.hit_rate,
            "exact_share": report.exact_share,
            "evictions": report.evictions,
            "events": report.events,
            "decision_p50_s": report.decision_quantiles_s((0.5,))[0],
            "decision_p99_s": report.decision_quantiles_s((0.99,))[0],
            "seconds": report.seconds,
        }
        for report in reports
    }
