"""Asks the pool of tokenizers: the conversation's own, or the next best where that has no room or is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from kvatlas.actors.orders import NAMESPACE
from kvatlas.index.errors import ClusterError, KvatlasError, OverloadedError
from kvatlas.tokenize.pool.affinity import ranked

_TRIED_MAX = 3
"""Tokenizers that one request is brought to: more of them would make a crowd worse."""
_LOOK_S = 0.5
"""While it waits, a client looks so often whether who it has asked is still there."""
_NOBODY_S = 0.05
_DOWN_S = 1.0
"""One that has just died is not asked for so long, unless there is nobody else."""


class _Try(NamedTuple):
    number: int
    may_spill: bool


class _GoneError(Exception):
    """Who was asked will not answer; somebody else can be asked the same."""


class PoolCalls:
    """Calls of one cluster's pool. Any thread may call it.

    What a call asks changes nothing, so it is asked again elsewhere when its tokenizer dies. Raises
    OverloadedError when the queues of all who were tried are full, ClusterError when nobody is up or
    answers in `call_s_max`, and what the method itself raises of ours.
    """

    def __init__(
        self,
        cluster: str,
        members: Callable[[], Sequence[int]],
        call_s_max: float,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`members`: numbers of those that are up."""
        self._cluster = cluster
        self._members = members
        self._call_s_max = call_s_max
        self._clock_s = clock_s
        self._handles: dict[int, Any] = {}
        self._down_until_s: dict[int, float] = {}

    def call(self, conversation: bytes, method: str, *arguments: object) -> Any:
        """What the method of the conversation's tokenizer returns."""
        deadline_s = self._clock_s() + self._call_s_max
        full: OverloadedError | None = None
        while True:
            for attempt in self._tries(conversation):
                try:
                    return self._wait(attempt.number, self._begin(attempt, method, arguments), deadline_s)
                except OverloadedError as error:
                    full = full if attempt.may_spill else error
                except _GoneError:
                    self._mark_down(attempt.number)
            self._check_left(full, deadline_s)
            time.sleep(_NOBODY_S)

    async def call_async(self, conversation: bytes, method: str, *arguments: object) -> Any:
        """The same, awaited. Cancelled, it is cancelled there too, unless it is worked on already."""
        deadline_s = self._clock_s() + self._call_s_max
        full: OverloadedError | None = None
        while True:
            for attempt in self._tries(conversation):
                try:
                    called = self._begin(attempt, method, arguments)
                    return await self._wait_async(attempt.number, called, deadline_s)
                except OverloadedError as error:
                    full = full if attempt.may_spill else error
                except _GoneError:
                    self._mark_down(attempt.number)
            self._check_left(full, deadline_s)
            await asyncio.sleep(_NOBODY_S)

    def each(self, method: str) -> dict[int, Any]:
        """What a method without arguments returns, of each that answers, by number."""
        answers = {}
        deadline_s = self._clock_s() + self._call_s_max
        for number in self._members():
            try:
                called = self._method(number, method).remote()
                answers[number] = self._wait(number, called, deadline_s)
            except (_GoneError, KvatlasError):
                continue
        return answers

    # Who is asked.

    def _tries(self, conversation: bytes) -> Iterator[_Try]:
        """The best places with what room they leave to others, then with all that they have."""
        members = self._members()
        if len(members) > 1 and self._down_until_s:
            now_s = self._clock_s()
            members = [one for one in members if self._down_until_s.get(one, 0.0) <= now_s] or members
        best = ranked(conversation, members)[:_TRIED_MAX] if len(members) > 1 else list(members)
        if len(best) > 1:
            yield from (_Try(number, True) for number in best)
        yield from (_Try(number, False) for number in best)

    def _mark_down(self, number: int) -> None:
        self._handles.pop(number, None)
        self._down_until_s[number] = self._clock_s() + _DOWN_S

    def _check_left(self, full: OverloadedError | None, deadline_s: float) -> None:
        """After all were tried: whether it is worth while to go on. `full`: a queue that has no room
        even for who has no other place to go to."""
        if full is not None:
            raise full
        if self._clock_s() > deadline_s:
            raise ClusterError(
                f"cluster {self._cluster!r}: expected a tokenizer that answers within "
                f"{self._call_s_max:g} s, found none of {list(self._members())}"
            )

    # One call.

    def _begin(self, attempt: _Try, method: str, arguments: tuple[object, ...]) -> Any:
        return self._method(attempt.number, method).remote(*arguments, may_spill=attempt.may_spill)

    def _method(self, number: int, method: str) -> Any:
        if not ray.is_initialized():  # Ray would begin a cluster of its own for whoever calls it
            raise ClusterError(f"cluster {self._cluster!r}: expected this process to be connected to Ray")
        handle = self._handles.get(number)
        if handle is None:
            try:
                handle = ray.get_actor(f"{self._cluster}/tokenizer/{number}", namespace=NAMESPACE)
            except ValueError as error:
                raise _GoneError from error
            self._handles[number] = handle
        return getattr(handle, method)

    def _wait(self, number: int, called: Any, deadline_s: float) -> Any:
        while True:
            try:
                return ray.get(called, timeout=_LOOK_S)
            except GetTimeoutError:
                self._check_there(number, deadline_s)
            except RayError as error:
                raise self._raised(error) from None

    async def _wait_async(self, number: int, called: Any, deadline_s: float) -> Any:
        answer = asyncio.wrap_future(called.future())
        try:
            while not answer.done():
                done, _ = await asyncio.wait([answer], timeout=_LOOK_S)
                if not done:
                    self._check_there(number, deadline_s)
            return answer.result()
        except RayError as error:
            raise self._raised(error) from None
        finally:
            if not answer.done():
                answer.cancel()
                ray.cancel(called)

    def _check_there(self, number: int, deadline_s: float) -> None:
        """Raises what ends the wait."""
        if self._clock_s() > deadline_s:
            raise ClusterError(
                f"cluster {self._cluster!r}: expected an answer of tokenizer {number} within "
                f"{self._call_s_max:g} s, got none"
            )
        if number not in self._members():
            raise _GoneError

    def _raised(self, error: RayError) -> Exception:
        if not isinstance(error, RayTaskError):
            return _GoneError(str(error))
        if isinstance(error.cause, KvatlasError):
            return error.cause
        return ClusterError(f"cluster {self._cluster!r}: a tokenizer has failed: {error}")
