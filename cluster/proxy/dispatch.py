"""One request's way through the proxy: a worker is chosen, asked, and what it did is accounted for."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Collection
from typing import Any, NoReturn, Protocol

import msgspec

from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.asking import KINDS, Asked, decode, with_usage
from kvatlas.cluster.proxy.http.client_connection import ClientConnection
from kvatlas.cluster.proxy.http.head import Headers, forwarded, request_head
from kvatlas.cluster.proxy.http.pod_connection import PodConnection
from kvatlas.cluster.proxy.http.pod_connections import (
    Address,
    AvoidedPods,
    PodConnections,
    UnreachableError,
)
from kvatlas.cluster.proxy.http.request import Request
from kvatlas.cluster.proxy.proxy_metrics import ProxyMetrics
from kvatlas.cluster.proxy.refusing import ProxyRefusalError
from kvatlas.cluster.proxy.relay import Ending, Gathering, Relay
from kvatlas.cluster.proxy.served_models import Served
from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, NoWorkerError, TokenizerError

_OURS = (
    b"host",
    b"content-length",
    b"expect",
    b"accept-encoding",  # what is compressed cannot be looked into
    b"x-request-id",
    b"x-data-parallel-rank",
    b"x-kvatlas-session",
)
_TOLD_BYTES_MAX = 1024
_EXPECTED_TOKENS = ChoosingConfig().output_tokens_default
_TAKES_KV: dict[str, object] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""Says to a prefill pod that another will fetch the cache. Source: vLLM's connectors, such as NIXL's."""


class Choosing(Protocol):
    """The part of `Chooser` that is used here."""

    async def choose_async(
        self, token_ids: Any = None, *, prompt: str | None = None, messages: Any = None, ask: Ask
    ) -> Choice: ...
    def another(self, request_id: str, *, without: Collection[str]) -> Choice: ...
    def prefill_done(self, request_id: str) -> bool: ...
    def produced(self, request_id: str, tokens: int) -> bool: ...
    def completed(
        self, request_id: str, *, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> bool: ...
    def failed(self, request_id: str, why: str = "") -> bool: ...


class Means(msgspec.Struct, frozen=True):
    """What all requests of one proxy use."""

    config: ProxyConfig
    chooser: Choosing
    pods: PodConnections
    avoided: AvoidedPods
    counts: Counter[str]
    metrics: ProxyMetrics
    pod_authorization: bytes | None
    """None: the client's own goes on."""


class Dispatch:
    """One request. However it ends, its reservation ends with it."""

    def __init__(
        self,
        means: Means,
        request: Request,
        client: ClientConnection,
        asked: Asked,
        served: Served,
        tenant: str,
    ) -> None:
        self._means = means
        self._request = request
        self._client = client
        self._asked = asked
        self._served = served
        self._tenant = tenant
        self._began_s = time.perf_counter()
        self._has_prefilled = False
        self._relay: Relay | None = None
        self._tried: set[str] = set()
        self._breaks = 0
        self.request_id = secrets.token_hex(12)
        given = request.header(b"x-request-id")
        self._told_id = self.request_id.encode() if given is None else given

    async def run(self) -> None:
        """Returns when the client has its answer. Raises KvatlasError, most often before it began."""
        choice = await self._choose()
        ending: Ending | None = None
        why = "the client went away"
        try:
            ending = await self._attempts(choice)
        except Exception as error:
            why = str(error)
            raise
        finally:
            self._settle(ending, why)

    # Choosing.

    async def _choose(self) -> Choice:
        asked, served = self._asked, self._served
        session = asked.session or (self._request.header(b"x-kvatlas-session") or b"").decode("latin-1")
        ask = Ask(
            model=served.model,
            request_id=self.request_id,
            tenant=self._tenant,
            session=session,
            lora=served.adapter,
            cache_salt=asked.cache_salt,
            pods=served.pods,
            output_tokens=_expected(asked.output_tokens),
        )
        choosing = self._means.chooser.choose_async
        try:
            choice = await choosing(asked.token_ids, prompt=asked.prompt, messages=asked.chat, ask=ask)
        except (InputError, TokenizerError):
            if asked.token_ids is not None:
                raise
            # Templates, parts of messages, limits: what its server makes of them is the pod's to say.
            self._means.counts["unread_prompts"] += 1
            choice = await choosing(ask=ask)
        self._means.metrics.chose(time.perf_counter() - self._began_s)
        return choice

    def _another(self, why: str) -> Choice:
        self._means.counts["retries"] += 1
        try:
            return self._means.chooser.another(self.request_id, without=self._tried)
        except NoWorkerError:
            raise ProxyRefusalError(502, "no_pod", f"no pod could be reached; the last: {why}") from None

    def _unless_avoided(self, choice: Choice) -> Choice:
        """Another where the chosen pod has lately refused connections, if there is any."""
        avoided = self._means.avoided
        if not avoided.avoids(choice.pod):
            return choice
        left_out = avoided.now()
        if self._served.pods <= left_out:
            return choice
        return self._means.chooser.another(self.request_id, without=left_out)

    # Attempts.

    async def _attempts(self, choice: Choice) -> Ending:
        attempts_max = self._means.config.limits.attempts_max
        choice = self._unless_avoided(choice)
        for attempt in range(1, attempts_max + 1):
            try:
                return await self._attempt(choice)
            except UnreachableError as error:
                if attempt == attempts_max:
                    raise ProxyRefusalError(502, "no_pod", f"{attempts_max} pods tried: {error}") from error
                choice = self._another(str(error))
        raise AssertionError("attempts_max is at least 1")

    async def _attempt(self, choice: Choice) -> Ending:
        """Raises UnreachableError where another pod may be tried: the client knows of nothing yet."""
        body = self._body()
        if choice.decode is not None:
            body = await self._prefill(choice, body)
            choice = choice.decode
        strips = self._asked.streams and self._asked.wants_usage is None
        connection, is_fresh = await self._connect(choice), False
        while True:
            relay = self._relay = self._relay_to(choice, connection, strips_usage=strips)
            ending = await self._exchange(connection, choice, body, relay)
            if not ending.broken or ending.status:
                return ending
            if ending.is_late:
                raise ProxyRefusalError(504, "silent_pod", f"pod {choice.pod!r}: {ending.broken}")
            if is_fresh or connection.requests == 1:
                self._broke(choice, ending)
            # The pod closed a connection that had been idle, as it may: that says nothing of it.
            connection, is_fresh = await self._connect(choice, is_fresh=True), True

    def _broke(self, choice: Choice, ending: Ending) -> NoReturn:
        """A pod that dies of a request must not take the others with it: one more is tried."""
        self._breaks += 1
        self._tried.add(choice.pod)
        self._means.counts["broken_by_pods"] += 1
        why = f"pod {choice.pod!r}: {ending.broken}"
        if self._breaks > 1:
            raise ProxyRefusalError(502, "broken_pod", why)
        raise UnreachableError(why)

    async def _connect(self, choice: Choice, *, is_fresh: bool = False) -> PodConnection:
        means = self._means
        try:
            if choice.url is None:
                raise UnreachableError("nobody knows its url")
            connection = await means.pods.take(Address.of(choice.url), is_fresh=is_fresh)
        except (UnreachableError, InputError) as error:
            self._tried.add(choice.pod)
            means.avoided.failed(choice.pod)
            raise UnreachableError(f"pod {choice.pod!r}: {error}") from error
        means.avoided.accepted(choice.pod)
        return connection

    async def _exchange(
        self, connection: PodConnection, choice: Choice, body: bytes, sink: Relay | Gathering
    ) -> Ending:
        connection.send(self._head(choice, len(body)) + body, sink)
        try:
            ending = await sink.done
        except asyncio.CancelledError:
            connection.abort()
            raise
        self._means.pods.give_back(connection)
        return ending

    async def _prefill(self, choice: Choice, body: bytes) -> bytes:
        """Has one pod compute the prompt; returns the body by which another fetches its cache."""
        fields = dict(self._asked.fields or decode(body, dict[str, Any]))
        asked = {**fields, "stream": False, "max_tokens": 1, "kv_transfer_params": _TAKES_KV}
        if "max_completion_tokens" in asked:
            asked["max_completion_tokens"] = 1
        for name in ("stream_options", "min_tokens"):
            asked.pop(name, None)
        gathering = Gathering()
        connection = await self._connect(choice)
        ending = await self._exchange(connection, choice, msgspec.json.encode(asked), gathering)
        if ending.broken:
            self._broke(choice, ending)
        if not ending.is_good:
            told = bytes(gathering.text[:_TOLD_BYTES_MAX]).decode("utf-8", "replace")
            raise ProxyRefusalError(ending.status or 502, "prefill", f"pod {choice.pod!r}: {told}")
        self._first()
        try:
            transfer = decode(bytes(gathering.text), dict[str, Any]).get("kv_transfer_params")
        except InputError as error:  # the pod's fault, and not the client's
            raise ProxyRefusalError(502, "prefill", f"pod {choice.pod!r}: {error}") from error
        return msgspec.json.encode({**fields, "kv_transfer_params": transfer}) if transfer else body

    # What is sent.

    def _body(self) -> bytes:
        asked, body = self._asked, self._request.body
        if asked.streams and asked.wants_usage is None and self._request.path in KINDS:
            return with_usage(body, asked)
        return body

    def _head(self, choice: Choice, length: int) -> bytes:
        address = Address.of(choice.url or "")
        left_out = _OURS if self._means.pod_authorization is None else (*_OURS, b"authorization")
        headers: Headers = [
            (b"host", address.authority),
            *forwarded(self._request.headers, left_out),
            (b"content-length", b"%d" % length),
            (b"x-request-id", self._told_id),
        ]
        if self._means.pod_authorization:
            headers.append((b"authorization", self._means.pod_authorization))
        if choice.rank:
            headers.append((b"x-data-parallel-rank", b"%d" % choice.rank))
        return request_head(self._request.method, address.prefix + self._request.target, headers)

    def _relay_to(self, choice: Choice, connection: PodConnection, *, strips_usage: bool) -> Relay:
        return Relay(
            self._client,
            connection,
            [
                (b"x-request-id", self._told_id),
                (b"x-kvatlas-request-id", self.request_id.encode()),
                (b"x-kvatlas-pod", _fit(choice.pod)),
                (b"x-kvatlas-predicted-cached-tokens", b"%d" % choice.cached_tokens),
            ],
            strips_usage=strips_usage,
            first=self._first,
            produced=self._produced,
            produced_each=self._means.config.produced_tokens,
        )

    # What is accounted for.

    def _first(self) -> None:
        if not self._has_prefilled:
            self._has_prefilled = True
            self._means.metrics.began(time.perf_counter() - self._began_s)
            self._means.chooser.prefill_done(self.request_id)

    def _produced(self, tokens: int) -> None:
        self._means.chooser.produced(self.request_id, tokens)

    def _settle(self, ending: Ending | None, why: str) -> None:
        chooser, counts = self._means.chooser, self._means.counts
        if ending is not None and ending.is_good:
            usage = ending.usage
            counts["cached_tokens"] += usage.cached_tokens or 0
            counts["prompt_tokens"] += usage.prompt_tokens or 0
            tokens = ending.parts if usage.output_tokens is None else usage.output_tokens
            chooser.completed(self.request_id, cached_tokens=usage.cached_tokens, output_tokens=tokens)
        elif ending is None and self._has_prefilled and self._relay is not None:
            # The prompt was computed, so the pod has it, whatever became of the answer.
            chooser.completed(self.request_id, output_tokens=self._relay.ending.parts)
        else:
            counts["broken_answers"] += ending is not None and bool(ending.broken)
            chooser.failed(
                self.request_id, why if ending is None else ending.broken or f"status {ending.status}"
            )


def _expected(output_tokens_max: int | None) -> int | None:
    """A limit is no expectation, unless it is below what is expected of any request."""
    return None if (output_tokens_max or _EXPECTED_TOKENS) >= _EXPECTED_TOKENS else output_tokens_max


def _fit(text: str) -> bytes:
    """Fit for a header: printable ASCII."""
    return "".join(one if " " <= one <= "~" else "?" for one in text).encode()
