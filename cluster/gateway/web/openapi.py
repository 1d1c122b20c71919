"""The OpenAPI document, made from the structs that are decoded and encoded."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from kvatlas.cluster.gateway.feedback import FEEDBACK
from kvatlas.cluster.gateway.web.answers import Done, ErrorAnswer, PodsAnswer, ReadyAnswer, ScoreAnswer
from kvatlas.cluster.gateway.web.questions import ChooseQuestion, ExplainQuestion, ScoreQuestion
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.receipts.receipt import Receipt
from kvatlas.index.scores import Explanation

_REFERENCE = "#/components/schemas/{name}"
_REFUSALS = {
    "400": "The request is malformed; `where` says at which place.",
    "401": "There is no token, or not one that is known.",
    "404": "No pod may serve it, or the request is not known.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "422": "Nobody here can compute this model's token ids.",
    "429": "Too many requests of this caller; see Retry-After.",
    "503": "Overloaded, or a part is not there just now; see Retry-After.",
    "504": "There was no answer in time.",
}


class Operation(NamedTuple):
    """One path and method."""

    method: str
    path: str
    summary: str
    question: type | None
    answer: type


OPERATIONS = (
    Operation("post", "/v1/score", "How much of a prompt each pod can reuse", ScoreQuestion, ScoreAnswer),
    Operation("post", "/v1/choose", "Where a request should go", ChooseQuestion, Choice),
    Operation(
        "post", "/v1/explain", "Why each worker matches as far as it does", ExplainQuestion, Explanation
    ),
    *(
        Operation(
            "post", f"/v1/requests/{{request_id}}/{kind}", (struct.__doc__ or "").rstrip("."), struct, Done
        )
        for kind, struct in FEEDBACK.items()
    ),
    Operation("get", "/v1/receipts/{request_id}", "Why a request went where it went", None, Receipt),
    Operation("get", "/v1/pods", "The pods and their workers", None, PodsAnswer),
    Operation("get", "/readyz", "Whether it can be asked", None, ReadyAnswer),
)


def openapi(*, needs_token: bool) -> dict[str, Any]:
    """The document, as JSON would have it."""
    structs = {operation.answer for operation in OPERATIONS} | {ErrorAnswer}
    structs |= {operation.question for operation in OPERATIONS if operation.question is not None}
    named = sorted(structs, key=lambda struct: struct.__name__)
    _, schemas = msgspec.json.schema_components(named, ref_template=_REFERENCE)
    components: dict[str, Any] = {"schemas": schemas}
    if needs_token:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, needs_token)
    return {
        "openapi": "3.1.0",
        "info": {"title": "kvatlas gateway", "version": "1"},
        "paths": paths,
        "components": components,
    }


def _described(operation: Operation, needs_token: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The answer.", "content": _content(operation.answer)},
            **{
                status: {"description": says, "content": _content(ErrorAnswer)}
                for status, says in _REFUSALS.items()
            },
        },
    }
    if operation.question is not None:
        told["requestBody"] = {"required": True, "content": _content(operation.question)}
    if "{request_id}" in operation.path:
        told["parameters"] = [
            {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if needs_token and operation.path.startswith("/v1/"):
        told["security"] = [{"bearer": []}]
    return told


def _content(struct: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(name=struct.__name__)}}}
