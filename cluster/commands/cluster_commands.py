"""The commands `kvatlas up`, `scale` and `down`."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kvatlas.cluster.commands.options import (
    DEFAULT_ADDRESS,
    DEFAULT_CLUSTER,
    Address,
    Cluster,
    connect_to,
    reach,
)
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.loading import load_config
from kvatlas.cluster.config.writing import to_yaml
from kvatlas.cluster.quantities import shown_number_of
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import ClusterError, ConfigError

if TYPE_CHECKING:  # Ray takes a second to import: only where it is used
    from kvatlas.actors.directory.status import ClusterStatus
    from kvatlas.cluster.client import Client

_LOOK_S = 0.25


def up(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file, see docs/configuration.md.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Instead of the file's name.")] = None,
    address: Address = DEFAULT_ADDRESS,
    shards: Annotated[int | None, typer.Option(min=1, help="Instead of the file's shards.count.")] = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="With the gateway on Ray Serve, see docs/gateway.md.")
    ] = False,
    follow_dumps: Annotated[
        Path | None,
        typer.Option("--follow-dumps", help="Show the newest dump of this folder until servers are heard."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the configuration, and print what is no default.")
    ] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", min=1, help="Seconds until all shards must be up.")
    ] = 120,
) -> None:
    """Start a cluster on Ray, or connect to it where it runs already.

    A detached cluster goes on by itself; with `lifetime: owned` this command stays, and ends it by Ctrl-C.
    """
    console = Console(stderr=True)
    with clear_errors():
        given: dict[str, object] = {"name": name, "shards__count": shards}
        changes = {key: value for key, value in given.items() if value is not None}
        read = load_config(config, **changes)
        if gateway and not read.gateway.replicas:
            read = load_config(config, **changes, gateway__replicas=1)
        if check:
            typer.echo(to_yaml(read), nl=False)
            return
        _start(read, address, wait_s, console, follow_dumps)


def scale(
    shards: Annotated[int | None, typer.Option(min=1, max=1024, help="Shards from now on.")] = None,
    replicas_per_node: Annotated[
        int | None, typer.Option(min=0, max=8, help="Replicas of every shard on each node; 0: one in all.")
    ] = None,
    off_node: Annotated[
        list[str] | None,
        typer.Option(
            help="Ray id of a node that shards should leave; the only ones from now on. Repeatable."
        ),
    ] = None,
    all_nodes: Annotated[
        bool, typer.Option("--all-nodes", help="Shards may be on every node again.")
    ] = False,
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for the switch; 0: none.")
    ] = 60,
) -> None:
    """Change the number of shards, their replicas, or their nodes, while everything goes on."""
    console = Console(stderr=True)
    with clear_errors():
        off_nodes = [] if all_nodes else off_node or None
        if shards is None and replicas_per_node is None and off_nodes is None:
            raise ConfigError("scale: expected --shards, --replicas-per-node, --off-node or --all-nodes")
        if all_nodes and off_node:
            raise ConfigError("scale: expected --off-node or --all-nodes, got both")
        with connect_to(name, address) as client:
            from kvatlas.cluster import launch

            launch.scale(name, shards=shards, replicas_per_node=replicas_per_node, off_nodes=off_nodes)
            if wait_s > 0:
                _wait_settled(client, wait_s, console)
            _say(console, client.status())


def down(name: Cluster = DEFAULT_CLUSTER, address: Address = DEFAULT_ADDRESS) -> None:
    """End a cluster: its actors, its tables in shared memory, and what it kept in Ray."""
    with clear_errors():
        reach(address)
        from kvatlas.cluster import launch

        launch.down(name, address=address)
        typer.echo(f"{name}: down")


def _start(config: ClusterConfig, address: str, wait_s: float, console: Console, dumps: Path | None) -> None:
    reach(address)
    from kvatlas.cluster import launch

    with console.status(f"starting {config.name}"):
        client = launch.start(config, address=address, ready_s_max=wait_s)
    with client:
        if dumps is not None:
            from kvatlas.cluster.standby.following import follow_dumps

            follow_dumps(config.name, dumps)
        _say(console, client.status())
        if config.gateway.replicas:
            path = config.gateway.route_prefix.rstrip("/")
            where = f"http://{config.gateway.host}:{config.gateway.port}{path}"
            console.print(f"gateway: {where} (a Serve that ran already keeps its own port)", highlight=False)
        if config.lifetime == "owned":
            console.print("it ends with this command: Ctrl-C", highlight=False)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    if config.lifetime == "owned":
        launch.down(config.name)


def is_settled(status: ClusterStatus) -> bool:
    """Whether nothing is being built: what was wanted serves."""
    return not status.building_waits_for and all(layout.state != "building" for layout in status.layouts)


def _wait_settled(client: Client, wait_s: float, console: Console) -> None:
    until_s, never = time.monotonic() + wait_s, threading.Event()
    with console.status("waiting for the new layout") as shown:
        while not is_settled(status := client.status()):
            if time.monotonic() >= until_s:
                raise ClusterError(
                    f"{status.cluster}: expected a new layout within {wait_s:g} s; {told(status)}"
                )
            shown.update(f"waiting for the new layout: {told(status)}")
            never.wait(_LOOK_S)


def told(status: ClusterStatus) -> str:
    """A cluster in a line."""
    layouts = ", ".join(
        f"layout {layout.number} {layout.state}: {layout.n_up} of {layout.n_slots} processes up, "
        f"{layout.n_whole} whole"
        for layout in status.layouts
    )
    waits = f"; waits for {status.building_waits_for}" if status.building_waits_for else ""
    return f"{layouts or 'no layout yet'}{waits}"


def _say(console: Console, status: ClusterStatus) -> None:
    pods = shown_number_of(len(status.pods), "pod")
    console.print(f"{status.cluster}: {told(status)}; {pods}", highlight=False, soft_wrap=True)
