"""A load book as a list of requests: index/native/loads.hpp and pricing.hpp without their structures.

Everything is computed from the requests that are alive whenever it is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

STRETCH_TOKENS, STRETCHES_BEFORE, STRETCH_FACTOR, FADE, TRUST_HALF_S = 1024, 4, 4.0, 0.8, 60.0
LOADS_BEFORE, LEAST_SHARE, CLEAN_SHARE, ONE_STEP_S = 3, 1 / 16, 0.125, 0.001
OPEN, SATURATED, GONE = 0, 1, 2
COUNTED = (
    "reserved",
    "unreserved_full",
    "unreserved_duplicates",
    "prefilled",
    "completed",
    "failed",
    "expired",
    "forgotten",
    "learned_prefills",
    "learned_loads",
    "unknown",
)


@dataclass(frozen=True)
class Work:
    """What a request has its worker do before its first token."""

    tokens: float
    """Those loaded count as shares of one."""
    computed: float
    loaded: tuple[int, int, int] = (0, 0, 0)
    is_sure: bool = True

    def __add__(self, other: Work) -> Work:
        a, b = self.loaded, other.loaded
        loaded = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
        return Work(
            self.tokens + other.tokens, self.computed + other.computed, loaded, self.is_sure and other.is_sure
        )


NOTHING = Work(0, 0)


@dataclass
class Sent:
    """One request on its way."""

    request_id: str
    slot: int
    prefill: int
    decode: int
    prompt: int
    cached: int
    output: int
    counts_decode: bool
    is_by_index: bool
    chosen_s: float
    mentioned_s: float
    prefilled_s: float | None = None
    computed: int = 0
    loaded: tuple[int, int, int] | None = None
    """None: not known."""

    @property
    def is_prefilling(self) -> bool:
        return self.prefill > 0 and self.prefilled_s is None

    @property
    def sums(self) -> tuple[int, int, int]:
        return (self.prefill if self.is_prefilling else 0, self.decode, 1)

    @property
    def work(self) -> Work:
        if self.loaded is None:
            return Work(self.prefill, self.prefill, is_sure=False)
        return Work(self.prefill, self.computed, self.loaded)


@dataclass
class Worker:
    """What is known of one slot."""

    pod: str
    rank: int
    front_since_s: float = 0.0
    stretch_since_s: float = 0.0
    stretch: Work = NOTHING
    is_spoiled: bool = False
    taught: str = ""
    """By the last stretch that taught anything: "prefill" or "loading"."""
    confirmed_s: float = -math.inf
    loads: dict[int, list[tuple[float, float, float]]] = field(default_factory=dict)
    """By tier: (tokens, seconds, when)"""
    stretches: list[tuple[float, float, float]] = field(default_factory=list)
    """(tokens, seconds, when)"""
    extra: dict[int, float] = field(default_factory=dict)
    """Tokens that were done in one step with a stretch, by its place in `stretches`."""
    accuracy: float = 0.5
    stay_s: float = 0.0
    turn: int = 0

    def seconds_per_token(self) -> float:
        """0: not known."""
        if len(self.stretches) < STRETCHES_BEFORE:
            return 0.0
        tokens_sum = seconds_sum = 0.0
        for place, (tokens, seconds, _) in enumerate(self.stretches[1:], 1):
            if place >= STRETCHES_BEFORE:
                known = seconds_sum / tokens_sum * tokens
                seconds = min(max(seconds, known / STRETCH_FACTOR), known * STRETCH_FACTOR)
            tokens_sum = tokens_sum * FADE + tokens + self.extra.get(place, 0)
            seconds_sum = seconds_sum * FADE + seconds
        return seconds_sum / tokens_sum

    def trust(self, now_s: float) -> float:
        if len(self.stretches) < STRETCHES_BEFORE:
            return 0.0
        return trust_of(max(self.stretches[-1][2], self.confirmed_s), now_s)

    def load_back(self, tier: int) -> float | None:
        """Seconds per token; None: not known."""
        loads = self.loads.get(tier, ())
        if len(loads) < LOADS_BEFORE:
            return None
        tokens_sum = seconds_sum = 0.0
        for tokens, seconds, _ in loads:
            tokens_sum = tokens_sum * FADE + tokens
            seconds_sum = max(seconds_sum * FADE + seconds, 0.0)
        return seconds_sum / tokens_sum

    def tier_costs(self, told: tuple[float, ...], seconds_per_token: float, now_s: float) -> list[float]:
        """`seconds_per_token`: that the worker's costs are made with; 0: they are tokens."""
        costs = list(told)
        for tier, loads in self.loads.items():
            seconds = self.load_back(tier)
            if seconds is None:
                continue
            trust = trust_of(loads[-1][2], now_s)
            measured = min(seconds / (seconds_per_token or self.seconds_per_token()), 1.0)
            costs[1 + tier] = trust * measured + (1 - trust) * costs[1 + tier]
        return costs

    def begin(self, now_s: float) -> None:
        self.stretch_since_s, self.stretch, self.is_spoiled = now_s, NOTHING, False

    def prefilled(self, work: Work, now_s: float) -> str:
        """What the stretch that ended with it has taught; empty: nothing."""
        self.stretch += work
        knows_rate = self.seconds_per_token() > 0
        enough = sum(self.stretch.loaded) >= STRETCH_TOKENS and knows_rate
        if self.stretch.tokens < STRETCH_TOKENS and not enough:
            return ""
        taught = "" if self.is_spoiled else self._learn(self.stretch, now_s - self.stretch_since_s, now_s)
        self.taught = taught or self.taught
        self.begin(now_s)
        return taught

    def _learn(self, work: Work, seconds: float, now_s: float) -> str:
        if seconds < 0:
            return ""
        known = self.seconds_per_token()
        is_clean = sum(work.loaded) <= CLEAN_SHARE * work.computed
        if work.tokens >= STRETCH_TOKENS and (is_clean or not known):
            if seconds > ONE_STEP_S:
                self.stretches.append((work.tokens, seconds, now_s))
                return "prefill"
            if self.taught == "prefill" and self.stretches[1:]:
                last = len(self.stretches) - 1
                self.extra[last] = self.extra.get(last, 0) + work.tokens
            return ""
        if not work.is_sure or (seconds <= ONE_STEP_S and self.taught != "loading"):
            return ""
        for tier, tokens in enumerate(work.loaded):
            if tokens == sum(work.loaded) and tokens >= max(STRETCH_TOKENS, work.computed):
                self._learn_load(tier, tokens, seconds - work.computed * known, known, now_s)
                return "loading"
        return ""

    def _learn_load(self, tier: int, tokens: int, seconds: float, computing: float, now_s: float) -> None:
        before = self.load_back(tier)
        if before is not None:
            seconds = min(seconds, STRETCH_FACTOR * tokens * max(before, LEAST_SHARE * computing))
        self.loads.setdefault(tier, []).append((tokens, seconds, now_s))
        self.confirmed_s = now_s


def trust_of(learned_s: float, now_s: float) -> float:
    return TRUST_HALF_S / (TRUST_HALF_S + max(now_s - learned_s, 0.0))


@dataclass(frozen=True)
class Load:
    """Of one worker, at one moment."""

    prefill: float
    decode: int
    requests: int


class LoadModel:
    """`sent` is in the order of choice."""

    def __init__(self, reservations_max: int) -> None:
        self.reservations_max = reservations_max
        self.sent: list[Sent] = []
        self.workers: dict[int, Worker] = {}
        self.remote: dict[int, dict[int, tuple[int, int, int]]] = {}
        self.counts = dict.fromkeys(COUNTED, 0)

    def find(self, request_id: str) -> Sent | None:
        return next((sent for sent in self.sent if sent.request_id == request_id), None)

    def known(self, request_id: str) -> Sent | None:
        found = self.find(request_id)
        self.counts["unknown"] += found is None
        return found

    def queue(self, slot: int) -> list[Sent]:
        return [sent for sent in self.sent if sent.slot == slot and sent.is_prefilling]

    def remote_of(self, slot: int) -> tuple[int, int, int]:
        told = [sums[slot] for sums in self.remote.values() if slot in sums]
        return (sum(t[0] for t in told), sum(t[1] for t in told), sum(t[2] for t in told))

    def own_of(self, slot: int) -> tuple[int, int, int]:
        sums = [sent.sums for sent in self.sent if sent.slot == slot]
        return (sum(s[0] for s in sums), sum(s[1] for s in sums), len(sums))

    def load(self, slot: int, now_s: float | None, configured: float = 0.0) -> Load:
        """`configured`: seconds per token, 0 not known."""
        own, others = self.own_of(slot), self.remote_of(slot)
        queue, worker = self.queue(slot), self.workers[slot]
        rate = worker.seconds_per_token() or configured
        drained = 0.0
        if queue and rate > 0 and now_s is not None:
            drained = min(max((now_s - worker.front_since_s) / rate, 0.0), queue[0].prefill)
        return Load(own[0] + others[0] - drained, own[1] + others[1], own[2] + others[2])

    def enter(self, sent: Sent) -> bool:
        if sent.slot not in self.workers:
            return False
        if self.find(sent.request_id) is not None:
            self.counts["unreserved_duplicates"] += 1
            return False
        if len(self.sent) >= self.reservations_max:
            self.counts["unreserved_full"] += 1
            return False
        worker = self.workers[sent.slot]
        if sent.is_prefilling:
            if not self.queue(sent.slot):
                worker.front_since_s = sent.chosen_s
                worker.begin(sent.chosen_s)
            worker.is_spoiled |= self.remote_of(sent.slot)[0] > 0
        self.sent.append(sent)
        self.counts["reserved"] += 1
        return True

    def prefill_done(self, request_id: str, now_s: float) -> bool:
        sent = self.known(request_id)
        if sent is None:
            return False
        sent.mentioned_s = now_s
        self._prefilled(sent, now_s)
        return True

    def _prefilled(self, sent: Sent, now_s: float) -> None:
        if sent.prefilled_s is not None:
            return
        self.counts["prefilled"] += 1
        worker = self.workers[sent.slot]
        if sent.is_prefilling:
            worker.is_spoiled |= self.remote_of(sent.slot)[0] > 0
            if self.queue(sent.slot)[0] is sent:
                worker.front_since_s = now_s
            taught = worker.prefilled(sent.work, now_s)
            self.counts["learned_prefills"] += taught == "prefill"
            self.counts["learned_loads"] += taught == "loading"
        sent.prefilled_s = now_s

    def produced(self, request_id: str, tokens: int, now_s: float) -> bool:
        sent = self.known(request_id)
        if sent is None:
            return False
        sent.mentioned_s = now_s
        if tokens > 0:
            self._prefilled(sent, now_s)
        more = max(tokens - sent.output, 0)
        sent.output += more
        sent.decode += more if sent.counts_decode else 0
        return True

    def _end(self, sent: Sent, now_s: float) -> None:
        if sent.is_prefilling:
            worker = self.workers[sent.slot]
            worker.is_spoiled = True
            if self.queue(sent.slot)[0] is sent:
                worker.front_since_s = now_s
        self.sent.remove(sent)

    def completed(self, request_id: str, now_s: float, cached_tokens: int | None) -> Sent | None:
        sent = self.known(request_id)
        if sent is None:
            return None
        self._end(sent, now_s)
        self.counts["completed"] += 1
        worker = self.workers[sent.slot]
        stay_s = max(now_s - sent.chosen_s, 0.0)
        worker.stay_s += (0.1 if worker.stay_s > 0 else 1.0) * (stay_s - worker.stay_s)
        if cached_tokens is not None and sent.is_by_index and sent.cached > 0:
            worker.accuracy += 0.1 * (min(cached_tokens, sent.cached) / sent.cached - worker.accuracy)
        return sent

    def failed(self, request_id: str, now_s: float) -> Sent | None:
        sent = self.known(request_id)
        if sent is not None:
            self._end(sent, now_s)
            self.counts["failed"] += 1
        return sent

    def expire(self, now_s: float, silence_s: float) -> set[str]:
        silent = [sent for sent in self.sent if sent.mentioned_s + silence_s <= now_s]
        for sent in silent:
            self._end(sent, now_s)
        self.counts["expired"] += len(silent)
        return {sent.request_id for sent in silent}

    def forget(self, pod: str) -> set[str]:
        gone = {slot for slot, worker in self.workers.items() if worker.pod == pod}
        ended = {sent.request_id for sent in self.sent if sent.slot in gone}
        self.sent = [sent for sent in self.sent if sent.slot not in gone]
        for slot in gone:
            del self.workers[slot]
            for sums in self.remote.values():
                sums.pop(slot, None)
        self.counts["forgotten"] += len(ended)
        return ended

    def set_remote(self, router: int, told: dict[int, tuple[int, int, int]], whole: bool) -> None:
        sums = {} if whole else self.remote.get(router, {})
        sums.update({slot: amounts for slot, amounts in told.items() if slot in self.workers})
        self.remote[router] = sums


@dataclass(frozen=True)
class Row:
    """One candidate of the model's choice."""

    state: int
    cached: float
    credit: float
    load: Load
    cost: float


@dataclass(frozen=True)
class Weights:
    """As Terms."""

    overlap: float
    prefill: float
    decode: float
    tier_costs: tuple[float, ...]
    hot_requests: int
    bonus: float


def rates(model: LoadModel, slots: list[int], configured: list[float], now_s: float) -> list[float] | None:
    """Seconds per token of each; None: not known of enough of them. Gone ones have 0."""
    live = [row for row, slot in enumerate(slots) if slot in model.workers]
    known = {row: model.workers[slots[row]].seconds_per_token() or configured[row] for row in live}
    seen = [rate for rate in known.values() if rate > 0]
    if not seen or 2 * len(seen) < len(live):
        return None
    mean = math.fsum(seen) / len(seen)
    found = [0.0] * len(slots)
    for row in live:
        worker = model.workers[slots[row]]
        trust = worker.trust(now_s)
        found[row] = trust * worker.seconds_per_token() + (1 - trust) * (configured[row] or mean)
    _even_out(found, live)
    return found


def _even_out(found: list[float], live: list[int]) -> None:
    """Rates that differ by a quarter at most are one rate, from the fastest on."""
    waiting = sorted(live, key=lambda row: found[row])
    while waiting:
        alike = [row for row in waiting if found[row] <= 1.25 * found[waiting[0]]]
        mean = sum(found[row] for row in alike) / len(alike)
        waiting = waiting[len(alike) :]
        for row in alike:
            found[row] = mean
