"""What a proxy answers by itself, and what it passes on."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any, Protocol

import msgspec

from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.gateway.access.tenants import Tenants
from kvatlas.cluster.proxy.asking import KINDS, Asked, read
from kvatlas.cluster.proxy.dispatch import Choosing, Dispatch, Means
from kvatlas.cluster.proxy.http.client_connection import ClientConnection
from kvatlas.cluster.proxy.http.head import error_body
from kvatlas.cluster.proxy.http.pod_connections import AvoidedPods, PodConnections
from kvatlas.cluster.proxy.http.request import Request
from kvatlas.cluster.proxy.proxy_metrics import ProxyMetrics
from kvatlas.cluster.proxy.refusing import ProxyRefusalError, refusal_of
from kvatlas.cluster.proxy.served_models import Served, ServedBy, ServedModels
from kvatlas.index.errors import InputError, KvatlasError, quoted

_log = logging.getLogger(__name__)
_RECEIPTS = "/v1/receipts/"
_TEXT = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]


class Chooser(Choosing, Protocol):
    """The part of `kvatlas.Chooser` that a proxy uses."""

    def receipt(self, request_id: str, *, tenant: str = "", cache_salt: str | None = None) -> Any: ...


class Proxy:
    """Answers the requests of clients. On one event loop; `ProxyServer` brings them."""

    def __init__(self, config: ProxyConfig, chooser: Chooser, fleet: ServedBy) -> None:
        """Raises OSError where `pod_token_file` cannot be read."""
        self.config = config
        self.counts: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.metrics = ProxyMetrics()
        self.pods = PodConnections(config.limits, self.counts)
        self.requests = 0
        """That are being answered."""
        self._chooser = chooser
        self._models = ServedModels(fleet)
        self._tenants = Tenants(config.tokens_file)
        self._means = Means(
            config=config,
            chooser=chooser,
            pods=self.pods,
            avoided=AvoidedPods(config.limits.avoid_s),
            counts=self.counts,
            metrics=self.metrics,
            pod_authorization=self._pod_authorization(),
        )
        self._started_s = int(time.time())

    async def serve(self, request: Request, client: ClientConnection) -> None:
        """Answers one request, whatever it is."""
        self.requests += 1
        try:
            await self._answer(request, client)
        except KvatlasError as error:
            if client.has_begun:
                client.break_off()
            else:
                refusal = refusal_of(error)
                self.counts[f"refused_{refusal.kind}"] += 1
                client.answer(refusal.status, refusal.body, refusal.headers)
        except Exception:
            _log.exception("proxy: a request could not be answered")
            self.counts["failed_answers"] += 1
            if client.has_begun:
                client.break_off()
            else:
                client.answer(500, error_body(500, "failed", "the proxy has failed; its log says why"))
        finally:
            self.requests -= 1
            self.answers[client.status] += 1

    async def _answer(self, request: Request, client: ClientConnection) -> None:
        path = request.path
        if path == "/health" and request.method in (b"GET", b"HEAD"):
            return self._health(client)
        tenant = self._tenant(request)
        if request.method == b"POST":
            if path in KINDS or path in self.config.paths:
                return await self._pass_on(request, client, tenant)
        elif request.method in (b"GET", b"HEAD"):
            if path == "/v1/models":
                return client.answer(200, msgspec.json.encode(self._listed()))
            if path == "/metrics":
                return client.answer(200, self.metrics.text(), _TEXT)
            if path.startswith(_RECEIPTS):
                return self._receipt(path.removeprefix(_RECEIPTS), request, client, tenant)
        raise ProxyRefusalError(
            404, "not_found", f"nothing is served at {request.method.decode()} {path[:200]}"
        )

    async def _pass_on(self, request: Request, client: ClientConnection, tenant: str) -> None:
        kind = KINDS.get(request.path, "other")
        asked = read(kind, request.body, self.config.limits.json_parts_max)
        served = self._served(asked)
        await Dispatch(self._means, request, client, asked, served, tenant).run()

    def _served(self, asked: Asked) -> Served:
        served = self._models.find(asked.model)
        if served is None:
            if not self._models.names():
                raise ProxyRefusalError(503, "no_pod", "there are no pods with a url", retry_after_s=1)
            told = "no model" if asked.model is None else quoted(asked.model, 200)
            raise ProxyRefusalError(
                404, "model_not_found", f"expected a model of /v1/models, got {told}", where="model"
            )
        return served

    def _tenant(self, request: Request) -> str:
        given = request.header(b"authorization")
        tenant = self._tenants.tenant_of(None if given is None else given.decode("utf-8", "surrogateescape"))
        if tenant is None:
            raise ProxyRefusalError(401, "unauthorized", "expected a bearer token that is known here")
        return tenant

    def _health(self, client: ClientConnection) -> None:
        names = len(self._models.names())
        client.answer(200 if names else 503, msgspec.json.encode({"models": names}))

    def _listed(self) -> dict[str, Any]:
        def entry(name: str, served: Served) -> dict[str, Any]:
            parent = None if served.adapter is None else served.model
            fixed = {"object": "model", "created": self._started_s, "owned_by": "kvatlas"}
            return {"id": name, **fixed, "root": served.model, "parent": parent}

        names = self._models.names()
        return {"object": "list", "data": [entry(name, names[name]) for name in sorted(names)]}

    def _receipt(self, request_id: str, request: Request, client: ClientConnection, tenant: str) -> None:
        salt = request.header(b"x-kvatlas-cache-salt")
        try:
            receipt = self._chooser.receipt(
                request_id,
                tenant=tenant,
                cache_salt=None if salt is None else salt.decode("utf-8", "replace"),
            )
        except InputError as error:
            raise ProxyRefusalError(404, "no_receipt", str(error)) from error
        client.answer(200, msgspec.json.encode(receipt))

    def _pod_authorization(self) -> bytes | None:
        """None: clients' tokens are the pods' to judge. Empty: pods want none, and learn of none."""
        if self.config.pod_token_file is not None:
            with open(self.config.pod_token_file, "rb") as file:
                return b"Bearer " + file.read(4096).strip()
        return b"" if self._tenants.are_named else None
