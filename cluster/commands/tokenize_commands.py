"""The commands `kvatlas tokenize check` and `encode`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from kvatlas.cluster.commands.options import AsJson
from kvatlas.cluster.commands.prompt_options import (
    ChatFile,
    GivenPrompt,
    Model,
    Prompt,
    PromptFile,
    given_prompt,
)
from kvatlas.cluster.commands.tokenize_options import (
    ConfigFile,
    Download,
    Folders,
    ModelPath,
    opened,
    tokenize_config,
)
from kvatlas.cluster.commands.tokenize_serve import serve
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import InputError
from kvatlas.tokenize.pod_http import check_url

if TYPE_CHECKING:  # tokenizers and templates: only where they are used
    from kvatlas.tokenize.config import TokenizeConfig
    from kvatlas.tokenize.parity.check import CaseResult, ParityReport
    from kvatlas.tokenize.tokenizers import Tokenizers

tokenize = typer.Typer(
    help="Token ids as model servers compute them: compare them, look at them, serve them.",
    no_args_is_help=True,
)

_DIFFERENT = 1


@tokenize.command()
def check(
    model: Model,
    pod: Annotated[str, typer.Option(help="http://HOST:PORT of a server of this model.")],
    path: ModelPath = None,
    folder: Folders = None,
    config: ConfigFile = None,
    hub: Download = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one answer.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare the tokenizer here with a server's, over many kinds of texts and chats.

    Ends with 0 where all ids are equal, with 1 where some differ; the first difference is shown.
    """
    with clear_errors():
        check_url(pod)  # better said before the tokenizer is loaded
        settings = tokenize_config(config, {model: path}, folder, hub, asks_pods=False)
        report = _compare(settings, model, pod, timeout_s, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps({"is_equal": report.is_equal, **msgspec.to_builtins(report)}))
    else:
        from kvatlas.cluster.commands.parity_screen import parity_view

        Console().print(parity_view(report), highlight=False, soft_wrap=True)
    if not report.is_equal:
        raise typer.Exit(_DIFFERENT)


def _compare(
    settings: TokenizeConfig, model: str, pod: str, timeout_s: float, console: Console
) -> ParityReport:
    from kvatlas.tokenize.parity.battery import battery
    from kvatlas.tokenize.parity.check import check as compare
    from kvatlas.tokenize.parity.check import special_tokens_of

    with opened(settings) as tokenizers, console.status(f"{model}: loading") as shown:
        tokenizer = tokenizers.get(model)
        cases = battery(special_tokens_of(tokenizer))
        done = 0

        def seen(result: CaseResult) -> None:
            nonlocal done
            done += 1
            shown.update(f"{model}: {done} of {len(cases)}: {result.name}")

        return compare(tokenizer, pod, cases=cases, timeout_s=timeout_s, seen=seen)


@tokenize.command()
def encode(
    model: Model,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    chat: ChatFile = None,
    special: Annotated[
        bool, typer.Option("--special/--no-special", help="Of a text: with the model's own tokens around it.")
    ] = True,
    pieces: Annotated[bool, typer.Option("--pieces", help="Each id with its text, a line each.")] = False,
    path: ModelPath = None,
    folder: Folders = None,
    config: ConfigFile = None,
    hub: Download = False,
    as_json: AsJson = False,
) -> None:
    """Print the token ids of a text or a chat, as a JSON list; how many, and by whom, on stderr."""
    with clear_errors():
        given = given_prompt(prompt, prompt_file, chat, allowed="--prompt, --prompt-file and --chat")
        with opened(tokenize_config(config, {model: path}, folder, hub)) as tokenizers:
            if given.chat is not None:
                made = tokenizers.encode_chat(model, given.chat)
            else:
                made = tokenizers.encode(model, given.text or "", add_special_tokens=special)
            shown = _pieces(tokenizers, model, given, special) if pieces else None
    ids = made.token_ids.tolist()
    if as_json:
        told: dict[str, Any] = {"token_ids": ids, "count": len(ids), "served_by": made.served_by}
        typer.echo(json.dumps(told if shown is None else {**told, "pieces": shown}))
        return
    typer.echo(f"{len(ids)} tokens by {made.served_by}", err=True)
    for token, text in zip(ids, shown or (), strict=False):
        typer.echo(f"{token:>8} {text!r}")
    if shown is None:
        typer.echo(json.dumps(ids))


def _pieces(tokenizers: Tokenizers, model: str, given: GivenPrompt, special: bool) -> list[str]:
    """The text of each token. Raises InputError where ids are asked of others."""
    from kvatlas.tokenize.local import LocalTokenizer

    tokenizer = tokenizers.get(model)
    if not isinstance(tokenizer, LocalTokenizer):
        raise InputError(f"--pieces: expected files of {model!r} here, got {tokenizer.served_by}")
    if given.chat is not None:
        text, special = tokenizer.render_chat(given.chat), given.chat.add_special_tokens
    else:
        text = given.text or ""
    _, offsets = tokenizer.offsets(text, add_special_tokens=special)
    return [text[begin:end] for begin, end in offsets.tolist()]


tokenize.command()(serve)
