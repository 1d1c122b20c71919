"""Asks the LLMRouters of an application what they have done, from anywhere in its Ray cluster."""

from __future__ import annotations

from typing import Any

import msgspec

from kvatlas.cluster.serve.llm import seams
from kvatlas.cluster.serve.llm.application import RECEIPT, STATISTICS
from kvatlas.cluster.serve.llm.routing_statistics import RoutingStatistics
from kvatlas.index.errors import InputError

ANSWER_S_MAX = 10.0


def statistics(app: str = "default", *, timeout_s: float = ANSWER_S_MAX) -> list[RoutingStatistics]:
    """Of each LLMRouter of a Serve application. Raises what Ray raises where there is no such application."""
    answers = _ask(app, STATISTICS, (), timeout_s)
    return [msgspec.convert(answer, RoutingStatistics) for answer in answers if answer is not None]


def receipt(
    request_id: str,
    app: str = "default",
    *,
    tenant: str = "",
    cache_salt: str | None = None,
    timeout_s: float = ANSWER_S_MAX,
) -> dict[str, Any]:
    """The full account of one choice; a request that had a `cache_salt` wants it again.

    Raises InputError where no LLMRouter has one for this tenant.
    """
    for answer in _ask(app, RECEIPT, (request_id, tenant, cache_salt), timeout_s):
        if answer is not None:
            found: dict[str, Any] = answer
            return found
    raise InputError(f"request_id: expected one of this tenant's latest, got {request_id!r:.200}")


def _ask(app: str, question: str, arguments: tuple[Any, ...], timeout_s: float) -> list[Any]:
    from ray import serve

    handle: Any = serve.get_deployment_handle(seams.LLM_ROUTER, app_name=app)
    answers = handle.broadcast("on_lifecycle_events", [(question, arguments)])
    return list(answers.results(timeout_s=timeout_s))
