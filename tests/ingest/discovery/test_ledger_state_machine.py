"""What always holds of the ledger, whatever watches say in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvatlas.ingest.discovery.config import DiscoveryLimits
from kvatlas.ingest.discovery.ledger import PodLedger
from kvatlas.ingest.discovery.pods import DiscoveredPod
from tests.ingest.discovery.told_pods import found
from tests.profiles import examples

WATCHES = 2
LIMITS = DiscoveryLimits(
    grace_s=5, flap_admissions=3, flap_window_s=40, hold_s_min=4, hold_s_max=16, pods_max=5
)
NAMES = st.sampled_from("abcdefg")
PORTS = st.integers(1, 4)


def pod_of(name: str, port: int) -> DiscoveredPod:
    return found(name, f"tcp://h:{port}")


PODS = st.builds(pod_of, NAMES, PORTS)


class LedgerStories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.ledger = PodLedger(LIMITS, WATCHES, lambda: self.now_s)
        self.watches: list[dict[str, DiscoveredPod]] = [{} for _ in range(WATCHES)]
        self.left_s: dict[str, float] = {}
        self.before = dict(self.ledger.following)
        self.version = self.ledger.version

    def seen(self) -> dict[str, DiscoveredPod]:
        """As the first watch that names it has it."""
        return {name: pod for table in reversed(self.watches) for name, pod in table.items()}

    @rule(watch=st.integers(0, WATCHES - 1), pods=st.lists(PODS, max_size=8))
    def replace(self, watch: int, pods: list[DiscoveredPod]) -> None:
        table = dict[str, DiscoveredPod]()
        for pod in pods:
            if pod.pod not in table and len(table) < LIMITS.pods_max:
                table[pod.pod] = pod
        self.watches[watch] = table
        self.ledger.replace(watch, pods)
        self.note()

    @rule(watch=st.integers(0, WATCHES - 1), pod=PODS)
    def change(self, watch: int, pod: DiscoveredPod) -> None:
        table = self.watches[watch]
        if pod.pod in table or len(table) < LIMITS.pods_max:
            table[pod.pod] = pod
        self.ledger.change(watch, [pod])
        self.note()

    @rule(watch=st.integers(0, WATCHES - 1), name=NAMES)
    def leave(self, watch: int, name: str) -> None:
        self.watches[watch].pop(name, None)
        self.ledger.change(watch, [], [name])
        self.note()

    @rule(seconds=st.floats(0, 50))
    def time_passes(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while (next_s := self.ledger.next_s()) is not None and next_s <= end_s:
            assert next_s >= self.now_s
            self.now_s = next_s
            self.ledger.tick()
            following = self.ledger.next_s()
            assert following is None or following > self.now_s
            self.note()
        self.now_s = end_s

    @precondition(lambda self: self.seen())
    @rule()
    def after_quiet_all_that_can_be_followed_is(self) -> None:
        self.time_passes(LIMITS.grace_s + LIMITS.hold_s_max + 1)
        seen, following = self.seen(), self.ledger.following
        assert set(following) <= set(seen)
        owners = {pod.sources[0].endpoint for pod in following.values()}
        if len(following) < LIMITS.pods_max:
            assert owners == {pod.sources[0].endpoint for pod in seen.values()}
        assert {state.state for state in self.ledger.states()} <= {"following", "refused"}

    def note(self) -> None:
        seen = self.seen()
        for name in self.ledger.following:
            if name not in seen:
                self.left_s.setdefault(name, self.now_s)
        for name in list(self.left_s):
            if name in seen or name not in self.ledger.following:
                del self.left_s[name]
        assert (self.ledger.version != self.version) == (self.ledger.following != self.before)
        self.version, self.before = self.ledger.version, dict(self.ledger.following)

    @invariant()
    def what_is_followed_is_where_it_is_seen(self) -> None:
        seen = self.seen()
        for name, pod in self.ledger.following.items():
            assert pod.feeds_as(seen.get(name, pod))

    @invariant()
    def no_two_have_one_endpoint(self) -> None:
        endpoints = [pod.sources[0].endpoint for pod in self.ledger.following.values()]
        assert len(set(endpoints)) == len(endpoints)
        assert len(endpoints) <= LIMITS.pods_max

    @invariant()
    def who_left_is_not_followed_beyond_its_grace(self) -> None:
        for left_s in self.left_s.values():
            assert self.now_s - left_s <= LIMITS.grace_s + 1e-6

    @invariant()
    def states_name_all_that_are_seen_or_followed(self) -> None:
        states = {state.pod: state.state for state in self.ledger.states()}
        assert set(states) == set(self.seen()) | set(self.ledger.following)
        for name, state in states.items():
            assert (state in ("following", "leaving")) == (name in self.ledger.following)
            assert (state == "leaving") == (name in self.left_s)


LedgerStories.TestCase.settings = settings(max_examples=examples(200), stateful_step_count=40)
TestLedgerStories = pytest.mark.slow(LedgerStories.TestCase)
