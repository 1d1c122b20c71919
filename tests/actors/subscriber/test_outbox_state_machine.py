"""Whatever is lost, repeated, delayed or restarted: after quiet every replica holds what the mirrors hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.actors.orders import ClusterView
from kvatlas.actors.subscriber.outbox import Outbox
from kvatlas.actors.subscriber.replica_feed import FeedLimits
from kvatlas.actors.subscriber.settings import OutboxSettings
from kvatlas.index._native import Table, route
from kvatlas.ingest.fleet_mirror import Content, FleetMirror
from tests.actors.subscriber.fleet_of_servers import BLOCK_SIZE, FleetOfServers
from tests.actors.subscriber.shards_by_mail import Plan, Post, held
from tests.profiles import examples

SESSION = 7


class TalkingMirror:
    """A fleet's mirror whose servers go on talking while its content is read."""

    def __init__(self, mirror: FleetMirror) -> None:
        self._mirror = mirror
        self.lock = mirror.lock
        self.changed = mirror.changed
        self.take = mirror.take
        self.part = mirror.part
        self.waiting: deque[Callable[[], None]] = deque()
        """What servers will say, one before each part of a content."""

    @property
    def lost(self) -> int:
        return self._mirror.lost

    @property
    def part_version(self) -> int:
        return self._mirror.part_version

    def content(self) -> Iterator[Content]:
        content = self._mirror.content()
        while True:
            if self.waiting:
                self.waiting.popleft()()
            part = next(content, None)
            if part is None:
                return
            yield part


SMALL = FeedLimits(gathered_bytes_max=6_000, message_bytes_max=900, retry_s_min=1.0, retry_s_max=4.0)
ROOMY = FeedLimits(retry_s_min=1.0, retry_s_max=4.0)

servers = st.integers(0, 2)
prompts = st.lists(st.integers(0, 3), min_size=1, max_size=6)
any_one = st.integers(0, 99)


class OutboxBesideMirrors(RuleBasedStateMachine):
    """One outbox, layouts of several shards and replicas, a post that does what it likes."""

    @initialize(
        shards=st.integers(1, 5),
        limits=st.sampled_from([SMALL, ROOMY]),
        gathered=st.sampled_from([2_000, 1 << 20]),
    )
    def start(self, shards: int, limits: FeedLimits, gathered: int) -> None:
        self.now_s = 0.0
        self.post = Post()
        self.fleet = FleetOfServers(gathered_bytes_max=gathered)
        self.plans: list[Plan] = []
        self.n_layouts = 0
        self.version = 0
        self.mirror = TalkingMirror(self.fleet.mirror)
        self.outbox = Outbox(
            self.mirror,
            SESSION,
            self.post.open_link,
            OutboxSettings(feed=limits),
            clock_s=lambda: self.now_s,
        )
        self.add_layout(shards, replicas=1)

    def teardown(self) -> None:
        if not hasattr(self, "post"):
            return
        try:
            self.quiet()
            self.compare()
        finally:
            self.outbox.stop()
            self.fleet.mirror.close()
            self.post.close()

    # What servers do.

    @rule(server=servers, prompt=prompts, long=st.booleans(), output=st.integers(0, 9))
    def serve(self, server: int, prompt: list[int], long: bool, output: int) -> None:
        self.serve_now(server, prompt, long, output)

    def serve_now(self, server: int, prompt: list[int], long: bool, output: int) -> None:
        tokens = [choice * 1000 + at for choice in prompt for at in range(BLOCK_SIZE)]
        if long and server != 1:
            tokens += [7] * 150 * BLOCK_SIZE  # of more than one segment
        self.fleet.serve(server, tokens, output)

    @rule(server=servers, prompts=st.lists(prompts, min_size=1, max_size=4))
    def talk_during_loads(self, server: int, prompts: list[list[int]]) -> None:
        for prompt in prompts:
            self.mirror.waiting.append(partial(self.serve_now, server, prompt, False, 3))

    @rule(server=servers)
    def replace_during_load(self, server: int) -> None:
        self.mirror.waiting.append(partial(self.fleet.replace, server))

    @rule(server=servers)
    def clear(self, server: int) -> None:
        self.fleet.restart(server)

    @rule(server=servers)
    def replace(self, server: int) -> None:
        self.fleet.replace(server)

    # What the cluster does.

    @precondition(lambda self: len(self.plans) < 3)
    @rule(shards=st.integers(1, 5), replicas=st.integers(1, 2))
    def add_layout(self, shards: int, replicas: int) -> None:
        self.n_layouts += 1
        plan = Plan(self.n_layouts, shards)
        for shard in range(shards):
            for replica in range(replicas):
                plan.replicas.append(self.post.start(plan.number, shard, replica))
        self.plans.append(plan)
        self.announce()

    @precondition(lambda self: len(self.plans) > 1)
    @rule(which=any_one)
    def drop_layout(self, which: int) -> None:
        plan = self.plans.pop(which % len(self.plans))
        for replica in plan.replicas:
            self.post.kill(replica.incarnation)
        self.announce()

    @rule(which=any_one, replica=any_one, told=st.booleans())
    def restart_shard(self, which: int, replica: int, told: bool) -> None:
        plan = self.plans[which % len(self.plans)]
        at = replica % len(plan.replicas)
        old = plan.replicas[at]
        self.post.kill(old.incarnation)
        plan.replicas[at] = self.post.start(plan.number, old.shard, old.replica)
        if told:
            self.announce()

    @rule()
    def announce(self) -> None:
        self.version += 1
        serving, *others = [plan.layout for plan in self.plans]
        building = others.pop() if others else None
        self.outbox.follow(
            ClusterView(
                version=self.version,
                cluster="c",
                serving=serving,
                building=building,
                leaving=tuple(others),
                sessions=(SESSION,),
            )
        )

    # What the outbox and the post do.

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.01, 1.0, 5.0]))
    def step(self, seconds: float) -> None:
        self.now_s += seconds
        self.outbox.step()

    @rule(many=st.integers(1, 12))
    def deliver(self, many: int) -> None:
        for _ in range(many):
            if self.post.letters:
                self.post.deliver(self.post.take(0))
            self.outbox.step()

    @precondition(lambda self: self.post.letters)
    @rule(at=any_one)
    def lose_request(self, at: int) -> None:
        self.post.take(at).fail()

    @precondition(lambda self: self.post.letters)
    @rule(at=any_one)
    def lose_reply(self, at: int) -> None:
        letter = self.post.take(at)
        letter.fail()
        self.post.deliver(letter)

    @precondition(lambda self: self.post.letters)
    @rule(at=any_one)
    def delay_request(self, at: int) -> None:
        letter = self.post.take(at)
        letter.fail()
        self.post.stale.append(letter)

    @precondition(lambda self: self.post.stale)
    @rule(at=any_one, again=st.booleans())
    def deliver_stale(self, at: int, again: bool) -> None:
        letter = self.post.stale[at % len(self.post.stale)]
        if not again:
            self.post.stale.remove(letter)
        self.post.deliver(letter)

    @precondition(lambda self: self.post.letters)
    @rule(at=any_one)
    def deliver_twice(self, at: int) -> None:
        letter = self.post.take(at)
        self.post.deliver(letter)
        self.post.deliver(letter)

    @rule()
    def quiet(self) -> None:
        """Every letter arrives; stale ones too, at the worst moments."""
        self.announce()
        self.mirror.waiting.clear()
        mark = self.outbox.mark()
        for turn in range(2_000):
            self.now_s += 0.5
            self.outbox.step()
            if self.post.stale and turn % 3 == 0:
                self.post.deliver(self.post.stale.pop())
            for letter in self.post.letters.copy():
                self.post.deliver(letter)
            self.post.letters.clear()
            if self.is_done(mark):
                self.compare()
                return
        pytest.fail(f"not quiet: {self.outbox.statistics()}")

    def is_done(self, mark: int) -> bool:
        return len(self.outbox.loaded) == len(self.post.shards) and self.outbox.has_delivered(mark)

    def compare(self) -> None:
        """Each replica beside a table that was made from the mirrors just now."""
        expected = self.fleet.expected()
        keys = sorted(self.fleet.keys_seen)
        for plan in self.plans:
            fresh = [Table(4 << 20) for _ in range(plan.n_shards)]
            for unit in self.fleet.mirror.content():
                assert not unit.before
                for table, records in zip(fresh, route(unit.records, plan.n_shards), strict=True):
                    table.apply(records)
            union: dict[tuple[int, int], int] = {}
            for replica in plan.replicas:
                shard = self.post.shards[replica.incarnation]
                found = held(shard.table, keys)
                assert found == held(fresh[replica.shard], keys)
                union |= found
            assert union == expected

    @invariant()
    def what_waits_is_bounded(self) -> None:
        if hasattr(self, "outbox"):
            for feed in self.outbox._feeds():
                assert 0 <= feed._gathered_bytes <= self.outbox._settings.feed.gathered_bytes_max
                assert feed._gathered_bytes <= feed.queued_bytes


OutboxBesideMirrors.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=60)
TestOutboxBesideMirrors = pytest.mark.slow(OutboxBesideMirrors.TestCase)
