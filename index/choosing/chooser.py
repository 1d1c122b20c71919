"""Chooses where requests go, and follows them to their end.

prompt -> token ids -> look (keys, matches) -> decide (costs, one reservation) -> Choice, receipt
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec
import numpy as np

from kvatlas.index._native import LoadBook
from kvatlas.index.choosing.ask import Ask, AskFields, ask_of, tenant_of
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.deciding import Decided, Decider, Request
from kvatlas.index.choosing.figures import ChoosingStatistics
from kvatlas.index.choosing.looking import AsyncLooker, Look, Looker
from kvatlas.index.choosing.receipts.receipt import Receipt
from kvatlas.index.choosing.requests.flights import Flight
from kvatlas.index.choosing.requests.prompt_ids import Prompted, PromptIds
from kvatlas.index.choosing.requests.tracking import Tracking
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, NoWorkerError, OverloadedError
from kvatlas.index.keys import TokenIds
from kvatlas.index.prompts import Messages, Tokenizing
from kvatlas.index.reading import Asked
from kvatlas.index.scores import Worker

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TOKENS_MAX = 1 << 32
_NO_IDS = b""
_OPEN = 0
"""State of a candidate that takes more."""


class Ranking(NamedTuple):
    """Workers in the order in which a request had better try them; nothing is reserved."""

    request_id: str
    workers: list[Worker]
    """The cheapest first, equals by lot; those that take no more are left out."""
    choice: Choice
    """Of the first."""


class Chooser:
    """Chooses among the workers that a looker knows (`kvatlas.Atlas`, the reader of a cluster).

    Any thread may call any method; none waits for anything but `choose` and `another`, which may ask
    tokenizers and shards. Load is what this chooser has sent and what others say they have (`loads`).
    `clock_s` is for tests.
    """

    def __init__(
        self,
        looker: Looker,
        config: ChoosingConfig | None = None,
        *,
        tokenizers: Tokenizing | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tokenizers`: for prompts that come as text; without, those go to the least loaded.

        Raises ConfigError for policies that cannot be loaded.
        """
        self.config = config = config or ChoosingConfig()
        self.loads = LoadBook(config.reservations_max)
        """What every worker has to do. Other routers' shares are told to it."""
        self._looker = looker
        self._clock_s = clock_s
        self._prompts = PromptIds(tokenizers, config)
        self._decider = Decider(looker, self.loads, config)
        self._look_async = cast(AsyncLooker, looker).look_async if hasattr(looker, "look_async") else None
        self._tracking = Tracking(looker, self.loads, self._decider, config)
        self._id_prefix = secrets.token_hex(6)
        self._id_numbers = itertools.count(1)

    # Choices.

    def choose(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: Messages | None = None,
        ask: Ask | None = None,
        **asked: Unpack[AskFields],
    ) -> Choice:
        """The worker that a request should go to, counted as its load until somebody says that it ended.

        The prompt is one of `token_ids`, `prompt` (the text of a completion) and `messages` (a chat), or
        none of them; the rest is an `Ask`, or its fields. Where the prompt's token ids are not to be had
        the least loaded worker is chosen, and `Choice.reason` says why.

        Raises NoWorkerError where nobody may serve it, OverloadedError with `retry_after_s` where all who
        may are saturated, InputError for a malformed prompt.
        """
        return self._chosen(self._decide_now(ask_of(ask, asked), token_ids, prompt, messages))

    async def choose_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: Messages | None = None,
        ask: Ask | None = None,
        **asked: Unpack[AskFields],
    ) -> Choice:
        """As `choose`, for event loops: tokenizing, and asking shards that lie elsewhere, is awaited."""
        return self._chosen(await self._decide_async(ask_of(ask, asked), token_ids, prompt, messages))

    def rank(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: Messages | None = None,
        ask: Ask | None = None,
        **asked: Unpack[AskFields],
    ) -> Ranking:
        """As `choose`, for whoever tries several in turn: nothing is reserved until `routed` says where
        the request went."""
        return self._ranked(self._decide_now(_unreserved(ask, asked), token_ids, prompt, messages))

    async def rank_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: Messages | None = None,
        ask: Ask | None = None,
        **asked: Unpack[AskFields],
    ) -> Ranking:
        """As `rank`, for event loops."""
        return self._ranked(await self._decide_async(_unreserved(ask, asked), token_ids, prompt, messages))

    def another(self, request_id: str, *, without: Collection[str]) -> Choice:
        """The next best worker, of none of the pods `without`, for a request that could not be sent to
        the one chosen; its reservation moves.

        Raises InputError where no such request is in flight; NoWorkerError and OverloadedError as
        `choose`, and then it is in flight no longer.
        """
        began_ns = time.perf_counter_ns()
        now_s = self._clock_s()
        flight = self._tracking.taken_back(request_id, now_s)
        if flight is None or flight.record is None:
            raise InputError(f"request_id: expected one in flight, got {request_id!r:.200}")
        ask, case = flight.record.ask, flight.record.case
        if ask.reserve is not flight.is_routed:
            ask = msgspec.structs.replace(ask, reserve=flight.is_routed)
        look = self._looker.look(_NO_IDS, model=ask.model)
        if case is not None:
            look = look._replace(question=case.question, matches=case.matches)
        request = Request(
            ask,
            request_id,
            flight.prompt_tokens,
            look.question,
            look.matches,
            f"not {', '.join(without)}" + ("" if case is not None else "; what matched is not kept so long"),
            look.age_s,
        )
        decided = self._decider.decide(request, look, now_s, frozenset(without))
        decided.record.stages_ns = (0, 0, time.perf_counter_ns() - began_ns)
        self._tracking.began(decided, now_s)
        return self._chosen(decided)

    def _decide(self, ask: Ask, prompted: Prompted, look: Look, began_ns: int, tokenized_ns: int) -> Decided:
        looked_ns = time.perf_counter_ns()
        now_s = self._clock_s()
        self._tracking.tidy(now_s)
        request_id = ask.request_id or f"{self._id_prefix}-{next(self._id_numbers):x}"
        request = self._decider.request(ask, request_id, prompted, look)
        try:
            decided = self._decider.decide(request, look, now_s)
        except NoWorkerError:
            self._tracking.count("no_worker")
            raise
        stages_ns = (tokenized_ns - began_ns, looked_ns - tokenized_ns, time.perf_counter_ns() - looked_ns)
        decided.record.stages_ns = stages_ns
        self._tracking.began(decided, now_s)
        return decided

    def _decide_now(
        self, ask: Ask, token_ids: TokenIds | None, prompt: str | None, messages: Messages | None
    ) -> Decided:
        began_ns = time.perf_counter_ns()
        prompted = self._prompts.of(ask, token_ids, prompt, messages)
        tokenized_ns = time.perf_counter_ns()
        look = self._looker.look(prompted.token_ids, **_asked(ask, prompted))
        return self._decide(ask, prompted, look, began_ns, tokenized_ns)

    async def _decide_async(
        self, ask: Ask, token_ids: TokenIds | None, prompt: str | None, messages: Messages | None
    ) -> Decided:
        began_ns = time.perf_counter_ns()
        prompted = await self._prompts.of_async(ask, token_ids, prompt, messages)
        tokenized_ns = time.perf_counter_ns()
        asked = _asked(ask, prompted)
        if self._look_async is not None:
            look = await self._look_async(prompted.token_ids, **asked)
        else:
            look = self._looker.look(prompted.token_ids, **asked)
        return self._decide(ask, prompted, look, began_ns, tokenized_ns)

    def _chosen(self, decided: Decided) -> Choice:
        choice = decided.record.choice
        if choice is None:
            raise _overloaded(decided)
        return choice

    def _ranked(self, decided: Decided) -> Ranking:
        choice = self._chosen(decided)
        return Ranking(choice.request_id, _in_order(decided), choice)

    # What becomes of them.

    def routed(self, request_id: str, pod: str | None = None, rank: int | None = None) -> bool:
        """A request that was chosen or ranked without being reserved goes to this worker, or to the one
        chosen. From now on it counts there; said again with another worker, it counts there instead.
        False: none of this id waits for it, or for `pod`, is in flight."""
        return self._tracking.routed(request_id, pod, rank, self._clock_s())

    def adopt(
        self,
        request_id: str,
        pod: str,
        rank: int,
        *,
        model: str,
        prompt_tokens: int,
        cached_tokens: int = 0,
        output_tokens: int | None = None,
    ) -> bool:
        """Count a request that somebody else has sent to a worker. False: there is no such pod, or no
        room."""
        _check_tokens("prompt_tokens", prompt_tokens)
        _check_tokens("cached_tokens", cached_tokens)
        _check_tokens("output_tokens", output_tokens)
        if pod not in self._looker.serving_pods():
            return False
        now_s = self._clock_s()
        leg = self._decider.leg()
        leg.pod, leg.rank, leg.slot = pod, rank, self._decider.sets.slot(pod, rank)
        leg.prefill_tokens = max(prompt_tokens - cached_tokens, 0)
        leg.prompt_tokens = prompt_tokens
        leg.output_tokens = self.config.output_tokens_default if output_tokens is None else output_tokens
        return self._tracking.adopted(Flight(request_id, model, prompt_tokens, [leg], None, now_s), now_s)

    def prefill_done(self, request_id: str) -> bool:
        """The worker has computed the prompt: say it at the first token. False: not in flight."""
        return self._tracking.prefill_done(request_id, self._clock_s())

    def produced(self, request_id: str, tokens: int) -> bool:
        """So many tokens of the answer so far. False: not in flight."""
        _check_tokens("tokens", tokens)
        return self._tracking.produced(request_id, tokens, self._clock_s())

    def completed(
        self, request_id: str, *, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> bool:
        """It ended well; `cached_tokens`: what the engine says it has reused of the prompt.

        Of several with one id the oldest. False: not in flight, or no longer.
        """
        _check_tokens("cached_tokens", cached_tokens)
        _check_tokens("output_tokens", output_tokens)
        return self._tracking.completed(request_id, cached_tokens, output_tokens, self._clock_s())

    def failed(self, request_id: str, why: str = "") -> bool:
        """It ended otherwise: its load is gone, and nothing is expected to be cached of it."""
        return self._tracking.failed(request_id, why, self._clock_s())

    # What it knows.

    def receipt(self, request_id: str, *, tenant: str = "", cache_salt: str | None = None) -> Receipt:
        """The full account of a choice, for the tenant, or the holder of the salt, whose request it was.

        Raises InputError where there is none, or it is another's.
        """
        record = self._tracking.record(request_id, tenant_of(tenant, cache_salt))
        if record is None:
            raise InputError(f"request_id: expected one of your last requests, got {request_id!r:.200}")
        return record

    def receipts(self, tenant: str = "", limit: int = 20, *, cache_salt: str | None = None) -> list[Receipt]:
        """A tenant's, the newest first."""
        return self._tracking.receipts(tenant_of(tenant, cache_salt), limit)

    def statistics(self) -> ChoosingStatistics:
        """Counts since the start, and what is held now."""
        return self._tracking.statistics()

    def tidy(self) -> None:
        """End silent requests, at most once a second. Choices do it too: for routers that make none, whose
        load others count."""
        self._tracking.tidy(self._clock_s())


def _asked(ask: Ask, prompted: Prompted) -> Asked:
    return Asked(model=ask.model, lora=ask.lora, cache_salt=ask.cache_salt, features=prompted.features)


def _in_order(decided: Decided) -> list[Worker]:
    """The candidates that may be tried: first the one that the policy took, then the cheapest, equals by
    lot."""
    decision, workers = decided.verdict.decision, decided.case.candidates.workers
    costs = np.where(decision.states == _OPEN, decision.costs, np.inf)
    costs[decision.row] = -np.inf
    order = np.lexsort((np.random.random(len(costs)), costs))
    return [workers[row] for row in order[: np.count_nonzero(costs < np.inf)].tolist()]


def _unreserved(ask: Ask | None, asked: AskFields) -> Ask:
    if ask is not None and not ask.reserve and not asked:
        return ask
    asked["reserve"] = False
    return ask_of(ask, asked)


def _overloaded(decided: Decided) -> OverloadedError:
    return OverloadedError(
        f"expected one of {len(decided.case.candidates)} workers of model {decided.record.ask.model!r:.200} "
        "to take one more request, got none: all are saturated",
        retry_after_s=decided.verdict.decision.retry_after_s or None,
    )


def _check_tokens(name: str, value: int | None) -> None:
    if value is not None and not (type(value) is int and 0 <= value < _TOKENS_MAX):
        raise InputError(f"{name}: expected an int from 0 to {_TOKENS_MAX - 1}, got {value!r:.80}")
