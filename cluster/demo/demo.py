"""The demo: the same chats routed by score and round robin, side by side, and the picture of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from kvatlas.cluster.demo.chart import draw_chart
from kvatlas.cluster.demo.demo_atlas import DemoAtlas, EmbeddedAtlas
from kvatlas.cluster.demo.demo_run import DemoConfig, empty_caches, run_policy
from kvatlas.cluster.demo.demo_screen import LiveScreen, PlainScreen, result_table
from kvatlas.cluster.demo.fleet import Fleet, FleetConfig
from kvatlas.cluster.demo.routing import ByScore, RoundRobin
from kvatlas.cluster.demo.run_report import RunReport
from kvatlas.cluster.demo.traffic import TrafficConfig


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


def run_demo(config: DemoConfig, console: Console, shards: int | None = None) -> tuple[RunReport, RunReport]:
    """Runs the traffic both ways and prints the result: (by score, round robin).

    `shards`: of a cluster on a Ray of its own; None: an atlas in this process.
    """
    traffic, fleet_config = config.traffic, config.fleet
    console.print(
        f"{fleet_config.pods} simulated model servers of {fleet_config.blocks_per_pod} blocks, "
        f"{traffic.turns} chat turns, {traffic.open_chats} chats at a time, "
        f"{traffic.system_prompts} system prompts; events over ZeroMQ",
        highlight=False,
        soft_wrap=True,
    )
    with Fleet(fleet_config) as fleet, _open_atlas(fleet, shards, console) as atlas:
        fleet.wait_for_subscribers()
        by_score = _run(config, ByScore.name, fleet, atlas, console, ())
        empty_caches(fleet, atlas)
        round_robin = _run(config, RoundRobin.name, fleet, atlas, console, (by_score,))
        console.print(result_table(by_score, round_robin))
        told = ", ".join(f"{name} {value}" for name, value in atlas.facts())
        console.print(told, highlight=False, soft_wrap=True)
    return by_score, round_robin


@contextlib.contextmanager
def _open_atlas(fleet: Fleet, shards: int | None, console: Console) -> Iterator[DemoAtlas]:
    if shards is None:
        with EmbeddedAtlas(fleet) as embedded:
            yield embedded
        return
    from kvatlas.cluster.demo.cluster_atlas import ClusterAtlas, local_ray  # Ray: only where it is used

    with contextlib.ExitStack() as opened:
        with console.status("starting Ray on this machine") as status:
            opened.enter_context(local_ray())
            status.update(f"starting a directory, {shards} shards and a subscriber")
            atlas = opened.enter_context(ClusterAtlas(fleet, shards))
            status.update("waiting until every pod is followed and every shard is whole")
            atlas.wait_ready()
        yield atlas


def _run(
    config: DemoConfig,
    policy_name: str,
    fleet: Fleet,
    atlas: DemoAtlas,
    console: Console,
    finished: Sequence[RunReport],
) -> RunReport:
    with (LiveScreen if console.is_terminal else PlainScreen)(console, finished) as screen:
        return run_policy(config, policy_name, fleet, atlas, screen.show)


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
