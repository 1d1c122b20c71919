"""How a cluster looks to a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import starmap
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.commands.names import name_cell
from kvatlas.cluster.quantities import shown_bytes, shown_count, shown_duration, shown_number_of
from kvatlas.index.view import WorkerView

if TYPE_CHECKING:
    from kvatlas.actors.directory.status import ClusterStatus, LayoutStatus, ShardStatus

_ROWS_MAX = 40
STATE_STYLES = {"EXACT": "green", "PARTIAL": "yellow", "DEGRADED": "red", "BLIND": "red"}
_NODE_LETTERS = 8
_SILENT_S = 3.0
"""Longer silence is shown in red."""


def status_view(status: ClusterStatus, workers: Sequence[WorkerView]) -> RenderableType:
    """Everything of a cluster that fits a screen: a heading and six tables."""
    parts: list[RenderableType] = [_shards(status), _subscribers(status)]
    if status.tokenizers:
        parts.append(_tokenizers(status))
    if status.routers:
        parts.append(_routers(status))
    if workers:
        parts.append(_workers(workers))
    waiting = [pod for pod in status.pods if pod.state != "following"]
    if waiting:
        parts.append(_waiting(status))
    return Group(_heading(status, workers), *(Padding(part, (1, 0, 0, 0)) for part in parts))


def _heading(status: ClusterStatus, workers: Sequence[WorkerView]) -> Panel:
    truths = Counter(worker.state for worker in workers)
    told = ", ".join(f"{count} {state}" for state, count in sorted(truths.items())) or "none yet"
    there = (
        (len(status.nodes), "node"),
        (len(status.subscribers), "subscriber"),
        (len(status.scorers), "scorer"),
        (len(status.tokenizers), "tokenizer"),
        (len(status.routers), "router"),
        (len(status.pods), "pod"),
    )
    lines = [
        *(f"layout {layout.number}, {_layout(layout)}" for layout in status.layouts),
        f"{', '.join(starmap(shown_number_of, there))}; workers: {told}",
        f"view {status.view_version}, directory up for {shown_duration(status.directory_age_s)}, "
        f"{shown_count(status.lanes_free)} lanes free",
    ]
    if status.building_waits_for:
        lines.insert(0, f"the next layout waits for {status.building_waits_for}")
    if status.off_nodes:
        lines.append(f"shards leave {', '.join(_node(status, node) for node in status.off_nodes)}")
    counted = ", ".join(f"{name} {count}" for name, count in sorted(status.counts.items()) if count)
    if counted:
        lines.append(f"counted: {counted}")
    return Panel(
        Text("\n".join(lines)), title=f"kvatlas {status.cluster}", title_align="left", border_style="cyan"
    )


def _layout(layout: LayoutStatus) -> str:
    whole = f"{layout.n_whole} whole" if layout.n_whole < layout.n_slots else "all whole"
    return (
        f"{layout.state} for {shown_duration(layout.age_s)}: {layout.n_shards} shards, "
        f"{layout.n_up} of {layout.n_slots} processes up, {whole}"
    )


def _shards(status: ClusterStatus) -> Table:
    table = _table("shards", "shard", "layout", "node", "state", ">entries", ">memory", ">silent")
    for shard in status.shards[:_ROWS_MAX]:
        table.add_row(
            f"{shard.shard}" if shard.replica == 0 else f"{shard.shard}, replica {shard.replica}",
            str(shard.layout),
            _node(status, shard.node_id),
            _shard_state(shard),
            shown_count(shard.entries),
            shown_bytes(shard.bytes),
            _silence(shard.silent_s),
        )
    _note_rest(table, len(status.shards))
    return table


def _shard_state(shard: ShardStatus) -> Text:
    if not shard.is_up:
        return Text("not up", "red")
    return Text("whole", "green") if shard.whole else Text("loading", "yellow")


def _subscribers(status: ClusterStatus) -> Table:
    table = _table(
        "subscribers", "name", "node", "state", ">pods", ">workers", ">lanes", ">memory", ">silent"
    )
    for one in status.subscribers[:_ROWS_MAX]:
        state = Text("lost", "red") if one.lost else Text("feeding", "green")
        if not one.is_used:
            state = Text("taking over" if one.settled else "settling", "yellow")
        table.add_row(
            one.name,
            _node(status, one.node_id),
            state,
            str(one.n_pods),
            str(one.n_workers),
            shown_count(one.n_lanes),
            shown_bytes(one.bytes),
            _silence(one.silent_s),
        )
    _note_rest(table, len(status.subscribers))
    return table


def _tokenizers(status: ClusterStatus) -> Table:
    table = _table(
        "tokenizers", ">number", "node", "state", ">busy", ">waiting", ">models", ">refused", ">silent"
    )
    for one in status.tokenizers[:_ROWS_MAX]:
        table.add_row(
            str(one.number),
            _node(status, one.node_id),
            Text("up", "green") if one.is_up else Text("not up", "red"),
            f"{one.busy_share:.0%}",
            shown_count(one.waiting),
            str(one.models),
            shown_count(one.counts.get("refused", 0)),
            _silence(one.silent_s),
        )
    _note_rest(table, len(status.tokenizers))
    return table


def _routers(status: ClusterStatus) -> Table:
    table = _table("routers", "node", ">process", ">requests", ">hears", ">silent")
    for one in status.routers[:_ROWS_MAX]:
        shares = str(one.peers) if one.endpoint else Text("shares no loads", "yellow")
        table.add_row(
            _node(status, one.node_id),
            str(one.process),
            shown_count(one.requests),
            shares,
            _silence(one.silent_s),
        )
    _note_rest(table, len(status.routers))
    return table


def _workers(workers: Sequence[WorkerView]) -> Table:
    table = _table("workers", "pod", ">rank", "model", "truth", "doubts")
    worst_first = sorted(workers, key=lambda worker: (-_RANKS.get(worker.state, 9), worker.pod, worker.rank))
    for worker in worst_first[:_ROWS_MAX]:
        table.add_row(
            name_cell(worker.pod),
            str(worker.rank),
            name_cell(worker.model),
            Text(worker.state, STATE_STYLES.get(worker.state, "")),
            name_cell("; ".join(worker.doubts[:2])),
        )
    _note_rest(table, len(workers))
    return table


_RANKS = {state: rank for rank, state in enumerate(STATE_STYLES)}


def _waiting(status: ClusterStatus) -> Table:
    table = _table("pods that are not followed", "pod", "state", "why", "found by")
    waiting = [pod for pod in status.pods if pod.state != "following"]
    for pod in waiting[:_ROWS_MAX]:
        table.add_row(name_cell(pod.pod), pod.state, name_cell(pod.why), name_cell(pod.found_by))
    _note_rest(table, len(waiting))
    return table


def _table(title: str, *columns: str) -> Table:
    """Columns that begin with `>` are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold cyan", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def _note_rest(table: Table, count: int) -> None:
    if count > _ROWS_MAX:
        table.caption = f"and {count - _ROWS_MAX} more: --json shows all"


def _node(status: ClusterStatus, node_id: str) -> str:
    """Its address, which people know, or the beginning of its id."""
    for node in status.nodes:
        if node.node_id == node_id:
            return f"{node.address} ({node_id[:_NODE_LETTERS]})" if len(status.nodes) > 1 else node.address
    return node_id[:_NODE_LETTERS] or "no node"


def _silence(silent_s: float) -> Text:
    return Text(shown_duration(silent_s), "red" if silent_s > _SILENT_S else "")
