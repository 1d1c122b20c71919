"""How differences of two contents, and what was found in one, look to a person and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.commands.names import name_cell
from kvatlas.cluster.quantities import shown_count, shown_number_of
from kvatlas.index.dumps.diffing import DiffRow
from kvatlas.index.dumps.owners import LaneOwner
from kvatlas.index.dumps.searching import Found


def diff_view(found: Sequence[DiffRow], names: tuple[str, str], rows_max: int) -> RenderableType:
    """A sentence, and a row for each holder and tier in which they differ, the most different first."""
    differing = [row for row in found if row.only_left or row.only_right]
    both = sum(row.both for row in found)
    if not differing:
        return Text(f"the same: {shown_count(both)} blocks of {_owners(found)}", "green")
    only_left, only_right = (sum(getattr(row, side) for row in found) for side in ("only_left", "only_right"))
    heading = (
        f"{shown_count(only_left)} blocks only in {names[0]}, {shown_count(only_right)} only in {names[1]}, "
        f"{shown_count(both)} in both; {_owners(differing)} of {len({row.owner for row in found})} differ"
    )
    table = _table(differing, ("tier", ">only left", ">only right", ">in both"))
    for row in differing[:rows_max]:
        counts = map(shown_count, (row.only_left, row.only_right, row.both))
        table.add_row(*_owner_cells(row.owner, differing), row.tier, *counts)
    _note_rest(table, len(differing), rows_max)
    return Group(Text(heading), table)


def plain_diff(found: Sequence[DiffRow], rows_max: int) -> dict[str, Any]:
    """For JSON: totals of all, and the rows in which they differ."""
    differing = [row for row in found if row.only_left or row.only_right]
    return {
        "same": not differing,
        "only_left": sum(row.only_left for row in found),
        "only_right": sum(row.only_right for row in found),
        "both": sum(row.both for row in found),
        "rows_total": len(differing),
        "rows": [
            {**_plain_owner(row.owner), **{name: getattr(row, name) for name in row._fields[1:]}}
            for row in differing[:rows_max]
        ],
    }


def found_view(found: Found) -> RenderableType:
    """A sentence, and a row for each block and who holds it."""
    if not found.total:
        return Text("nothing found")
    table = _table(found.rows, ("tiers", "block key", "segment"))
    for row in found.rows:
        tiers = ", ".join(row.tiers)
        table.add_row(*_owner_cells(row.owner, found.rows), tiers, f"{row.key:#018x}", f"{row.tag:#010x}")
    _note_rest(table, found.total, len(found.rows))
    return Group(Text(f"{shown_number_of(found.total, 'block')} held, each by each holder"), table)


def plain_found(found: Found) -> dict[str, Any]:
    """For JSON. Keys are texts: they have more digits than many readers of JSON keep."""
    return {
        "total": found.total,
        "rows": [
            {
                **_plain_owner(row.owner),
                "tiers": row.tiers,
                "key": f"{row.key:#018x}",
                "tag": f"{row.tag:#010x}",
            }
            for row in found.rows
        ],
    }


def _owners(rows: Sequence[DiffRow]) -> str:
    owners = {row.owner for row in rows}
    stores = sum(bool(owner.store) for owner in owners)
    workers = len({owner[:3] for owner in owners if not owner.store})
    told = [shown_number_of(workers, "worker")] if workers or not stores else []
    return " and ".join([*told, *([shown_number_of(stores, "store")] if stores else [])])


def _table(rows: Sequence[Any], columns: tuple[str, ...]) -> Table:
    """Columns that begin with `>` are numbers. Ranks and groups only where there are several."""
    table = Table("held by", "model", box=None, pad_edge=False)
    for name, has in (("rank", _has(rows, "rank")), ("group", _has(rows, "group"))):
        if has:
            table.add_column(name, justify="right")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def _has(rows: Sequence[Any], name: str) -> bool:
    return any(getattr(row.owner, name) for row in rows)


def _owner_cells(owner: LaneOwner, rows: Sequence[Any]) -> list[Text]:
    numbers = [str(getattr(owner, name)) for name in ("rank", "group") if _has(rows, name)]
    if owner.store:
        numbers = [""] * len(numbers)
    return [
        name_cell(f"store {owner.store}" if owner.store else owner.pod),
        name_cell(owner.model),
        *map(Text, numbers),
    ]


def _plain_owner(owner: LaneOwner) -> dict[str, Any]:
    return (
        {"store": owner.store} if owner.store else {name: getattr(owner, name) for name in owner._fields[:4]}
    )


def _note_rest(table: Table, count: int, shown: int) -> None:
    if count > shown:
        table.caption = f"and {shown_count(count - shown)} more: --rows shows more"
