"""The OpenAPI document: it names what is served, and its schemas hold what is answered."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.routing import Route

from kvatlas.cluster.gateway.desk import Desk
from kvatlas.cluster.gateway.web.app import GatewayApp
from kvatlas.cluster.gateway.web.openapi import OPERATIONS, openapi
from tests.cluster.gateway.rig import MODEL, PROMPT, Asker, EmbeddedBackend


def test_it_names_every_route_that_is_served(backend: EmbeddedBackend) -> None:
    served = {
        (method, route.path.replace(":path", ""))
        for route in GatewayApp(Desk(backend)).asgi.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    for_programs = {("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/openapi.json")}
    assert served == {(one.method.upper(), one.path) for one in OPERATIONS} | for_programs


def test_every_reference_leads_to_a_schema() -> None:
    document = openapi(needs_token=False)
    assert "securitySchemes" not in document["components"]
    names = set(document["components"]["schemas"])
    assert references(document) <= names


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].rpartition("/")[2]} if "$ref" in value else set()
        return own.union(*(references(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(references(inner) for inner in value))
    return set()


def test_answers_are_what_their_schemas_say(asker: Asker) -> None:
    asker.post("/v1/choose", {"model": MODEL, "token_ids": PROMPT, "request_id": "r"})
    question = {"model": MODEL, "token_ids": PROMPT}
    for operation in OPERATIONS:
        path = operation.path.replace("{request_id}", "r")
        if path.startswith("/v1/requests"):
            continue
        asked = question if operation.question is not None else None
        answer = asker.ask(operation.method.upper(), path, asked)
        assert answer.status == 200
        assert msgspec.convert(answer.body, operation.answer)
