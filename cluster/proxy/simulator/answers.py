"""What a simulated pod says, in the words of OpenAI's API."""

from __future__ import annotations

from typing import Any

import msgspec

from kvatlas.ingest.simulator.request import SimulatedRequest

_CREATED = 1_700_000_000


def chunk(name: str, model: str, place: int, *, is_chat: bool) -> bytes:
    """One event of a stream: one token."""
    text = f" w{place}"
    said: dict[str, Any] = {"delta": {"content": text}} if is_chat else {"text": text}
    return _event(_frame(name, model, [{"index": 0, **said, "finish_reason": None}]))


def usage_chunk(name: str, model: str, work: SimulatedRequest, output_tokens: int) -> bytes:
    return _event({**_frame(name, model, []), "usage": usage_of(work, output_tokens)})


def whole(name: str, model: str, tokens: int, *, is_chat: bool) -> dict[str, Any]:
    """An answer that is no stream, but for its usage."""
    text = "".join(f" w{place}" for place in range(tokens))
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    return _frame(name, model, [{"index": 0, **said, "finish_reason": "length"}])


def usage_of(work: SimulatedRequest, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": work.prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": work.prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": work.cached_tokens},
    }


def models(model: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "simulated"}]}


def _frame(name: str, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": name, "object": "completion", "created": _CREATED, "model": model, "choices": choices}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
