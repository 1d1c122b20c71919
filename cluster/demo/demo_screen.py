"""What the demo shows: a live view of a run, plain lines where nobody looks, and the result as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.demo.demo_run import DemoRun
from kvatlas.cluster.demo.routing import RoundRobin
from kvatlas.cluster.demo.run_report import RunReport
from kvatlas.cluster.quantities import shown_count, shown_duration, shown_share

ACCENT = "cyan"
_REDRAW_S = 0.1


class LiveScreen:
    """Redraws in place, at most ten times a second; a context manager."""

    def __init__(self, console: Console, finished: Sequence[RunReport] = ()) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._finished = finished
        self._drawn_s = 0.0

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, run: DemoRun) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            self._live.update(progress_view(run, self._finished), refresh=True)


class PlainScreen:
    """A line for every fifth of a run."""

    def __init__(self, console: Console, finished: Sequence[RunReport] = ()) -> None:
        self._console = console

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, run: DemoRun) -> None:
        turns = run.config.traffic.turns
        done = run.report.requests
        if done * 5 // turns == (done - 1) * 5 // turns:
            return
        p50, p99 = run.report.decision_quantiles_s((0.5, 0.99))
        self._console.print(
            f"{run.report.policy}: {done}/{turns} requests, "
            f"hit rate {shown_share(run.report.hit_rate)}, "
            f"{shown_count(sum(run.blocks_held()))} blocks held, "
            f"{shown_count(run.events() / run.elapsed_s)} events/s, "
            f"decision p50 {shown_duration(p50)} p99 {shown_duration(p99)}",
            highlight=False,
            soft_wrap=True,
        )


def progress_view(run: DemoRun, finished: Sequence[RunReport] = ()) -> RenderableType:
    """The state of a run: its pods on the left, its figures on the right, earlier runs below."""
    turns = run.config.traffic.turns
    progress = Table.grid(padding=(0, 2))
    progress.add_column(width=len(f"routed {RoundRobin.name}"))
    progress.add_row(
        Text(f"routed {run.report.policy}", style=f"bold {ACCENT}"),
        ProgressBar(total=turns, completed=run.report.requests, width=40, complete_style=ACCENT),
        f"{run.report.requests:,} of {turns:,} requests",
    )
    body = Table.grid(padding=(0, 4))
    body.add_row(_pods_table(run), _figures(run))
    shown: list[RenderableType] = [progress, "", body]
    for report in finished:
        said = (
            f"before, {report.policy}: hit rate {shown_share(report.hit_rate)}, "
            f"{shown_count(report.prefill_tokens)} prefill tokens computed"
        )
        shown += ["", Text(said, style="dim")]
    return Panel(Group(*shown), title="kvatlas demo", border_style="dim", padding=(1, 2), width=98)


def result_table(by_score: RunReport, other: RunReport) -> Table:
    """Both runs side by side."""
    table = Table(title="The same traffic, routed two ways", title_style="bold", border_style="dim")
    table.add_column()
    table.add_column(by_score.policy, justify="right", style=f"bold {ACCENT}")
    table.add_column(other.policy, justify="right")
    for name, *cells in _result_rows(by_score, other):
        table.add_row(name, *cells)
    return table


def _result_rows(by_score: RunReport, other: RunReport) -> list[tuple[str, str, str]]:
    def row(name: str, said: list[str]) -> tuple[str, str, str]:
        return name, said[0], said[1]

    both = (by_score, other)
    quantiles = [report.decision_quantiles_s((0.5, 0.99)) for report in both]
    return [
        row("prefix hit rate", [shown_share(r.hit_rate) for r in both]),
        row("prefill tokens computed", [shown_count(r.prefill_tokens) for r in both]),
        row("prefill tokens saved", [shown_count(r.cached_tokens) for r in both]),
        row("blocks evicted", [shown_count(r.evictions) for r in both]),
        row("requests on the busiest pod", [shown_share(r.busiest_share) for r in both]),
        row("time per decision, p50", [shown_duration(p50) for p50, _ in quantiles]),
        row("time per decision, p99", [shown_duration(p99) for _, p99 in quantiles]),
        row("events ingested", [shown_count(r.events) for r in both]),
        row("reuse predicted to the token", [shown_share(r.exact_share) for r in both]),
    ]


def _pods_table(run: DemoRun) -> Table:
    capacity = run.config.fleet.blocks_per_pod
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("pod")
    table.add_column("requests", justify="right")
    table.add_column("blocks held", justify="left")
    table.add_column("", justify="right")
    table.add_column("hit rate", justify="right")
    for number, blocks in enumerate(run.blocks_held()):
        prompt_tokens = max(run.report.prompt_tokens_by_pod[number], 1)
        table.add_row(
            run.pods[number],
            str(run.report.requests_by_pod[number]),
            ProgressBar(total=capacity, completed=blocks, width=16, complete_style=ACCENT),
            f"{blocks:,}",
            shown_share(run.report.cached_tokens_by_pod[number] / prompt_tokens),
        )
    return table


def _figures(run: DemoRun) -> Table:
    report = run.report
    p50, p99 = report.decision_quantiles_s((0.5, 0.99))
    events = run.events()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_row("prefix hit rate", Text(shown_share(report.hit_rate), style=f"bold {ACCENT}"))
    table.add_row("prefill tokens saved", shown_count(report.cached_tokens))
    table.add_row("prefill tokens computed", shown_count(report.prefill_tokens))
    table.add_row("events ingested", shown_count(events))
    table.add_row("events per second", shown_count(events / run.elapsed_s))
    table.add_row("time per decision, p50", shown_duration(p50))
    table.add_row("time per decision, p99", shown_duration(p99))
    table.add_row("predicted to the token", shown_share(report.exact_share))
    table.add_row("")
    for name, value in run.atlas.facts():
        table.add_row(name, value)
    return table
