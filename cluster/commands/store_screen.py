"""How a store looks to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.quantities import shown_bytes, shown_count, shown_duration, shown_number_of
from kvatlas.index.errors import quoted

if TYPE_CHECKING:
    from kvatlas.offload.inspecting.survey import StoreSurvey

_ROWS_MAX = 40
_AGES = ("< 1 min", "< 1 h", "< 1 day", "< 1 week", "older")


def survey_view(found: StoreSurvey) -> RenderableType:
    """A heading, and a row for each part of each space."""
    parts: list[RenderableType] = [_heading(found)]
    if found.parts:
        parts += [_parts(found), _ages(found)]
    parts.extend(Text(f"fault: {fault}", "red") for fault in found.faults)
    return Group(*parts)


def _heading(found: StoreSurvey) -> Panel:
    lines = [
        f"{shown_count(found.files)} files, {shown_bytes(found.bytes)}; the file system has "
        f"{shown_bytes(found.free_bytes)} of {shown_bytes(found.disk_bytes)} left",
        _ledger(found),
        _evictor(found),
    ]
    if found.pinned_keys or found.pinned_spaces:
        spaces = f"; whole: {', '.join(found.pinned_spaces)}" if found.pinned_spaces else ""
        lines.append(f"pinned: {shown_number_of(found.pinned_keys, 'key')}{spaces}")
    if found.trash_files:
        lines.append(f"{shown_number_of(found.trash_files, 'file')} in the trash")
    if found.is_by_host_clock:
        lines.append("ages are by this host's clock: the store cannot be written")
    title = f"{found.store or 'a store without a name'}: {found.root}"
    return Panel(Text("\n".join(lines)), title=Text(title), title_align="left", border_style="cyan")


def _ledger(found: StoreSurvey) -> str:
    writers = shown_number_of(len(found.writers), "writer")
    if found.used_bytes_by_ledger is None or found.crawled is None:
        return f"ledger: {writers}, no crawl yet"
    return (
        f"ledger: {shown_bytes(found.used_bytes_by_ledger)} used, {shown_bytes(found.claimed_bytes)} "
        f"claimed ahead by {writers}; its last crawl took {shown_duration(found.crawled.crawl_s)}"
    )


def _evictor(found: StoreSurvey) -> str:
    if found.evictor is None:
        return "nobody evicts"
    return (
        f"evictor: process {found.evictor.process} on {found.evictor.host}, "
        f"heard of {shown_duration(found.evictor_silent_s)} ago"
    )


def _parts(found: StoreSurvey) -> Table:
    table = _table("spaces", ("space", "part"), ("files", "bytes", "temporary", "bad", "foreign"))
    for one in found.parts[:_ROWS_MAX]:
        rare = [str(count) if count else "" for count in (one.temporary_files, one.bad_files, one.foreign)]
        _add(table, one.space, one.part, shown_count(one.files), shown_bytes(one.bytes), *rare)
    if len(found.parts) > _ROWS_MAX:
        table.caption = f"and {len(found.parts) - _ROWS_MAX} more: --json shows all"
    return table


def _ages(found: StoreSurvey) -> Table:
    """By models: a space's name is long, and ends in a number that tells people nothing."""
    by_model: dict[str, list[int]] = {}
    for one in found.parts:
        counts = by_model.setdefault(one.model or one.space, [0] * len(_AGES))
        by_model[one.model or one.space] = [*map(sum, zip(counts, one.bytes_by_age, strict=True))]
    table = _table("last used", ("model",), _AGES)
    for model, counts in list(by_model.items())[:_ROWS_MAX]:
        _add(table, model, *(shown_bytes(count) if count else "" for count in counts))
    return table


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold cyan", box=None, pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(quoted(cell)) for cell in cells))  # names are no markup, and steer no terminal
