"""The native book says what a list of requests says, after any calls."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import pytest

from kvatlas.index._native import Candidates, LoadBook
from tests.index.choosing.native.cases import Case, whole
from tests.models.loads import COUNTED, LoadModel, Sent, Worker

pytestmark = pytest.mark.native

PODS, RANKS = 4, 2


class Pair:
    """Native and model, told and asked the same."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        most = rng.choice([0, 3, 30, 1000])
        self.native, self.model = LoadBook(most), LoadModel(most)
        self.now_s = rng.choice([0.0, 1e6])
        self.known_rates = rng.choice([0.0, 0.5, 1.0])
        """Share of candidates whose rate is configured."""
        self.is_calm = rng.random() < 0.5
        """One pod, and nearly all requests say when their prefill is done: its rate is learned."""
        self.load_tier = rng.choice([None, 1, 2, 3])
        """From which many prompts are loaded: its rate is learned where it is calm."""
        self.named = 0
        self.pods: dict[str, list[int]] = {}
        for pod in range(1 if self.is_calm else PODS):
            self.join(f"pod{pod}")

    def join(self, pod: str) -> None:
        self.pods[pod] = [self.native.slot(pod, rank) for rank in range(RANKS)]
        for rank, slot in enumerate(self.pods[pod]):
            self.model.workers.setdefault(slot, Worker(pod, rank))

    def slots(self) -> list[int]:
        """Some of those that there are, and perhaps one that is nobody's."""
        everyone = [slot for slots in self.pods.values() for slot in slots]
        chosen = self.rng.sample(everyone, self.rng.randint(0, len(everyone)))
        return chosen + [60_000] * (self.rng.random() < 0.1)

    def name(self) -> str:
        if self.model.sent and self.rng.random() < 0.9:
            return self.rng.choice(self.model.sent).request_id
        return "nobody" if self.rng.random() < 0.5 else self.new_name()

    def new_name(self) -> str:
        self.named += 1
        return f"request{self.named}"

    def step(self) -> None:
        self.now_s += self.rng.choice([0, 0, 0.01, 0.5, 0.5, 3, -0.001])
        steps: list[tuple[Callable[[], None], int]] = [
            (self.choose, 30),
            (self.reserve, 5),
            (self.prefill_done, 20),
            (self.produced, 8),
            (self.completed, 14),
            (self.failed, 3),
            (self.expire, 2),
            (self.set_remote, 3),
            (self.drop_remote, 1),
            (self.churn, 1),
            (self.compare, 3),
        ]
        rough = (self.failed, self.expire, self.set_remote, self.churn)
        weights = [weight / 50 if self.is_calm and step in rough else weight for step, weight in steps]
        self.rng.choices([step for step, _ in steps], weights)[0]()

    def choose(self) -> None:
        rng, slots = self.rng, self.slots()
        load_tier = rng.choice([None, self.load_tier]) if self.is_calm else None
        case = Case(rng, slots, self.known_rates, load_tier)
        name = self.name() if rng.random() < 0.1 else self.new_name()
        reserve, seed = rng.random() < 0.8, rng.getrandbits(63)
        expected = case.expect(self.model, self.now_s)
        decision = case.ask(self.native, self.now_s, name, reserve, seed)
        row = case.check(decision, expected)
        if row is None or not reserve:
            assert not decision.is_reserved
            return
        credit, cached, index = expected.credits[row], expected.cached[row], expected.index[row]
        sent = Sent(
            name,
            slots[row],
            max(whole(case.prompt - credit), 0) if case.reserves_prefill else 0,
            (case.prompt + case.output) if case.reserves_decode else 0,
            case.prompt,
            whole(cached),
            case.output,
            case.reserves_decode,
            whole(cached) == whole(index),
            self.now_s,
            self.now_s,
            computed=case.prompt - whole(index),
            loaded=expected.loaded[row],
        )
        assert decision.is_reserved == self.model.enter(sent)

    def reserve(self) -> None:
        rng, name = self.rng, self.name() if self.rng.random() < 0.3 else self.new_name()
        slot = rng.choice([*self.slots(), 60_000])
        prefill, prompt, output = rng.choice([0, 5, 2000]), rng.randrange(3000), rng.randrange(50)
        loaded = rng.choice([None, None, (0, 0, 0), (5000, 0, 0), (0, 5000, 100)])
        sent = Sent(
            name, slot, prefill, prompt + output, prompt, 9, output, True, True, self.now_s, self.now_s,
            computed=max(prompt - 9, 0), loaded=loaded,
        )  # fmt: skip
        done = self.native.reserve(
            slot,
            request_id=name,
            prefill_tokens=prefill,
            prompt_tokens=prompt,
            output_tokens=output,
            cached_tokens=9,
            loaded_tokens=loaded,
            now_s=self.now_s,
        )
        assert done == self.model.enter(sent)

    def prefill_done(self) -> None:
        self.prefill_done_of(self.name())

    def prefill_done_of(self, name: str) -> None:
        assert self.native.prefill_done(name, self.now_s) == self.model.prefill_done(name, self.now_s)

    def produced(self) -> None:
        name, tokens = self.name(), self.rng.choice([0, 1, 40, 500])
        assert self.native.produced(name, tokens, self.now_s) == self.model.produced(name, tokens, self.now_s)

    def completed(self) -> None:
        name, cached = self.name(), self.rng.choice([None, 0, 300, 10_000])
        if self.is_calm:
            self.prefill_done_of(name)
        ended = self.native.completed(name, self.now_s, cached_tokens=cached)
        sent = self.model.completed(name, self.now_s, cached)
        assert (ended is None) == (sent is None)
        if ended is not None and sent is not None:
            assert (ended.request_id, ended.slot, ended.prompt_tokens) == (name, sent.slot, sent.prompt)
            assert (ended.prefill_tokens, ended.cached_tokens) == (sent.prefill, sent.cached)
            assert ended.seconds == max(self.now_s - sent.chosen_s, 0)
            assert (ended.prefill_seconds is None) == (sent.prefilled_s is None)

    def failed(self) -> None:
        name = self.name()
        assert (self.native.failed(name, self.now_s) is None) == (self.model.failed(name, self.now_s) is None)

    def expire(self) -> None:
        # Time goes back a little now and then, and silence is judged in the order of mention: to its end.
        silence_s = self.rng.choice([0, 1, 20])
        ended = self.native.expire(self.now_s + 0.1, silence_s)
        assert set(ended) == self.model.expire(self.now_s + 0.1, silence_s) and len(ended) == len(set(ended))

    def set_remote(self) -> None:
        rng, slots = self.rng, self.slots()
        told = {slot: (rng.choice([0, 700]), rng.randrange(900), rng.randrange(4)) for slot in slots}
        router, whole = rng.randrange(3), rng.random() < 0.5
        columns = list(zip(*told.values(), strict=True)) if told else [(), (), ()]
        self.native.set_remote(
            router,
            np.array(slots, np.uint32),
            np.array(columns[0], np.float64),
            np.array(columns[1], np.float64),
            np.array(columns[2], np.uint32),
            whole,
        )
        self.model.set_remote(router, told, whole)

    def drop_remote(self) -> None:
        router = self.rng.randrange(4)
        self.native.drop_remote(router)
        self.model.remote.pop(router, None)

    def churn(self) -> None:
        pod = self.rng.choice(list(self.pods))
        assert set(self.native.forget(pod)) == self.model.forget(pod)
        if self.rng.random() < 0.5:
            del self.pods[pod]
            pod = f"pod{self.rng.randrange(1000)}"
        self.join(pod)

    def compare(self) -> None:
        slots = list(self.model.workers)
        candidates = Candidates(
            np.arange(len(slots), dtype=np.uint32),
            np.array(slots, np.uint32),
            np.ones(len(slots), np.float32),
        )
        found = self.native.snapshot(candidates, self.now_s)
        for row, slot in enumerate(slots):
            load, worker = self.model.load(slot, self.now_s), self.model.workers[slot]
            assert found.prefill_tokens[row] == pytest.approx(load.prefill, abs=1e-6)
            assert (found.decode_tokens[row], found.requests[row]) == (load.decode, load.requests)
            assert found.accuracy[row] == pytest.approx(worker.accuracy)
            rate = worker.seconds_per_token()
            assert found.prefill_rate[row] == pytest.approx(1 / rate if rate else 0)
            for tier in range(3):
                back = worker.load_back(tier)
                expected = 0 if back is None else 1 / back if back > 0 else np.inf
                assert found.load_back_rates[row, tier] == pytest.approx(expected)
        own = {
            slot: tuple(sums) for slot, *sums in zip(*(c.tolist() for c in self.native.own()), strict=True)
        }
        assert own == {slot: sums for slot in slots if any(sums := self.model.own_of(slot))}
        statistics = self.native.statistics()
        assert {name: statistics[name] for name in COUNTED} == {n: self.model.counts[n] for n in COUNTED}
        assert (statistics["reservations"], statistics["slots"]) == (len(self.model.sent), len(slots))


def play(seed: int, steps: int) -> None:
    pair = Pair(random.Random(seed))
    for _ in range(steps):
        pair.step()
    pair.compare()


@pytest.mark.parametrize("seed", range(30))
def test_any_calls_leave_what_the_model_has(seed: int) -> None:
    play(seed, 300)


@pytest.mark.fuzz
def test_many_more_calls_leave_what_the_model_has(fuzz_seconds: float) -> None:
    end_s, seed = time.monotonic() + fuzz_seconds, random.SystemRandom().getrandbits(48)
    while time.monotonic() < end_s:
        seed += 1
        try:
            play(seed, 400)
        except AssertionError:
            raise AssertionError(f"seed {seed}") from None
