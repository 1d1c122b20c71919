"""What `kvatlas demo --pod` shows of real model servers."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.demo.demo_screen import ACCENT
from kvatlas.cluster.following.arrivals import Arrival
from kvatlas.cluster.following.watch import Watch, WatchSummary
from kvatlas.index.errors import DecodeError
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockStored, EventBatch

_TIERS = ("gpu", "cpu", "disk", "storage", "unknown")
_PLAIN_LINE_S = 2.0


class WatchScreen:
    """A live view on a terminal, a line every two seconds elsewhere; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown_s = 0.0

    def __enter__(self) -> WatchScreen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, watch: Watch) -> None:
        if self._live is not None:
            self._live.update(watch_view(watch), refresh=True)
        elif time.monotonic() - self._shown_s >= _PLAIN_LINE_S:
            self._shown_s = time.monotonic()
            self._console.print(_plain_line(watch.summary()), highlight=False, soft_wrap=True)


def watch_view(watch: Watch) -> RenderableType:
    """Who announced what so far."""
    summary = watch.summary()
    seconds = max(time.monotonic() - watch.started_s, 1e-9)
    head = Text.assemble(
        (f"{summary.connections} connected", f"bold {ACCENT}"),
        f"   {summary.batches:,} batches   {summary.events:,} events",
        f"   {summary.events / seconds:.1f} events/s",
    )
    parts: list[RenderableType] = [head, "", _pods_table(watch, summary)]
    skips = ", ".join(f"{reason} {count:,}" for reason, count in sorted(summary.skips.items()) if count)
    if skips:
        parts += ["", Text(f"not applied: {skips}", style="yellow")]
    if summary.orphans:
        parts += ["", Text(_waiting(summary), style="yellow")]
    parts += ["", Text("last batches", style="dim")]
    parts += [Text(described(arrival), no_wrap=True) for arrival in list(watch.arrivals.last)]
    return Panel(Group(*parts), title="what the model servers announce", border_style="dim", padding=(1, 2))


def described(arrival: Arrival) -> str:
    """A batch in one line: who, which number, and what happened."""
    who = arrival.topic.decode("utf-8", "replace").split("@")[1:2]
    try:
        batch = decode_batch(arrival.payload)
    except DecodeError as error:
        return f"{''.join(who)} #{arrival.seq}: not a batch ({error})"
    said = ", ".join(_described_events(batch)) or "no events"
    return f"{''.join(who)} #{arrival.seq}: {said}"


def _described_events(batch: EventBatch) -> list[str]:
    counts: dict[str, int] = {}
    for event in batch.events:
        if isinstance(event, AllBlocksCleared):
            counts["cleared"] = counts.get("cleared", 0) + 1
            continue
        verb = "stored" if isinstance(event, BlockStored) else "removed"
        what = f"{verb} on {event.medium or 'GPU'}"
        counts[what] = counts.get(what, 0) + len(event.block_hashes)
    if batch.errors:
        counts["bad events"] = len(batch.errors)
    if batch.unknown_events:
        counts["unknown events"] = batch.unknown_events
    return [what if what == "cleared" else f"{count} {what}" for what, count in counts.items()]


def _pods_table(watch: Watch, summary: WatchSummary) -> Table:
    tiers = [tier for tier in _TIERS if any(tier in pod.blocks for pod in summary.pods.values())]
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("pod")
    for tier in tiers or ["gpu"]:
        table.add_column(f"{tier} blocks", justify="right")
    if watch.config.prompt:
        table.add_column(f"score of the prompt ({len(watch.config.prompt)} tokens)", justify="right")
    for pod, held in summary.pods.items():
        cells = [f"{held.blocks.get(tier, 0):,}" for tier in tiers or ["gpu"]]
        if watch.config.prompt:
            cells.append(f"{summary.scores.get(pod, 0.0):g}")
        table.add_row(pod, *cells)
    return table


def _plain_line(summary: WatchSummary) -> str:
    said = [f"{summary.connections} connected, {summary.events} events"]
    for pod, held in summary.pods.items():
        said.append(f"{pod}: " + ", ".join(f"{tier} {blocks}" for tier, blocks in held.blocks.items()))
    if not summary.pods:
        said.append("nothing announced")
    if summary.scores:
        said.append("scores " + ", ".join(f"{pod} {score:g}" for pod, score in summary.scores.items()))
    if summary.orphans:
        said.append(_waiting(summary))
    return "; ".join(said)


def _waiting(summary: WatchSummary) -> str:
    stores = "1 store waits" if summary.orphans == 1 else f"{summary.orphans:,} stores wait"
    return f"{stores} for a parent block, announced before this began"
