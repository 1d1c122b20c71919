"""Options that several commands have, and the way from them to a cluster."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvatlas.index.errors import ClusterError

if TYPE_CHECKING:
    from kvatlas.cluster.client import Client

Cluster = Annotated[
    str, typer.Option("--name", "-n", envvar="KVATLAS__NAME", help="Which cluster, of several on one Ray.")
]
Address = Annotated[
    str,
    typer.Option(
        help="Of the Ray cluster: auto (RAY_ADDRESS, or the one on this machine), HOST:PORT, ray://..."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON; the rest goes to stderr.")]

DEFAULT_CLUSTER = "default"
DEFAULT_ADDRESS = "auto"

_REACH_S_MAX = 5.0


def reach(address: str) -> None:
    """Looks whether somebody listens there, and has Ray's token go along as it does for `auto`.

    To be called before Ray is imported, which reads the environment then. Raises ClusterError where
    nobody listens: Ray itself would try for minutes.
    """
    if address == DEFAULT_ADDRESS:
        address = os.environ.get("RAY_ADDRESS", address)
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        return  # auto, local: nothing to reach
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S_MAX).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"Ray: expected it at {address}, got {error}") from error
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _has_token() -> bool:
    place = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    return "RAY_AUTH_TOKEN" in os.environ or Path(place).expanduser().is_file()


def connect_to(name: str, address: str) -> Client:
    """A client, to be used as a context manager. Raises ClusterError where there is no such cluster."""
    reach(address)
    from kvatlas.cluster.launch import connect  # Ray takes a second to import: only where it is used

    return connect(name, address=address)
