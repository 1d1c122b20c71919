"""The commands `kvatlas dump` and `kvatlas load`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer
from rich.console import Console

from kvatlas.cluster.commands.options import (
    DEFAULT_ADDRESS,
    DEFAULT_CLUSTER,
    Address,
    AsJson,
    Cluster,
    connect_to,
)
from kvatlas.cluster.quantities import shown_bytes, shown_count, shown_duration, shown_number_of
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import ConfigError

_STREAM = "-"


def dump(
    file: Annotated[str, typer.Argument(help="Where to; - is the standard output.")],
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Write the whole index of a cluster to a file, as it is at one moment, while it serves."""
    console = Console(stderr=True)
    with clear_errors(), connect_to(name, address) as client, _out(file, as_json) as to:
        from kvatlas.cluster.moving.dumping import dump_cluster

        with console.status("asking the cluster") as shown:
            report = dump_cluster(client.directory(), to, said=shown.update)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(report)))
        return
    blocks, pairs = shown_count(report.entries), shown_count(report.pairs)
    console.print(
        f"{name}: {blocks} blocks, {pairs} pairs of {shown_number_of(report.workers, 'worker')}, "
        f"{shown_bytes(report.bytes)} in {shown_duration(report.seconds)}; "
        f"changes waited {shown_duration(report.held_s)}",
        highlight=False,
        soft_wrap=True,
    )


def load(
    file: Annotated[str | None, typer.Argument(help="A dump; - is the standard input.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Give up what was loaded before.")] = False,
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show a dump in a running cluster, until its own subscribers have heard the workers.

    What it says is DEGRADED, "from a dump of ...": nobody vouches for it.
    """
    console = Console(stderr=True)
    with clear_errors():
        if (file is None) is not drop:
            raise ConfigError("load: expected a dump or --drop, one of the two")
        with connect_to(name, address) as client:
            from kvatlas.cluster.moving.loading import drop_loaded, load_into
            from kvatlas.index.dumps.dump_file import DumpReader

            if file is None:
                drop_loaded(client.directory())
                console.print(f"{name}: what was loaded is given up", highlight=False)
                return
            with _in(file) as source, DumpReader(source) as reader, console.status("reading") as shown:
                report = load_into(client.directory(), reader, said=shown.update)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(report)))
        return
    console.print(
        f"{name}: {shown_number_of(report.shown.workers, 'worker')} from the dump, {report.shown.heard} "
        f"that the cluster hears itself; {shown_bytes(report.bytes)} in {shown_duration(report.seconds)}",
        highlight=False,
        soft_wrap=True,
    )


@contextlib.contextmanager
def _out(file: str, as_json: bool) -> Iterator[Path | BinaryIO]:
    """Raises ConfigError where two things would go to the standard output, or it is a terminal."""
    if file != _STREAM:
        yield Path(file)
        return
    if as_json or os.isatty(sys.stdout.fileno()):
        raise ConfigError("dump -: expected a pipe or a file as standard output, without --json")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def _in(file: str) -> Iterator[Path | BinaryIO]:
    yield sys.stdin.buffer if file == _STREAM else Path(file)
