"""Options of commands that tokenize in their own process, and the tokenizers that follow from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from kvatlas.cluster.config.loading import load_config

if TYPE_CHECKING:  # tokenizers and templates: only where they are used
    from kvatlas.tokenize.config import TokenizeConfig
    from kvatlas.tokenize.tokenizers import Tokenizers

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="A cluster's YAML file: its section `tokenize`.")
]
ModelPath = Annotated[
    Path | None, typer.Option("--path", help="Folder or tokenizer.json of the model; else it is looked for.")
]
Folders = Annotated[
    list[Path] | None,
    typer.Option("--folder", help="Searched for models, beside those configured. Repeatable."),
]
Download = Annotated[bool, typer.Option("--hub", help="Download what is not on this machine.")]


def tokenize_config(
    config: Path | None,
    models: Mapping[str, Path | None],
    folders: list[Path] | None,
    hub: bool,
    *,
    asks_pods: bool = True,
) -> TokenizeConfig:
    """What the file and the environment say, with the options over it. `models` is by name: where it is,
    or None where it is looked for. Raises ConfigError."""
    changes: dict[str, Any] = {}
    places = {name: str(path) for name, path in models.items() if path is not None}
    if places:
        changes["models"] = places
    if hub:
        changes["hub"] = {"allowed": True}
    read = load_config(config, tokenize=changes).tokenize
    return msgspec.structs.replace(
        read,
        folders=(*map(str, folders or ()), *read.folders),
        order=read.order if asks_pods else tuple(one for one in read.order if one != "pods"),
    )


@contextlib.contextmanager
def opened(config: TokenizeConfig) -> Iterator[Tokenizers]:
    """Closed at the end."""
    from kvatlas.tokenize.tokenizers import Tokenizers

    with contextlib.closing(Tokenizers(config)) as tokenizers:
        yield tokenizers
