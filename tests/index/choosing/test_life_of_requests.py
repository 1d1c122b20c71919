"""Random lives of requests: what every worker has to do is the sum of what is alive, at every step."""

from __future__ import annotations

from collections import Counter, defaultdict

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import NoWorkerError
from tests.index.choosing.small_fleet import SmallFleet, prompt
from tests.profiles import examples

PODS = ("a", "b", "c")
IDS = st.sampled_from(["x", "y", "z"])
SILENCE_S = 100.0
BOUND = 6


class Alive:
    """A request as this test knows it: what it should count for, and where."""

    def __init__(self, choice: Choice, expected: int, mentioned_s: float, routed: bool) -> None:
        self.pod = choice.pod
        self.prefill = choice.prompt_tokens - choice.cached_tokens
        self.held = choice.prompt_tokens + expected
        self.prompt = choice.prompt_tokens
        self.expected = expected
        self.credits: dict[str, int] = {}
        """Tokens that each candidate was credited with."""
        self.has_prefilled = False
        self.is_routed = routed
        self.is_reserved = choice.is_reserved
        self.mentioned_s = mentioned_s


class LifeOfRequests(RuleBasedStateMachine):
    """Three pods without events, so that predictions come from what was sent alone."""

    @initialize()
    def begin(self) -> None:
        self.fleet = SmallFleet(PODS, ChoosingConfig(reservation_s=SILENCE_S, reservations_max=BOUND))
        self.alive: defaultdict[str, list[Alive]] = defaultdict(list)

    @property
    def n_alive(self) -> int:
        return sum(len(same) for same in self.alive.values())

    def oldest(self, name: str) -> Alive | None:
        return self.alive[name][0] if self.alive[name] else None

    def mention(self, request: Alive) -> None:
        request.mentioned_s = self.fleet.clock.now_s

    def tidied(self) -> None:
        """What a choice does first: the silent ones end."""
        now_s = self.fleet.clock.now_s
        for same in self.alive.values():
            same[:] = [request for request in same if request.mentioned_s + SILENCE_S > now_s]

    @rule(name=IDS, blocks=st.integers(1, 40), family=st.integers(0, 3), expected=st.integers(0, 500))
    def choose(self, name: str, blocks: int, family: int, expected: int) -> None:
        self.tidied()
        is_full = self.n_alive >= BOUND
        choice = self.fleet.chooser.choose(
            prompt(blocks, family), model="m", request_id=name, output_tokens=expected
        )
        assert choice.is_reserved == (not is_full)
        self.add(name, Alive(choice, expected, self.fleet.clock.now_s, routed=True))

    @rule(name=IDS, blocks=st.integers(1, 40))
    def rank(self, name: str, blocks: int) -> None:
        self.tidied()
        ranking = self.fleet.chooser.rank(prompt(blocks), model="m", request_id=name, output_tokens=10)
        assert sorted(pod for pod, _ in ranking.workers) == list(PODS)
        self.add(name, Alive(ranking.choice, 10, self.fleet.clock.now_s, routed=False))

    def add(self, name: str, request: Alive) -> None:
        if self.n_alive >= BOUND:
            return
        waiting = [other for other in self.alive[name] if not other.is_routed]
        for other in waiting[:1]:
            self.alive[name].remove(other)
        self.alive[name].append(request)
        receipt = self.fleet.receipt(name)
        request.credits = {account.pod: int(account.credited_tokens) for account in receipt.candidates}

    @rule(name=IDS)
    def route(self, name: str) -> None:
        waiting = [request for request in self.alive[name] if not request.is_routed]
        assert self.fleet.chooser.routed(name) == bool(waiting)
        for request in waiting:
            request.is_routed = request.is_reserved = True
            self.mention(request)

    @rule(name=IDS, pod=st.sampled_from(PODS))
    def move(self, name: str, pod: str) -> None:
        if len(self.alive[name]) != 1 or not self.alive[name][0].is_routed:
            return
        request = self.alive[name][0]
        assert self.fleet.chooser.routed(name, pod)
        self.mention(request)
        if pod == request.pod:
            return
        request.pod, request.has_prefilled, request.is_reserved = pod, False, True
        request.prefill = request.prompt - request.credits.get(pod, 0)
        request.held = request.prompt + request.expected

    @rule(name=IDS)
    def prefill_done(self, name: str) -> None:
        waiting = [request for request in self.alive[name] if not request.has_prefilled]
        assert self.fleet.chooser.prefill_done(name) == bool(waiting)
        for request in waiting[:1]:
            request.has_prefilled = True
            # One that was not routed yet was told too early: it counts in full once it is.
            request.prefill *= not request.is_reserved
            self.mention(request)

    @rule(name=IDS, tokens=st.integers(1, 1000))
    def produced(self, name: str, tokens: int) -> None:
        request = self.oldest(name)
        assert self.fleet.chooser.produced(name, tokens) == (request is not None)
        if request is not None:
            self.mention(request)
            request.has_prefilled = True
            if request.is_reserved:
                request.prefill = 0
                request.held = max(request.held, request.prompt + tokens)

    @rule(name=IDS, well=st.booleans())
    def end(self, name: str, well: bool) -> None:
        chooser, request = self.fleet.chooser, self.oldest(name)
        ended = chooser.completed(name, output_tokens=3) if well else chooser.failed(name)
        assert ended == (request is not None)
        if request is not None:
            self.alive[name].remove(request)

    @precondition(lambda self: self.n_alive < BOUND)
    @rule(name=IDS, without=st.frozensets(st.sampled_from(PODS)))
    def another(self, name: str, without: frozenset[str]) -> None:
        request = self.oldest(name)
        if request is None:
            return
        self.alive[name].remove(request)
        try:
            choice = self.fleet.chooser.another(name, without=without)
        except NoWorkerError:
            assert without == set(PODS)
            return
        assert choice.pod not in without and choice.prompt_tokens == request.prompt
        moved = Alive(choice, request.expected, self.fleet.clock.now_s, routed=request.is_routed)
        self.add(name, moved)

    @rule(seconds=st.sampled_from([0.5, 30.0, 80.0]))
    def wait(self, seconds: float) -> None:
        self.fleet.clock.now_s += seconds

    @invariant()
    def every_worker_has_to_do_what_is_alive(self) -> None:
        if not hasattr(self, "fleet"):
            return
        loads: dict[str, Counter[str]] = {pod: Counter() for pod in PODS}
        for same in self.alive.values():
            for request in same:
                if request.is_reserved:
                    loads[request.pod]["prefill"] += request.prefill
                    loads[request.pod]["held"] += request.held
                    loads[request.pod]["requests"] += 1
        for pod, load in loads.items():
            assert self.fleet.load(pod) == (load["prefill"], load["held"], load["requests"])
        assert self.fleet.chooser.statistics().in_flight == self.n_alive

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.__exit__()


TestLifeOfRequests = LifeOfRequests.TestCase
TestLifeOfRequests.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
