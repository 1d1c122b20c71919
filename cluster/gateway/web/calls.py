"""What every call over HTTP goes through: who asks, how often, within which bounds, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kvatlas.cluster.config.gateway_config import GatewayConfig
from kvatlas.cluster.gateway.access.rates import Rates
from kvatlas.cluster.gateway.access.tenants import Tenants
from kvatlas.cluster.gateway.metrics import GatewayMetrics
from kvatlas.cluster.gateway.web.bodies import Bodies
from kvatlas.cluster.gateway.web.refusals import RefusedError, refusal, refused

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_JSON = "application/json"
_log = logging.getLogger(__name__)


class Call(NamedTuple):
    """One that may go on."""

    request: Request
    body: bytes
    tenant: str


Answering = Callable[[Call], Awaitable[Any]]
"""Gives what is sent as JSON."""


class Calls:
    """Lets calls in on one event loop, and counts them."""

    def __init__(
        self, config: GatewayConfig, tenants: Tenants, rates: Rates, metrics: GatewayMetrics
    ) -> None:
        self._limits = config.limits
        self._tenants = tenants
        self._rates = rates
        self._metrics = metrics
        self.bodies = Bodies(config.limits)
        self.counts: Counter[str] = Counter()

    def endpoint(self, name: str, answering: Answering) -> Callable[[Request], Awaitable[Response]]:
        """A Starlette endpoint that lets a call in and has it answered."""

        async def behave(request: Request) -> Response:
            begun_s = time.perf_counter()
            response = await self._response(name, request, answering)
            seconds = time.perf_counter() - begun_s
            self._metrics.answered("http", name, str(response.status_code), seconds)
            return response

        return behave

    async def _response(self, name: str, request: Request, answering: Answering) -> Response:
        from starlette.responses import Response

        try:
            tenant = self._let_in(request)
            with self.bodies.room() as room:
                body = await self.bodies.read(request.headers, request.receive, room)
                told = await asyncio.wait_for(
                    answering(Call(request, body, tenant)), self._limits.answer_s_max
                )
                return Response(msgspec.json.encode(told), 200, media_type=_JSON)
        except Exception as error:  # one request must not end the service of all
            return self._told(name, error)

    def _told(self, name: str, error: Exception) -> Response:
        from starlette.responses import Response

        known = refused(error)
        if known is None:
            _log.exception("a %s request has failed", name)
            self.counts["broken"] += 1
            text = f"expected an answer, the gateway failed with {type(error).__name__}"
            known = RefusedError(500, "internal", text)
        status, body, headers = refusal(known)
        return Response(body, status, headers, media_type=_JSON)

    def _let_in(self, request: Request) -> str:
        """The tenant. Raises RefusedError: 401 and 429."""
        tenant = self._tenants.tenant_of(request.headers.get("authorization"))
        if tenant is None:
            self.counts["unauthorized"] += 1
            raise RefusedError(
                401, "unauthorized", "expected Authorization: Bearer and a token that is known"
            )
        caller = tenant or (request.client.host if request.client is not None else "")
        if wait_s := self._rates.wait_s(caller):
            self.counts["rate_limited"] += 1
            raise RefusedError(429, "rate_limited", "expected fewer requests", retry_after_s=wait_s)
        return tenant
