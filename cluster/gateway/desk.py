"""What callers ask, put to the cluster; what it says, as answers. Knows no HTTP and no gRPC."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from kvatlas.cluster.gateway.backend import Backend
from kvatlas.cluster.gateway.feedback import FEEDBACK, Feedback
from kvatlas.cluster.gateway.web.answers import Done, PodsAnswer, ScoreAnswer, pods_answer, score_answer
from kvatlas.cluster.gateway.web.questions import ChooseQuestion, ExplainQuestion, Given, ScoreQuestion
from kvatlas.cluster.gateway.web.refusals import RefusedError
from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.receipts.receipt import Receipt
from kvatlas.index.errors import InputError
from kvatlas.index.scores import Explanation

Elsewhere = Callable[[str, str, bytes], Awaitable[bytes | None]]
"""Asks the gateway's other replicas: what (`receipt`, or a kind of feedback), request id, arguments."""

Told = TypeVar("Told", Choice, Receipt)


class Desk:
    """One gateway's questions and answers, for any transport.

    Request ids of tenants are apart: to the chooser an id is the tenant's name, which has no space, a
    space, and the caller's id. So nobody ends, or learns of, another's request.
    """

    def __init__(self, backend: Backend, elsewhere: Elsewhere | None = None) -> None:
        """`elsewhere`: where this process does not know a request, and there are others."""
        self.backend = backend
        self._elsewhere = elsewhere

    # For event loops.

    async def score(self, question: ScoreQuestion) -> ScoreAnswer:
        scores = await self.backend.score_async(
            **_prompt(question), **_asked(question), strategy=question.strategy
        )
        return score_answer(question.model, scores)

    async def explain(self, question: ExplainQuestion) -> Explanation:
        # In a thread: it makes an object for each block, which may take many milliseconds.
        ask = partial(self.backend.explain, **_prompt(question), **_asked(question))
        return await asyncio.get_running_loop().run_in_executor(None, ask)

    async def choose(self, question: ChooseQuestion, tenant: str) -> Choice:
        choice = await self.backend.choose_async(**_prompt(question), ask=self._ask(question, tenant))
        return _shown(choice, tenant)

    async def feedback(self, kind: str, request_id: str, told: Feedback, tenant: str) -> Done:
        """Raises RefusedError, 404, where nobody knows the request."""
        inner_id = _inner_id(request_id, tenant)
        if not self.take(kind, inner_id, told):
            arguments = msgspec.msgpack.encode(told)
            if self._elsewhere is None or await self._elsewhere(kind, inner_id, arguments) is None:
                raise _unknown(request_id)
        return Done(request_id=request_id)

    async def receipt(self, request_id: str, tenant: str, cache_salt: str | None) -> Receipt:
        """Raises RefusedError, 404, where nobody knows the request, or it is another's."""
        inner_id = _inner_id(request_id, tenant)
        found = self.find(inner_id, tenant, cache_salt)
        if found is None and self._elsewhere is not None:
            arguments = msgspec.msgpack.encode((tenant, cache_salt))
            told = await self._elsewhere("receipt", inner_id, arguments)
            found = None if told is None else msgspec.msgpack.decode(told, type=Receipt)
        if found is None:
            raise _unknown(request_id)
        return _shown(found, tenant)

    def pods(self) -> PodsAnswer:
        return pods_answer(self.backend.serving_pods(), self.backend.pods())

    # For threads.

    def score_now(self, question: ScoreQuestion) -> ScoreAnswer:
        scores = self.backend.score(**_prompt(question), **_asked(question), strategy=question.strategy)
        return score_answer(question.model, scores)

    def choose_now(self, question: ChooseQuestion, tenant: str) -> Choice:
        ask = self._ask(question, tenant)
        return _shown(self.backend.choose(**_prompt(question), ask=ask), tenant)

    # Of this process alone: what other replicas ask, too. Ids are inner ones.

    def answer_elsewhere(self, kind: str, inner_id: str, arguments: bytes) -> bytes | None:
        """None: not known here."""
        if kind == "receipt":
            tenant, cache_salt = msgspec.msgpack.decode(arguments, type=tuple[str, str | None])
            found = self.find(inner_id, tenant, cache_salt)
            return None if found is None else msgspec.msgpack.encode(found)
        told = msgspec.msgpack.decode(arguments, type=FEEDBACK[kind])
        return b"" if self.take(kind, inner_id, told) else None

    def take(self, kind: str, inner_id: str, told: Feedback) -> bool:
        arguments = {name: getattr(told, name) for name in told.__struct_fields__}
        taken: bool = getattr(self.backend, kind)(inner_id, **arguments)
        return taken

    def find(self, inner_id: str, tenant: str, cache_salt: str | None) -> Receipt | None:
        try:
            return self.backend.receipt(inner_id, tenant=tenant, cache_salt=cache_salt)
        except InputError:
            return None

    def _ask(self, question: ChooseQuestion, tenant: str) -> Ask:
        asked = _asked(question)
        if question.pods is not None:  # requests are remembered, and names that nobody has may be any number
            asked["pods"] = frozenset(question.pods) & self.backend.serving_pods().keys()
        request_id = question.request_id
        if tenant:
            request_id = _inner_id(request_id or uuid.uuid4().hex, tenant)
        return Ask(
            **asked,
            request_id=request_id,
            tenant=tenant,
            session=question.session,
            labels=question.labels,
            near=question.near,
            role=question.role,
            output_tokens=question.output_tokens,
            reserve=question.reserve,
        )


def _inner_id(request_id: str, tenant: str) -> str:
    return f"{tenant} {request_id}" if tenant else request_id


def _shown(told: Told, tenant: str) -> Told:
    """A choice or receipt, with the caller's own id."""
    if not tenant:
        return told
    changes: dict[str, Any] = {"request_id": told.request_id.removeprefix(f"{tenant} ")}
    if told.decode is not None:
        changes["decode"] = _shown(told.decode, tenant)
    return msgspec.structs.replace(told, **changes)


def _unknown(request_id: str) -> RefusedError:
    return RefusedError(
        404,
        "unknown_request",
        f"expected a request that was chosen for here and is remembered, got {request_id!r:.200}",
        where="request_id",
    )


def _prompt(question: Given) -> dict[str, Any]:
    """Raises InputError unless it is in one form."""
    return {
        "token_ids": question.token_ids_given(),
        "prompt": question.text(),
        "messages": question.chat(),
    }


def _asked(question: Given) -> dict[str, Any]:
    names = ("model", "lora", "cache_salt", "features", "pods")
    return {name: getattr(question, name) for name in names}
