"""The command `kvatlas status`."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from kvatlas.cluster.commands.options import (
    DEFAULT_ADDRESS,
    DEFAULT_CLUSTER,
    Address,
    AsJson,
    Cluster,
    connect_to,
)
from kvatlas.cluster.commands.status_screen import status_view
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import KvatlasError

if TYPE_CHECKING:
    from kvatlas.cluster.client import Client

_REDRAW_S = 1.0


def status(
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again each second, until Ctrl-C.")] = False,
) -> None:
    """Show a cluster: its nodes, shards, subscribers and workers, and what can be claimed of each."""
    with clear_errors(), connect_to(name, address) as client:
        if as_json:
            typer.echo(json.dumps(_plain(client)))
        elif watch:
            _watch(client, Console())
        else:
            Console().print(_view(client))


def _plain(client: Client) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(client.status())
    plain["workers"] = msgspec.to_builtins(client.pods())
    return plain


def _view(client: Client) -> RenderableType:
    return status_view(client.status(), client.pods())


def _watch(client: Client, console: Console) -> None:
    never = threading.Event()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        try:
            while True:
                try:
                    shown = _view(client)
                except KvatlasError as error:  # the directory may be on its way back
                    shown = Text(str(error))
                live.update(shown, refresh=True)
                never.wait(_REDRAW_S)
        except KeyboardInterrupt:
            return
