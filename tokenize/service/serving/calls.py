"""One call, from its bytes to its answer or its refusal."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

import grpc
import msgspec
from google.protobuf.message import DecodeError

from kvatlas.index.errors import OverloadedError
from kvatlas.tokenize.pool.bounded_work import BoundedWork

Said = Iterable[Any]
"""What a client says before its request: gRPC's metadata."""
Trailing = tuple[tuple[str, str], ...]
"""What is said behind an answer."""

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """Of one call."""

    body: bytes
    trailing: Trailing = ()
    error: str = ""
    """The class of the error that it tells of."""


class RefusedCallError(Exception):
    """A call that ends with a status of gRPC's in place of an answer."""

    def __init__(self, code: grpc.StatusCode, text: str, trailing: Trailing = ()) -> None:
        super().__init__(text)
        self.code = code
        self.trailing = trailing


class Answering(Protocol):
    """Answers the calls of a server. Any thread.

    `answer` may raise OverloadedError and RefusedCallError; what else it raises is the service's own fault.
    """

    @property
    def always_says(self) -> Trailing:
        """Behind refusals, too."""
        ...

    def question(self, method: str, payload: bytes) -> Any:
        """The request's message. Raises google.protobuf.message.DecodeError for bytes that are none."""
        ...

    def is_slow(self, request: Any) -> bool:
        """Whether one of the threads that are kept for long work should answer it."""
        ...

    def answer(self, method: str, request: Any, said: Said) -> Answer: ...


class ServiceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a service has done, and does."""

    calls: dict[str, int]
    """Requests by the name of the call."""
    answered: int
    failed: int
    """Answers and statuses that tell of an error of the request or the model."""
    refused: int
    """For want of room."""
    late: int
    """Given up: the client's deadline, its going, or `answer_s_max`."""
    malformed: int
    """Requests that are no such message."""
    broken: int
    """Requests on which the service itself failed; the log has how."""
    running: int
    waiting: int
    waiting_bytes: int
    """Of the requests that run or wait."""


class Calls:
    """Lets calls in, has them answered, counts them. Any thread."""

    def __init__(
        self, answers: Answering, work: BoundedWork, answer_s_max: float, methods: Iterable[str]
    ) -> None:
        self._answers = answers
        self._methods = tuple(methods)
        self._work = work
        self._answer_s_max = answer_s_max
        self._lock = threading.Lock()
        self._open = 0  # calls whose answer has not left yet
        self._ended = threading.Condition(self._lock)
        self._counts: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def handle(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """The answer's bytes; aborts the call where there is none."""
        self._begin(method, context)
        context.set_trailing_metadata(self._answers.always_says)
        try:
            answer = self._answer(method, request, context)
        except OverloadedError as error:
            self._end(context, "refused", grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except RefusedCallError as error:
            context.set_trailing_metadata((*self._answers.always_says, *error.trailing))
            self._end(context, "failed", error.code, str(error))
        except DecodeError as error:
            text = f"{method}: expected one of its requests, got {len(request)} other bytes: {error}"
            self._end(context, "malformed", grpc.StatusCode.INVALID_ARGUMENT, text)
        except Exception as error:  # one request must not end the service of all
            _log.exception("a %s request has failed", method)
            text = f"expected an answer, the service failed with {type(error).__name__}"
            self._end(context, "broken", grpc.StatusCode.INTERNAL, text)
        if answer is None:
            self._end(context, "late", grpc.StatusCode.DEADLINE_EXCEEDED, "expected an answer in time")
        self._count("failed" if answer.error else "answered")
        context.set_trailing_metadata(answer.trailing)
        return answer.body

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Until the answers of all calls have left. Returns whether they have."""
        with self._ended:
            return self._ended.wait_for(lambda: not self._open, timeout_s)

    def statistics(self) -> ServiceStatistics:
        names = ("answered", "failed", "refused", "late", "malformed", "broken")
        with self._lock:
            counts = {name: self._counts[name] for name in names}
            calls = {name: self._calls[name] for name in self._methods}
        work = self._work.statistics()
        return ServiceStatistics(
            calls=calls, **counts, running=work.busy, waiting=work.waiting, waiting_bytes=work.bytes
        )

    def _begin(self, method: str, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._calls[method] += 1
            self._open += 1
        if not context.add_callback(self._has_ended):
            self._has_ended()

    def _has_ended(self) -> None:
        with self._ended:
            self._open -= 1
            self._ended.notify_all()

    def _answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> Answer | None:
        """None: there was none before the deadline, or nobody wants it any more."""
        asked = self._answers.question(method, request)
        work = partial(self._answers.answer, method, asked, tuple(context.invocation_metadata() or ()))
        future = self._work.submit(work, len(request), is_slow=self._answers.is_slow(asked))
        woken = threading.Event()
        future.add_done_callback(lambda _future: woken.set())
        if context.add_callback(woken.set):  # when the call has ended, however it did
            woken.wait(self._time_left_s(context))
        future.cancel()  # nothing is done for who has gone; what is begun is not interrupted
        return future.result() if future.done() and not future.cancelled() else None

    def _time_left_s(self, context: grpc.ServicerContext) -> float:
        left_s: float | None = context.time_remaining()  # None: the client has set no deadline
        return self._answer_s_max if left_s is None else min(left_s, self._answer_s_max)

    def _end(self, context: grpc.ServicerContext, name: str, code: grpc.StatusCode, text: str) -> NoReturn:
        self._count(name)
        context.abort(code, text)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1
