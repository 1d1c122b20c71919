"""What a request to ray.serve.llm says of itself, read from its body, its token ids and its metadata."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

from kvatlas.cluster.serve.llm import seams
from kvatlas.index.keys import TokenIds

BATCH_IDS = "kvatlas_token_ids"
"""Field of a body in which `tokenizing.py` leaves the token ids of a batch's first text."""

_TEXT_MAX = 4096
_OUTPUT_TOKENS_MAX = 1 << 24


class RoutedRequest(NamedTuple):
    """One request, as far as a choice wants to know it. Nothing in it is trusted to be well formed."""

    request_id: str = ""
    token_ids: TokenIds | None = None
    """None: nobody has tokenized it."""
    lora: str | None = None
    """Ray's name of the adapter, by which the engine's events name it too."""
    cache_salt: str | None = None
    session: str = ""
    output_tokens: int | None = None


def read_request(pending_request: Any) -> RoutedRequest:
    """From Ray's PendingRequest; None and anything in its body is fine."""
    if pending_request is None:
        return RoutedRequest()
    metadata = pending_request.metadata
    body = pending_request.args[0] if pending_request.args else None
    return RoutedRequest(
        request_id=_text(getattr(metadata, "request_id", "")),
        token_ids=pending_request.kwargs.get(seams.TOKEN_IDS) or _own_ids(body),
        lora=_text(getattr(metadata, "multiplexed_model_id", "")) or None,
        cache_salt=_text(getattr(body, "cache_salt", None)) or None,
        session=_text(getattr(metadata, "session_id", "")),
        output_tokens=_output_tokens(body),
    )


def _own_ids(body: object) -> list[int] | None:
    """Of a prompt that Ray does not tokenize: of token ids, or a batch, of which the first counts.

    A batch is one request to one replica; its prompts are rarely strangers to each other.
    """
    prompt = getattr(body, "prompt", None)
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    if isinstance(first, str):
        ids: object = getattr(body, BATCH_IDS, None)
    else:
        ids = first if isinstance(first, list) else prompt
    return ids if _are_ids(ids) else None


def _are_ids(ids: object) -> TypeGuard[list[int]]:
    return isinstance(ids, list) and bool(ids) and all(type(one) is int and 0 <= one < 1 << 32 for one in ids)


def _output_tokens(body: object) -> int | None:
    for field in ("max_completion_tokens", "max_tokens"):
        value = getattr(body, field, None)
        if type(value) is int and value > 0:
            return min(value, _OUTPUT_TOKENS_MAX)
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _TEXT_MAX else ""
