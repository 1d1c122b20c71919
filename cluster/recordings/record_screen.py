"""What `kvatlas record` and `kvatlas replay` show."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.quantities import shown_duration
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.recording.player import PlayStatistics
from kvatlas.ingest.recording.recorder import RecorderStatistics
from kvatlas.ingest.recording.summary import RecordingSummary, SourceSummary

_LIVE_LINE_S = 0.25
_PLAIN_LINE_S = 2.0
_TOPICS_SHOWN = 3


class ProgressLine:
    """One line that is redrawn on a terminal, and printed every two seconds elsewhere; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._every_s = _LIVE_LINE_S if self._live is not None else _PLAIN_LINE_S
        self._shown_s = time.monotonic()

    def __enter__(self) -> ProgressLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, line: Callable[[], str]) -> None:
        """Asks for the line when it is time to show it."""
        now_s = time.monotonic()
        if now_s - self._shown_s < self._every_s:
            return
        self._shown_s = now_s
        if self._live is not None:
            self._live.update(Text(line(), no_wrap=True), refresh=True)
        else:
            self._console.print(line(), highlight=False, soft_wrap=True, markup=False)


def recorded_line(seen: RecorderStatistics, seconds: float) -> str:
    """How a recording is going."""
    said = [
        f"{seen.connections} connected",
        f"{shown_duration(seconds)}",
        f"{seen.recorded_messages:,} messages",
        f"{shown_bytes(seen.frame_bytes)} in {shown_bytes(seen.file_bytes)} of file",
    ]
    if seen.lost_messages:
        said.append(f"{seen.lost_messages:,} lost for want of room")
    asked = {state: count for state, count in seen.replays.items() if count}
    if asked:
        said.append("replays " + ", ".join(f"{count} {state}" for state, count in asked.items()))
    return "   ".join(said)


def played_line(seen: PlayStatistics, seconds: float) -> str:
    """How a replay is going; `seconds`: of the whole recording."""
    said = [f"{seen.reached_s:.1f} of {seconds:.1f} s", f"{seen.played:,} messages"]
    counts = {
        "from replay sockets": seen.answered,
        "known from them": seen.known,
        "refused": seen.refused,
        "malformed": seen.malformed,
        "lost when recording": seen.lost,
        "of unknown sources": seen.unknown_source,
        "blocks damaged": seen.damaged_blocks,
    }
    return "   ".join([*said, *(f"{count:,} {what}" for what, count in counts.items() if count)])


def summary_view(summary: RecordingSummary) -> RenderableType:
    """What is in a recording."""
    began = datetime.fromtimestamp(summary.began_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    sessions = "1 session" if summary.sessions == 1 else f"{summary.sessions} sessions"
    parts: list[RenderableType] = [
        Text(f"began {began}, {summary.seconds:.3f} s in {sessions}, {shown_bytes(summary.file_bytes)}")
    ]
    for what, count in (
        ("not closed: no index", int(not summary.has_index)),
        (f"{summary.torn_bytes:,} bytes at the end are torn", summary.torn_bytes),
        (f"{summary.damaged_bytes:,} bytes between blocks are damaged", summary.damaged_bytes),
        (f"{summary.damaged_blocks:,} blocks are damaged", summary.damaged_blocks),
    ):
        if count:
            parts.append(Text(what, style="yellow"))
    return Group(*parts, *(Text(_source_line(source)) for source in summary.sources))


def _source_line(source: SourceSummary) -> str:
    kind = source.role if source.replay_of is None else f"{source.role} of {source.replay_of}"
    said = [f"{source.number}: {source.endpoint} ({kind})", f"{source.messages:,} messages"]
    if source.first_s is not None and source.last_s is not None:
        said.append(f"{shown_bytes(source.frame_bytes)} from {source.first_s:.3f} to {source.last_s:.3f} s")
    if source.malformed:
        said.append(f"{source.malformed:,} malformed")
    if source.lost:
        said.append(f"{source.lost:,} lost for want of room")
    if source.topics:
        more = len(source.topics) - _TOPICS_SHOWN
        topics = " ".join(source.topics[:_TOPICS_SHOWN])
        said.append(f"{topics} and {more} more topics" if more > 0 else topics)
    return ", ".join(said)


def atlas_view(statistics: AtlasStatistics) -> RenderableType:
    """What an atlas holds, in blocks by worker and tier, and what it did not apply."""
    held = {tier for worker in statistics.workers for tier, count in worker.blocks.items() if count}
    tiers = sorted(held | {"gpu"})
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("pod", "rank", "model"):
        table.add_column(heading)
    for heading in (*tiers, "batches", "gaps", "missed", "restarts"):
        table.add_column(heading, justify="right")
    for worker in statistics.workers:
        counts = (*(worker.blocks.get(tier, 0) for tier in tiers), worker.batches, worker.gaps)
        counts = (*counts, worker.missed_batches, worker.restarts)
        table.add_row(worker.pod, str(worker.rank), worker.model, *(f"{count:,}" for count in counts))
    skips = ", ".join(f"{reason} {count:,}" for reason, count in sorted(statistics.skips.items()) if count)
    return Group(table, "", Text(f"not applied: {skips or 'nothing'}"))


def shown_bytes(count: int) -> str:
    """In the unit that reads best."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
