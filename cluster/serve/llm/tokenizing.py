"""In an LLMRouter: Ray's tokenizer, without the errors that would turn a client's mistake into a 503."""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

from kvatlas.cluster.serve.llm import seams
from kvatlas.cluster.serve.llm.routed_request import BATCH_IDS

_log = logging.getLogger(__name__)


class RayTokenizing:
    """Stands between an LLMRouter and its tokenizer."""

    def __init__(self) -> None:
        self.refused = 0
        """Requests that the tokenizer refused; the engine answers them itself."""

    def install(self) -> bool:
        """False where Ray has moved the seam; then its tokenizer is as it was.

        What the tokenizer refuses with 4xx is routed without token ids, so that the engine refuses it
        in its own words; HAProxy would make a 503 of it. Of a batch of texts, which Ray does not
        tokenize, the first is, for the choice alone.
        """
        module: Any = sys.modules.get(seams.TOKENIZER_MODULE)
        problem = "it is not imported" if module is None else seams.difference(seams.TOKENIZE)
        if module is None or problem:
            _log.warning("client errors of Ray's tokenizer become 503, batches are not scored: %s", problem)
            return False
        original = module.Tokenizer.tokenize
        refusal = module.TokenizeError

        @functools.wraps(original)
        async def tokenize(tokenizer: Any, payload: dict[str, Any]) -> list[int] | None:
            payload.pop(BATCH_IDS, None)  # of nobody but us
            try:
                token_ids: list[int] | None = await original(tokenizer, payload)
                if token_ids is None and (first := _first_text(payload)):
                    payload[BATCH_IDS] = await original(tokenizer, {**payload, "prompt": first})
            except refusal as error:
                if not 400 <= error.status_code < 500:
                    raise
                self.refused += 1
                return None
            return token_ids

        module.Tokenizer.tokenize = tokenize
        return True


def _first_text(payload: dict[str, Any]) -> str:
    """Of a batch of texts."""
    prompt = payload.get("prompt")
    first = prompt[0] if isinstance(prompt, list) and prompt and "messages" not in payload else None
    return first if isinstance(first, str) else ""
