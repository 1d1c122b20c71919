"""A server whose answers come from tokenizer files, as a model server's do; a test may spoil them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.local import LocalTokenizer
from tests.tokenize.scripted_pod import Question, ScriptedPod, http, ids

Spoil = Callable[[dict[str, Any], list[int]], "list[int] | None"]
"""Of a question and its ids: others, or None to refuse."""


def files_pod(tokenizer: LocalTokenizer, spoil: Spoil = lambda _, token_ids: token_ids) -> ScriptedPod:
    """Answers /tokenize and /detokenize."""

    def answer(question: Question) -> bytes:
        body = question.body
        if question.path == "/detokenize":
            return http({"prompt": " ".join(map(str, body["tokens"]))})
        try:
            told = spoil(body, _ids(tokenizer, body))
        except InputError as error:
            return http({"error": {"message": f"the server says: {error}"}}, 400)
        return http({"message": "spoilt"}, 400) if told is None else ids(*told)

    return ScriptedPod(answer)


def _ids(tokenizer: LocalTokenizer, body: dict[str, Any]) -> list[int]:
    if "prompt" in body:
        made = tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
    else:
        made = tokenizer.encode_chat(Chat(**{name: body[name] for name in body if name != "model"}))
    token_ids: list[int] = made.token_ids.tolist()
    return token_ids
