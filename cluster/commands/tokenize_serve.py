"""The command `kvatlas tokenize serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvatlas.cluster.commands.ending import Ending
from kvatlas.cluster.commands.tokenize_options import ConfigFile, Download, Folders, opened, tokenize_config
from kvatlas.cluster.user_errors import clear_errors

_LISTEN = ("127.0.0.1:50051",)


def serve(
    listen: Annotated[
        list[str] | None, typer.Option(help="unix:PATH, HOST:PORT or :PORT (this machine only). Repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Load it now: NAME, or NAME=PATH. Repeatable.")
    ] = None,
    folder: Folders = None,
    config: ConfigFile = None,
    hub: Download = False,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Calls worked on at a time.")] = 4,
    socket_mode: Annotated[
        str, typer.Option(help="Permissions of a Unix socket, octal: 660 lets its group in.")
    ] = "600",
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM; over TCP only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM, of the certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM: clients must have a certificate of this authority.")
    ] = None,
) -> None:
    """Serve tokens over gRPC, as llm-d's sidecar does. SIGTERM ends it when running calls have ended."""
    with clear_errors():
        from kvatlas.tokenize.service.config import ServiceConfig
        from kvatlas.tokenize.service.serving.server import TokenizationServer

        models = dict(map(_named, model or ()))
        service = ServiceConfig(
            listen=tuple(listen or _LISTEN),
            threads=threads,
            socket_mode=socket_mode,
            tls_certificate_file=_path(tls_certificate),
            tls_key_file=_path(tls_key),
            tls_client_ca_file=_path(tls_client_ca),
        )
        with Ending() as ending, opened(tokenize_config(config, models, folder, hub)) as tokenizers:
            for name in models:
                typer.echo(f"{name}: {tokenizers.get(name).served_by}", err=True)
            server = TokenizationServer(tokenizers, service)
            try:
                typer.echo(f"listens at {', '.join(server.start())}", err=True)
                ending.wait()
            finally:
                server.stop()


def _path(given: Path | None) -> str | None:
    return None if given is None else str(given)


def _named(given: str) -> tuple[str, Path | None]:
    name, _, path = given.partition("=")
    return name, Path(path) if path else None
