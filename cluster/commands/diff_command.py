"""The commands `kvatlas diff` and `kvatlas grep`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvatlas.cluster.commands.content_screen import diff_view, found_view, plain_diff, plain_found
from kvatlas.cluster.commands.options import (
    DEFAULT_ADDRESS,
    DEFAULT_CLUSTER,
    Address,
    AsJson,
    Cluster,
    connect_to,
)
from kvatlas.cluster.moving.contents import block_keys, check_comparable, dumped_content
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.dumps.diffing import Dumped
from kvatlas.index.dumps.diffing import diff as differences
from kvatlas.index.dumps.meta import DumpMeta
from kvatlas.index.dumps.searching import search
from kvatlas.index.errors import ConfigError

_OTHER = 1
"""Exit code: they differ; nothing was found."""

Rows = Annotated[int, typer.Option(min=1, max=100_000, help="Rows to show at most.")]
Live = Annotated[bool, typer.Option("--live", help="A running cluster as it is now, in a dump's place.")]


def diff(
    left: Annotated[Path, typer.Argument(help="A dump.")],
    right: Annotated[Path | None, typer.Argument(help="Another one; or --live.")] = None,
    live: Live = False,
    rows: Rows = 40,
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Compare two dumps, or a dump with a running cluster: blocks by worker, store and tier.

    Ends with 0 where both hold the same, with 1 where they differ.
    """
    console = Console(stderr=True)
    with clear_errors(), contextlib.ExitStack() as opened:
        if (right is None) is not live:
            raise ConfigError("diff: expected two dumps, or a dump and --live")
        shown = opened.enter_context(console.status("reading"))
        first_meta, first = opened.enter_context(dumped_content(left))
        second_meta, second = opened.enter_context(
            _cluster_content(name, address, shown.update) if right is None else dumped_content(right)
        )
        check_comparable(first_meta, second_meta, str(left))
        found = differences(first, second)
    if as_json:
        typer.echo(json.dumps(plain_diff(found, rows)))
    else:
        names = str(left), f"cluster {name}" if right is None else str(right)
        Console().print(diff_view(found, names, rows), highlight=False)
    if any(row.only_left or row.only_right for row in found):
        raise typer.Exit(_OTHER)


def grep(
    file: Annotated[Path | None, typer.Argument(help="A dump; or --live.")] = None,
    live: Live = False,
    pod: Annotated[str | None, typer.Option(help="Held by this one.")] = None,
    model: Annotated[str | None, typer.Option(help="Held by workers of this one.")] = None,
    store: Annotated[str | None, typer.Option(help="Held by this store.")] = None,
    tier: Annotated[
        str | None, typer.Option(help="Held in this one: gpu, cpu, disk, storage, unknown.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="A block key, 0x... or decimal. Repeatable.")] = None,
    rows: Rows = 40,
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show who holds which blocks, in a dump or a running cluster.

    Ends with 0 where something was found, with 1 where nothing was.
    """
    console = Console(stderr=True)
    with clear_errors(), contextlib.ExitStack() as opened:
        if (file is None) is not live:
            raise ConfigError("grep: expected a dump or --live, one of the two")
        if "" in (pod, model, store):  # as of a variable that is not set
            raise ConfigError("grep: expected a name, got an empty one")
        keys = block_keys(key or ())
        shown = opened.enter_context(console.status("reading"))
        _, content = opened.enter_context(
            _cluster_content(name, address, shown.update) if file is None else dumped_content(file)
        )
        found = search(content, pod=pod, model=model, store=store, tier=tier, keys=keys, rows_max=rows)
    if as_json:
        typer.echo(json.dumps(plain_found(found)))
    else:
        Console().print(found_view(found), highlight=False)
    if not found.total:
        raise typer.Exit(_OTHER)


@contextlib.contextmanager
def _cluster_content(
    name: str, address: str, said: Callable[[str], object]
) -> Iterator[tuple[DumpMeta, Dumped]]:
    with connect_to(name, address) as client:
        from kvatlas.cluster.moving.dumping import live_content  # with Ray, which takes a second to import

        with live_content(client.directory(), said=said) as live:
            yield live.meta, Dumped(live.parts, live.sections())
