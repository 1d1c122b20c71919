"""The command `kvatlas`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from kvatlas.cluster.commands.cluster_commands import down, scale, up
from kvatlas.cluster.commands.demo_command import demo
from kvatlas.cluster.commands.diff_command import diff, grep
from kvatlas.cluster.commands.dump_command import dump, load
from kvatlas.cluster.commands.evict_command import evict
from kvatlas.cluster.commands.offload_commands import offload
from kvatlas.cluster.commands.pod_commands import pods
from kvatlas.cluster.commands.proxy_command import proxy
from kvatlas.cluster.commands.score_command import score
from kvatlas.cluster.commands.status_command import status
from kvatlas.cluster.commands.tokenize_commands import tokenize
from kvatlas.cluster.recordings.record_commands import record, replay

app = typer.Typer(
    name="kvatlas",
    help="An atlas of where every KV-cache block of a model-server fleet lives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for _command in (demo, up, proxy, status, score, scale, down, dump, load, diff, grep, evict, record, replay):
    app.command()(_command)
app.add_typer(pods, name="pods")
app.add_typer(tokenize, name="tokenize")
app.add_typer(offload, name="offload")


def main() -> None:
    """Entry point of the console script."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kvatlas {version('kvatlas')}")
        raise typer.Exit


@app.callback()
def kvatlas(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """An atlas of where every KV-cache block of a model-server fleet lives."""
