"""The commands `kvatlas pods add`, `remove` and `list`."""

from __future__ import annotations

import json
from typing import Annotated, cast, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from kvatlas.cluster.commands.names import name_cell
from kvatlas.cluster.commands.options import (
    DEFAULT_ADDRESS,
    DEFAULT_CLUSTER,
    Address,
    AsJson,
    Cluster,
    connect_to,
)
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.choosing.serving import Role, Serving
from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.entries import PodEntry

pods = typer.Typer(
    help="Add, remove and list the model servers that a cluster follows.", no_args_is_help=True
)


@pods.command()
def add(
    pod: Annotated[str, typer.Argument(help="Its id.")],
    endpoint: Annotated[str | None, typer.Option(help="tcp://HOST:PORT of its KV events, of rank 0.")] = None,
    replay_endpoint: Annotated[str | None, typer.Option(help="Of its replay socket, of rank 0.")] = None,
    url: Annotated[
        str | None, typer.Option(help="http://HOST:PORT of a server that tells its endpoints itself.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its model, where its topic does not say.")] = None,
    ranks: Annotated[int, typer.Option(min=1, max=256, help="Data-parallel ranks.")] = 1,
    node: Annotated[str | None, typer.Option(help="Where it runs: IP address or Ray node id.")] = None,
    serving_url: Annotated[
        str | None,
        typer.Option(
            help="http://HOST:PORT of its OpenAI API, where it is not `--url`. Enough with a model."
        ),
    ] = None,
    role: Annotated[
        str, typer.Option(help="What it does where prefill and decode are split: both, prefill or decode.")
    ] = "both",
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE that filters look at; may be repeated.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="A LoRA adapter that it serves; may be repeated. None: any.")
    ] = None,
    requests_max: Annotated[
        int | None, typer.Option(min=1, help="Requests that one worker of it works on at a time.")
    ] = None,
    draining: Annotated[bool, typer.Option("--draining", help="It gets no new requests.")] = False,
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Follow a model server, and send requests to it, until it is removed."""
    with clear_errors():
        entry = PodEntry(
            pod=pod,
            endpoint=endpoint,
            replay_endpoint=replay_endpoint,
            url=url,
            model=model,
            ranks=ranks,
            node=node,
            labels=_labels(label or []),
            serving=Serving(
                url=serving_url,
                role=_role(role),
                adapters=None if adapter is None else tuple(adapter),
                requests_max=requests_max,
                is_draining=draining,
            ),
        )
        with connect_to(name, address) as client:
            client.add_pod(entry.discovered("command line"))
        typer.echo(f"{pod}: added to {name}")


@pods.command()
def remove(
    pod: Annotated[str, typer.Argument(help="Its id.")],
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Follow a pod no more that was added by hand, and forget its blocks."""
    with clear_errors():
        with connect_to(name, address) as client:
            was_there = client.remove_pod(pod)
        if not was_there:
            raise InputError(
                f"{pod}: expected a pod that was added by hand, got none; `kvatlas pods list` shows them"
            )
        typer.echo(f"{pod}: removed from {name}")


@pods.command("list")
def list_pods(
    name: Cluster = DEFAULT_CLUSTER, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """Show the pods that discovery knows, who follows them, and why one is not followed."""
    with clear_errors(), connect_to(name, address) as client:
        known = client.status().pods
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(known)))
        return
    table = Table(
        "pod", "model", "state", "why", "found by", "subscriber", "serves", box=None, pad_edge=False
    )
    for pod in known:
        cells = (pod.pod, pod.model or "", pod.state, pod.why, pod.found_by, pod.subscriber, pod.serves)
        table.add_row(*map(name_cell, cells))
    Console().print(table if known else f"{name}: no pods", highlight=False)


def _role(text: str) -> Role:
    if text not in get_args(Role):
        raise InputError(f"--role: expected one of {', '.join(get_args(Role))}, got {text!r}")
    return cast(Role, text)


def _labels(texts: list[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise InputError(f"--label: expected NAME=VALUE, got {text!r}")
        labels[name] = value
    return labels
