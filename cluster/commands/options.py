"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

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
