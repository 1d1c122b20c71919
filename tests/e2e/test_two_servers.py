"""Two real model servers and one atlas, which comes late to the first: chats go to either, one crashes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.e2e.conversations import fresh_prompt, questions
from tests.e2e.observed_server import ObservedServer, Observer, Turn
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, VllmServer

pytestmark = pytest.mark.timeout(420)  # the first test waits for a server to start, another for its restart

Fleet = tuple[ObservedServer, ObservedServer]


@pytest.fixture(scope="module")
def second_server(first_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    folder = tmp_path_factory.mktemp("second")
    with VllmServer(first_server.python, first_server.model, folder, pod="pod1") as server:
        yield server


@pytest.fixture(scope="module")
def fleet_for_long(first_server: VllmServer, second_server: VllmServer) -> Iterator[Fleet]:
    first_server.wait_until_healthy()
    second_server.wait_until_healthy()
    with (
        Observer(first_server, second_server) as observer,
        ObservedServer(first_server, observer) as first,
        ObservedServer(second_server, observer) as second,
    ):
        yield first, second


@pytest.fixture
def fleet(fleet_for_long: Fleet) -> Fleet:
    """Servers with empty caches."""
    for one in fleet_for_long:
        one.reset()
    return fleet_for_long


def converse(fleet: Fleet, seed: int, count: int) -> list[Turn]:
    """Chats whose every question goes to a server by chance; each answer is held to what was predicted."""
    source = random.Random(seed)
    turns = []
    for question in questions(seed, count):
        one = source.choice(fleet)
        turn = one.complete(question.prompt, cache_salt=question.cache_salt, max_tokens=question.max_tokens)
        question.answered(turn.answer.token_ids)
        assert turn.state == one.state == "EXACT"
        assert turn.predicted_tokens == turn.answer.cached_tokens, f"{one.server.pod}: {turn.describe()}"
        assert one.held_blocks("gpu") == len(one.log.held("GPU"))
        turns.append(turn)
    return turns


def test_chats_that_go_to_either_server_reuse_what_was_predicted(fleet: Fleet) -> None:
    turns = converse(fleet, seed=11, count=40)
    fleet[1].reset()
    assert fleet[0].held_blocks("gpu") > fleet[1].held_blocks("gpu") == 0
    turns += converse(fleet, seed=12, count=30)
    assert sum(turn.predicted_tokens > 0 for turn in turns) > 25
    for one in fleet:
        assert one.log.count("BlockRemoved") > 40, "the traffic must not fit into the caches"


def test_who_comes_late_to_idle_servers_sees_all_of_them(fleet: Fleet) -> None:
    converse(fleet, seed=13, count=10)
    published = [len(one.log.batches) for one in fleet]
    with Observer(*(one.server for one in fleet)) as late:
        late.wait_until(lambda: late.states() == {"pod0": "EXACT", "pod1": "EXACT"})
        assert late.residency() == fleet[0].observer.residency()
        assert len(late.residency()) == 2
    for one, count in zip(fleet, published, strict=True):
        one.log.catch_up()
        assert len(one.log.batches) == count, "no live event has helped"


def test_a_server_that_crashes_comes_back_empty_and_is_exact_again(fleet: Fleet) -> None:
    staying, crashing = fleet
    prompt = fresh_prompt(50, 5 * BLOCK_SIZE_TOKENS + 3)
    for one in fleet:
        one.complete(prompt)
        assert one.predicted_tokens(prompt) == 5 * BLOCK_SIZE_TOKENS
    crashing.restart()
    crashing.observer.wait_until(lambda: crashing.state != "EXACT")
    crashing.server.wait_until_healthy()
    crashing.observer.wait_until(lambda: crashing.worker.restarts == 1)
    assert crashing.held_blocks("gpu") == crashing.predicted_tokens(prompt) == 0
    assert (staying.state, staying.predicted_tokens(prompt)) == ("EXACT", 5 * BLOCK_SIZE_TOKENS)
    turn = crashing.complete(prompt)
    assert turn.predicted_tokens == turn.answer.cached_tokens == 0
    converse(fleet, seed=14, count=20)
