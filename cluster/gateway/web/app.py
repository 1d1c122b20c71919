"""The gateway over HTTP: an ASGI application, with or without Ray Serve around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from kvatlas.cluster.config.gateway_config import GatewayConfig
from kvatlas.cluster.gateway.access.rates import Rates
from kvatlas.cluster.gateway.access.tenants import Tenants
from kvatlas.cluster.gateway.desk import Desk
from kvatlas.cluster.gateway.feedback import FEEDBACK
from kvatlas.cluster.gateway.metrics import GatewayMetrics, flat
from kvatlas.cluster.gateway.web.answers import ReadyAnswer
from kvatlas.cluster.gateway.web.calls import Answering, Call, Calls
from kvatlas.cluster.gateway.web.openapi import openapi
from kvatlas.cluster.gateway.web.questions import ChooseQuestion, ExplainQuestion, ScoreQuestion
from kvatlas.cluster.gateway.web.refusals import RefusedError, refusal

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

SALT_HEADER = "x-kvatlas-cache-salt"
"""With a receipt's request: the salt of the request that it is of, where there are no tokens."""
_JSON = "application/json"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class GatewayApp:
    """Routes over a desk. `asgi` is what servers run; one event loop."""

    def __init__(
        self,
        desk: Desk,
        config: GatewayConfig | None = None,
        *,
        readiness: Callable[[], ReadyAnswer] = lambda: ReadyAnswer(is_ready=True),
    ) -> None:
        config = config or GatewayConfig()
        limits = config.limits
        self._desk = desk
        self._readiness = readiness
        self.tenants = Tenants(config.tokens_file)
        self.rates = Rates(limits.requests_per_s, limits.burst_requests, limits.callers_max)
        self.metrics = GatewayMetrics(self._counts, self._choosing)
        self._calls = Calls(config, self.tenants, self.rates, self.metrics)
        self._openapi = msgspec.json.encode(openapi(needs_token=self.tenants.are_named))
        self.asgi = self._application()

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [
            self._route("POST", "/v1/score", "score", self._score),
            self._route("POST", "/v1/choose", "choose", self._choose),
            self._route("POST", "/v1/explain", "explain", self._explain),
            *(
                self._route(
                    "POST", f"/v1/requests/{{request_id:path}}/{kind}", kind, partial(self._feedback, kind)
                )
                for kind in FEEDBACK
            ),
            self._route("GET", "/v1/receipts/{request_id:path}", "receipt", self._receipt),
            self._route("GET", "/v1/pods", "pods", self._pods),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._document, methods=["GET"]),
        ]
        made = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
        made.router.redirect_slashes = False  # to wherever the caller's Host says
        return made

    def _route(self, method: str, path: str, name: str, answering: Answering) -> Route:
        from starlette.routing import Route

        return Route(path, self._calls.endpoint(name, answering), methods=[method], name=name)

    # Calls.

    async def _score(self, call: Call) -> Any:
        return await self._desk.score(self._calls.bodies.decode(call.body, ScoreQuestion))

    async def _explain(self, call: Call) -> Any:
        return await self._desk.explain(self._calls.bodies.decode(call.body, ExplainQuestion))

    async def _choose(self, call: Call) -> Any:
        return await self._desk.choose(self._calls.bodies.decode(call.body, ChooseQuestion), call.tenant)

    async def _feedback(self, kind: str, call: Call) -> Any:
        told = self._calls.bodies.decode(call.body or b"{}", FEEDBACK[kind])
        return await self._desk.feedback(kind, call.request.path_params["request_id"], told, call.tenant)

    async def _receipt(self, call: Call) -> Any:
        salt = call.request.headers.get(SALT_HEADER)
        return await self._desk.receipt(call.request.path_params["request_id"], call.tenant, salt)

    async def _pods(self, _call: Call) -> Any:
        return self._desk.pods()

    # What supervisors ask: without tokens, and answered while everything else is refused.

    async def _healthz(self, _request: Request) -> Response:
        return _response(b'{"is_healthy":true}')

    async def _readyz(self, _request: Request) -> Response:
        ready = self._readiness()
        return _response(msgspec.json.encode(ready), 200 if ready.is_ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        return _response(self.metrics.text(), media_type=_METRICS)

    async def _document(self, _request: Request) -> Response:
        return _response(self._openapi)

    def _counts(self) -> dict[str, float]:
        return {**self._calls.counts, **self._calls.bodies.counts}

    def _choosing(self) -> dict[str, float]:
        return flat(msgspec.to_builtins(self._desk.backend.chooser.statistics()))


def _response(body: bytes, status: int = 200, media_type: str = _JSON) -> Response:
    from starlette.responses import Response

    return Response(body, status, media_type=media_type)


async def _no_route(_request: Request, error: Exception) -> Response:
    """Of paths and methods that are none."""
    from starlette.exceptions import HTTPException
    from starlette.responses import Response

    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = f"expected a path and method of /openapi.json, got none of them ({error.detail})"
    status, body, headers = refusal(RefusedError(error.status_code, kind, message, where="path"))
    return Response(body, status, {**(error.headers or {}), **headers}, media_type=_JSON)
