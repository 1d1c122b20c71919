"""How a command says what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from kvatlas.index.errors import ConfigError, InputError, KvatlasError

_FAILED, _MISUSED = 1, 2


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """What a user can mend is said in a line, without a traceback."""
    try:
        yield
    except (KvatlasError, OSError) as error:
        typer.echo(f"kvatlas: {error}", err=True)
        misused = isinstance(error, (ConfigError, InputError))
        raise typer.Exit(_MISUSED if misused else _FAILED) from error
