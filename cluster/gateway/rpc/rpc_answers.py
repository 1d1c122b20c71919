"""What the calls of the gateway's gRPC services do: a request's bytes in, an answer's bytes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import msgspec

from kvatlas.cluster.gateway.access.rates import Rates
from kvatlas.cluster.gateway.access.tenants import Tenants
from kvatlas.cluster.gateway.desk import Desk
from kvatlas.cluster.gateway.feedback import FEEDBACK
from kvatlas.cluster.gateway.metrics import GatewayMetrics
from kvatlas.cluster.gateway.rpc.messages import choose_question, message_of, score_question
from kvatlas.cluster.gateway.rpc.schemas import DEFINITIONS, INDEXER
from kvatlas.cluster.gateway.web.questions import ScoreQuestion
from kvatlas.cluster.gateway.web.refusals import RefusedError, refused
from kvatlas.tokenize.service.serving.calls import Answer, RefusedCallError, Said, Trailing
from kvatlas.tokenize.service.wire import metadata

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
RETRY_AFTER = "retry-after-ms"
"""Behind a refusal: when asking again is worth it."""
ERROR_TYPE = "kvatlas-error-type"
"""Behind a refusal: the same word that HTTP's body has."""
ERROR_WHERE = "kvatlas-error-where"


class RpcAnswers:
    """Answers calls from a desk. Any thread."""

    always_says: Trailing = ()

    def __init__(
        self,
        desk: Desk,
        tenants: Tenants,
        rates: Rates,
        metrics: GatewayMetrics,
        run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run,
        *,
        containers_max: int,
    ) -> None:
        """`containers_max`: objects and lists in the JSON of a chat. `run`: has a coroutine run, and waits
        for what it gives."""
        self._desk = desk
        self._tenants = tenants
        self._rates = rates
        self._metrics = metrics
        self._run = run
        self._containers_max = containers_max
        self._kinds = {
            method: messages
            for definition in DEFINITIONS
            for methods in definition.services.values()
            for method, messages in methods.items()
        }
        self._calls: dict[str, Callable[[Any, str], Any]] = {
            "GetPodScores": self._pod_scores,
            "Score": self._score,
            "Choose": self._choose,
            "GetReceipt": self._receipt,
            "ListPods": self._pods,
            "PrefillDone": self._feedback("prefill_done"),
            "Produced": self._feedback("produced"),
            "Completed": self._feedback("completed"),
            "Failed": self._feedback("failed"),
        }

    def question(self, method: str, payload: bytes) -> Any:
        (definition,) = (
            one for one in DEFINITIONS if any(method in methods for methods in one.services.values())
        )
        return definition.message_class(self._kinds[method][0]).FromString(payload)

    def is_slow(self, request: Any) -> bool:
        return False  # who tokenizes has a queue of his own for that

    def answer(self, method: str, request: Any, said: Said) -> Answer:
        begun_s = time.perf_counter()
        code = grpc.StatusCode.UNKNOWN
        try:
            tenant = self._let_in(said)
            body = self._calls[method](request, tenant).SerializeToString()
            code = grpc.StatusCode.OK
            return Answer(body)
        except Exception as error:
            known = refused(error)
            if known is None:
                raise
            is_full = known.kind == "overloaded"  # clients of gRPC try again at once where it is UNAVAILABLE
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if is_full else _CODES[known.status]
            raise _refusal(known, code) from error
        finally:
            self._metrics.answered("grpc", method, code.name, time.perf_counter() - begun_s)

    def _let_in(self, said: Said) -> str:
        tenant = self._tenants.tenant_of(metadata.value_of(said, "authorization"))
        if tenant is None:
            raise RefusedError(
                401, "unauthorized", "expected authorization: Bearer and a token that is known"
            )
        # Without tokens all callers are one: behind a proxy their addresses say nothing.
        if wait_s := self._rates.wait_s(tenant):
            raise RefusedError(429, "rate_limited", "expected fewer requests", retry_after_s=wait_s)
        return tenant

    # Calls.

    def _pod_scores(self, request: Any, _tenant: str) -> Any:
        pods = list(request.pod_identifiers) or None
        question = ScoreQuestion(model=request.model_name, prompt=request.prompt, pods=pods)
        scores = self._desk.score_now(question).scores
        ranked = sorted(scores.items(), key=lambda scored: -scored[1])
        response = INDEXER.message_class("GetPodScoresResponse")()
        for pod, score in ranked:
            response.scores.add(pod=pod, score=score)
        return response

    def _score(self, request: Any, _tenant: str) -> Any:
        question = score_question(request, self._containers_max)
        return message_of("ScoreResponse", self._desk.score_now(question))

    def _choose(self, request: Any, tenant: str) -> Any:
        question = choose_question(request, self._containers_max)
        return message_of("Choice", self._desk.choose_now(question, tenant))

    def _feedback(self, kind: str) -> Callable[[Any, str], Any]:
        def told(request: Any, tenant: str) -> Any:
            given = {field.name: value for field, value in request.ListFields() if field.name != "request_id"}
            if kind == "produced":
                given.setdefault("tokens", 0)  # which the wire does not state
            feedback = msgspec.convert(given, FEEDBACK[kind])
            done = self._run(self._desk.feedback(kind, request.request_id, feedback, tenant))
            return message_of("FeedbackResponse", done)

        return told

    def _receipt(self, request: Any, tenant: str) -> Any:
        salt = request.cache_salt if request.HasField("cache_salt") else None
        receipt = self._run(self._desk.receipt(request.request_id, tenant, salt))
        kind = DEFINITIONS[1].message_class("ReceiptResponse")
        return kind(receipt_json=msgspec.json.encode(receipt).decode())

    def _pods(self, _request: Any, _tenant: str) -> Any:
        return message_of("PodsResponse", self._desk.pods())


def _refusal(error: RefusedError, code: grpc.StatusCode) -> RefusedCallError:
    trailing: list[tuple[str, str]] = [(ERROR_TYPE, error.kind)]
    if error.where.isascii() and error.where.isprintable():
        trailing.append((ERROR_WHERE, error.where))
    if error.retry_after_s is not None:
        trailing.append((RETRY_AFTER, str(max(1, round(error.retry_after_s * 1000)))))
    text = f"{error.where}: {error}" if error.where else str(error)
    return RefusedCallError(code, text, tuple(trailing))
