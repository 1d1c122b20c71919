"""A prompt on the command line: a text, a file with one, a chat, token ids."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat

_FILE_BYTES_MAX = 256 << 20
_STANDARD_INPUT = "-"

Model = Annotated[str, typer.Option("--model", "-m", help="As servers call it.")]
Prompt = Annotated[str | None, typer.Option(help="The text of a plain completion.")]
PromptFile = Annotated[Path | None, typer.Option(help="A file with such a text; -: standard input.")]
ChatFile = Annotated[
    Path | None,
    typer.Option("--chat", help="JSON: a chat completion request, or its messages; -: standard input."),
]
TokensFile = Annotated[
    Path | None, typer.Option("--tokens", help="A file with a JSON list of token ids; -: standard input.")
]


class GivenPrompt(NamedTuple):
    """One of the three, and what else its request says."""

    text: str | None = None
    chat: Chat | None = None
    token_ids: tuple[int, ...] | None = None
    cache_salt: str | None = None


def given_prompt(
    prompt: str | None = None,
    prompt_file: Path | None = None,
    chat: Path | None = None,
    tokens: Path | None = None,
    *,
    allowed: str,
) -> GivenPrompt:
    """`allowed` names the options in the error. Raises InputError unless exactly one is given, and
    where its file does not hold what it should."""
    if sum(one is not None for one in (prompt, prompt_file, chat, tokens)) != 1:
        raise InputError(f"prompt: expected one of {allowed}")
    if chat is not None:
        return _chat(chat)
    if tokens is not None:
        return GivenPrompt(token_ids=_decoded(tokens, tuple[int, ...]))
    if prompt_file is not None:
        try:
            return GivenPrompt(text=_read(prompt_file).decode())
        except UnicodeDecodeError as error:
            raise InputError(f"{prompt_file}: expected UTF-8, {error}") from None
    return GivenPrompt(text=prompt)


def _chat(file: Path) -> GivenPrompt:
    from kvatlas.tokenize.chat.request import chat_of

    body = _decoded(file, Any)
    if not isinstance(body, (dict, list)):
        raise InputError(f"{file}: expected a request or a list of messages, got {type(body).__name__}")
    try:
        chat = chat_of(body)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    salt = body.get("cache_salt") if isinstance(body, dict) else None
    return GivenPrompt(chat=chat, cache_salt=salt if isinstance(salt, str) else None)


def _decoded(file: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(_read(file), type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{file}: expected JSON, {error}") from None


def _read(file: Path) -> bytes:
    """Raises OSError, which names the file."""
    if str(file) == _STANDARD_INPUT:
        content = sys.stdin.buffer.read(_FILE_BYTES_MAX + 1)
    else:
        with file.open("rb") as opened:
            content = opened.read(_FILE_BYTES_MAX + 1)
    if len(content) > _FILE_BYTES_MAX:
        raise InputError(f"{file}: expected at most {_FILE_BYTES_MAX} bytes, got more")
    return content
