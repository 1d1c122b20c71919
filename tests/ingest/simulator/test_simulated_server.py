"""The simulated server as its subscribers meet it: payloads, topics, sockets; and its own truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.event_encoder import DIALECTS
from kvatlas.ingest.simulator.offload_chunks import SharedStorage
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.request import SimulatedRequest
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored
from tests.ingest.zmq_peers import Peers, poll_until_subscribed, received, replay

PROMPT = list(range(100, 140))


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


def test_payload_is_a_batch_with_the_time_the_events_and_the_rank() -> None:
    server = SimulatedServer("pod0", "m", data_parallel_rank=3, clock_s=lambda: 12.5)
    server.prefill(PROMPT)
    payload = server.step()
    assert payload is not None
    batch = decode_batch(payload)
    assert (batch.ts, batch.data_parallel_rank, batch.errors) == (12.5, 3, ())
    assert len(batch.events) == 1


@pytest.mark.parametrize(("dialect", "elements"), [("0.32", 3), ("0.10.2", 3), ("sglang", 2)])
def test_rank_that_is_not_given_is_zero_where_the_dialect_has_one(dialect: str, elements: int) -> None:
    server = SimulatedServer("pod0", "m", dialect=dialect)
    server.prefill(PROMPT)
    payload = server.step()
    assert payload is not None
    batch = msgspec.msgpack.decode(payload)
    assert len(batch) == elements
    assert batch[2:] == [0] * (elements - 2)


def test_step_without_events_publishes_nothing() -> None:
    published: list[bytes] = []
    server = SimulatedServer("pod0", "m", publish=published.append)
    request = server.prefill(PROMPT)
    server.step()
    server.decode(request, 1)
    assert server.step() is None
    assert len(published) == 1


def test_topic_names_pod_and_model() -> None:
    assert SimulatedServer("10.0.0.1:8000", "org/m@2").topic == "kv@10.0.0.1:8000@org/m@2"
    with pytest.raises(ConfigError, match="pod"):
        SimulatedServer("a@b", "m")


def test_bad_dialects_are_refused() -> None:
    with pytest.raises(InputError, match="dialect"):
        SimulatedServer("pod0", "m", dialect="1.0")
    with pytest.raises(ConfigError, match="window_tokens"):
        SimulatedServer("pod0", "m", dialect="sglang", window_tokens=64)


def test_serving_a_conversation_reuses_what_came_before() -> None:
    server = SimulatedServer("pod0", "m")
    answer = list(range(500, 520))
    assert server.serve(PROMPT, answer) == 0
    # Of 60 tokens the last is never computed; 48 are whole blocks.
    assert server.serve([*PROMPT, *answer, *range(30)], 4) == 48
    assert server.statistics().running == 0


def test_serving_frees_the_blocks_also_when_there_is_no_room_for_the_output() -> None:
    server = SimulatedServer("pod0", "m", blocks=4)
    with pytest.raises(OutOfBlocksError):
        server.serve(PROMPT, 100)
    assert server.statistics().running == 0
    assert server.serve(PROMPT) == 32


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_announces_the_blocks_that_are_held(dialect: str) -> None:
    server = SimulatedServer("pod0", "m", dialect=dialect)
    server.prefill(PROMPT)
    payload = server.step()
    assert payload is not None
    events = decode_batch(payload).events
    names = [n for event in events if isinstance(event, BlockStored) for n in event.block_hashes]
    assert names == server.engine_hashes(PROMPT)
    assert set(names) == set(server.held())


def test_whole_digests_on_the_wire_end_in_the_same_64_bits() -> None:
    server = SimulatedServer("pod0", "m", hashes_as_bytes=True)
    server.prefill(PROMPT)
    payload = server.step()
    assert payload is not None
    (raw,) = msgspec.msgpack.decode(payload)[1]
    assert [len(digest) for digest in raw["block_hashes"]] == [32, 32]
    (event,) = decode_batch(payload).events
    assert isinstance(event, BlockStored)
    assert list(event.block_hashes) == server.engine_hashes(PROMPT)


def test_seed_decides_how_blocks_are_named() -> None:
    names = SimulatedServer("pod0", "m").engine_hashes(PROMPT)
    assert SimulatedServer("pod1", "m").engine_hashes(PROMPT) == names
    other = SimulatedServer("pod1", "m", block_hash_seed="other").engine_hashes(PROMPT)
    assert not set(other) & set(names)


def test_listening_server_publishes_every_step_and_restarts_at_zero(peers: Peers) -> None:
    with SimulatedServer("pod0", "m") as server:
        publisher = server.listen()
        subscriber = peers.subscribed(publisher)
        server.prefill(PROMPT)
        first = server.step()
        assert received(subscriber) == [b"kv@pod0@m", bytes(8), first]
        server.restart()
        poll_until_subscribed(publisher, subscriber)
        server.prefill(PROMPT)
        again = server.step()
        assert received(subscriber) == [b"kv@pod0@m", bytes(8), again]
    server.prefill(PROMPT[::-1])
    assert server.step() is not None, "a server that is closed still steps"


@pytest.mark.parametrize(("dialect", "frames"), [("0.32", 4), ("0.23.0", 3)])
def test_replies_to_replay_have_the_shape_of_the_release(peers: Peers, dialect: str, frames: int) -> None:
    with SimulatedServer("pod0", "m", dialect=dialect) as server:
        publisher = server.listen()
        server.prefill(PROMPT)
        server.step()
        assert [len(reply) for reply in replay(peers.dealer(publisher), 0)] == [frames]


def test_attached_publisher_replaces_and_closes_the_one_before() -> None:
    with SimulatedServer("pod0", "m") as server:
        first = server.listen()
        second = server.attach(SimulatedPublisher(server.topic))
        server.prefill(PROMPT)
        server.step()
        assert first.statistics().next_sequence == 0
        assert second.statistics().next_sequence == 1


Held = dict[int, dict[tuple[str, int], int]]


class CopiesByEvents:
    """The reader of the events, as naive as can be: a count for each hash, tier and group."""

    def __init__(self) -> None:
        self.copies: Counter[tuple[int, str, int]] = Counter()
        self.storage: set[int] = set()

    def read(self, payload: bytes) -> None:
        batch = decode_batch(payload)
        assert batch.errors == ()
        assert batch.unknown_events == 0
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                self.forget("gpu")
            elif event.medium == "STORAGE":
                change = self.storage.update if isinstance(event, BlockStored) else self.remove
                change(event.block_hashes)
            else:
                self.count(event)

    def remove(self, names: tuple[int, ...]) -> None:
        self.storage.difference_update(names)

    def count(self, event: BlockStored | BlockRemoved) -> None:
        step = 1 if isinstance(event, BlockStored) else -1
        for name in event.block_hashes:
            entry = (name, str(event.medium).lower(), event.group_idx)
            self.copies[entry] += step
            assert self.copies[entry] >= 0, "removed what was never stored"

    def forget(self, tier: str) -> None:
        self.copies = Counter({k: n for k, n in self.copies.items() if k[1] != tier})

    def held(self) -> Held:
        held: Held = {}
        for (name, tier, group), count in self.copies.items():
            if count:
                held.setdefault(name, {})[tier, group] = count
        return held


tokens = st.lists(st.integers(0, 2), max_size=9)
salts = st.sampled_from([None, None, "s"])
loras = st.sampled_from([None, None, "l"])
pictures = st.sampled_from([(), (), (("cat", 3, 4),)])
shapes = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 2, 3]),
        "blocks": st.integers(4, 30),
        "hashes_as_bytes": st.booleans(),
    }
)
kinds: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries(
        {
            "window_tokens": st.integers(2, 7),
            "retention_tokens": st.sampled_from([None, 0, 6, 12]),
        }
    ),
    st.fixed_dictionaries(
        {"cpu_blocks": st.integers(2, 20), "self_describing": st.booleans()},
        optional={"storage": st.sampled_from([None, 3]).map(lambda n: SharedStorage(capacity_chunks=n))},
    ),
    st.fixed_dictionaries({"cpu_blocks": st.integers(3, 20), "chunk_blocks": st.sampled_from([2, 3])}),
)


class ServerBesideItsEvents(RuleBasedStateMachine):
    """After every step, what the events add up to is what the server holds."""

    @initialize(shape=shapes, kind=kinds)
    def start(self, shape: dict[str, Any], kind: dict[str, Any]) -> None:
        self.options = {**shape, **kind}
        self.server = SimulatedServer("pod0", "m", **self.options)
        self.reader = CopiesByEvents()
        self.running: list[SimulatedRequest] = []
        self.prompts: list[list[int]] = [[]]

    def files(self) -> set[int]:
        storage = self.options.get("storage")
        return storage.held() if isinstance(storage, SharedStorage) else set()

    def reusable_tokens(self, names: list[int], prompt_tokens: int) -> int:
        """What `held` says: the device's run, and the CPU's behind it, in blocks."""
        size, held = self.server.options.block_size, self.server.held()
        device = names[: (prompt_tokens - 1) // size]
        run = len(list(takewhile(lambda name: ("gpu", 0) in held.get(name, {}), device)))
        rest = takewhile(lambda name: ("cpu", 0) in held.get(name, {}), names[run:])
        return (run + len(list(rest))) * size

    @rule(data=st.data(), more=tokens, salt=salts, lora=loras, features=pictures)
    def prefill(
        self,
        data: st.DataObject,
        more: list[int],
        salt: str | None,
        lora: str | None,
        features: tuple[tuple[str, int, int], ...],
    ) -> None:
        known = data.draw(st.sampled_from(self.prompts))
        prompt = [*known[: data.draw(st.integers(0, len(known)))], *more] or [0]
        expected = self.server.cached_tokens(prompt, lora=lora, cache_salt=salt, features=features)
        if not self.options.keys() & {"window_tokens", "chunk_blocks", "storage"}:
            names = self.server.engine_hashes(prompt, lora=lora, cache_salt=salt, features=features)
            assert expected == self.reusable_tokens(names, len(prompt))
        try:
            request = self.server.prefill(prompt, lora=lora, cache_salt=salt, features=features)
        except OutOfBlocksError:
            return
        assert request.cached_tokens == expected
        self.running.append(request)
        self.prompts.append(prompt)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), output=st.one_of(tokens, st.integers(0, 9)))
    def decode(self, data: st.DataObject, output: int | list[int]) -> None:
        request = data.draw(st.sampled_from(self.running))
        try:
            self.server.decode(request, output)
        except OutOfBlocksError:
            self.running.remove(request)
            self.server.finish(request)
        self.prompts.append(list(request.token_ids))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        self.server.finish(request)

    @rule()
    def reset(self) -> None:
        assert self.server.reset() == (not self.running)

    @rule()
    def reset_with_the_cpu(self) -> None:
        # No event says so: the reader has to be told.
        assert self.server.reset(external=True) == (not self.running)
        self.reader.forget("cpu")

    @rule()
    def restart(self) -> None:
        self.server.restart()
        self.running.clear()
        self.reader.copies.clear()
        # What it wrote shortly before was perhaps never said.
        self.reader.storage = self.files()

    @rule()
    def step(self) -> None:
        payload = self.server.step()
        if payload is not None:
            self.reader.read(payload)
        assert self.reader.held() == self.server.held()

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        for request in self.running:
            self.server.finish(request)
        self.step()
        while self.server.has_pending_work:
            self.step()
        assert self.reader.storage == self.files()


TestServerBesideItsEvents = pytest.mark.slow(ServerBesideItsEvents.TestCase)
