"""The command `kvatlas score`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

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
from kvatlas.cluster.commands.prompt_options import (
    ChatFile,
    GivenPrompt,
    Model,
    Prompt,
    PromptFile,
    TokensFile,
    given_prompt,
)
from kvatlas.cluster.user_errors import clear_errors

if TYPE_CHECKING:  # Ray takes a second to import: only where it is used
    from kvatlas.cluster.client import Client
    from kvatlas.cluster.commands.score_screen import ScoredPrompt

_ALLOWED = "--prompt, --prompt-file, --chat and --tokens"


def score(
    model: Model,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    chat: ChatFile = None,
    tokens: TokensFile = None,
    lora: Annotated[str | None, typer.Option(help="Name of the adapter that the request uses.")] = None,
    cache_salt: Annotated[str | None, typer.Option(help="Of the request; else as the chat's says.")] = None,
    pod: Annotated[list[str] | None, typer.Option(help="Only this one. Repeatable.")] = None,
    name: Cluster = DEFAULT_CLUSTER,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show how much of a prompt each pod of a cluster can reuse, best first."""
    with clear_errors():
        given = given_prompt(prompt, prompt_file, chat, tokens, allowed=_ALLOWED)
        asked: dict[str, Any] = {"model": model, "lora": lora, "pods": pod}
        asked["cache_salt"] = given.cache_salt if cache_salt is None else cache_salt
        with connect_to(name, address) as client:
            scored = _score(client, given, asked)
    from kvatlas.cluster.commands.score_screen import plain_score, score_view

    if as_json:
        typer.echo(json.dumps(plain_score(scored)))
    else:
        Console().print(score_view(scored), highlight=False)


def _score(client: Client, given: GivenPrompt, asked: dict[str, Any]) -> ScoredPrompt:
    """The ids are made once, so that both answers are about the same prompt."""
    from kvatlas.cluster.commands.score_screen import ScoredPrompt

    model = asked["model"]
    if given.chat is not None:
        made = client.encode_chat(given.chat, model=model)
    elif given.text is not None:
        made = client.encode(given.text, model=model)
    else:
        made = None
    ids: Any = given.token_ids if made is None else made.token_ids
    features = None if made is None else made.features
    return ScoredPrompt(
        model,
        client.score(ids, features=features, **asked),
        client.explain(ids, features=features, **asked),
        "" if made is None else made.served_by,
    )
