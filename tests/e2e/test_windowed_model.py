"""A model of which some layers see a window only: three groups of KV cache, and reuse that has holes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conversations import fresh_prompt, questions
from tests.e2e.observed_server import ObservedServer, Observer, Turn
from tests.e2e.vllm_server import VllmServer, write_tiny_model

pytestmark = pytest.mark.timeout(420)  # the first test waits for the server to start


@pytest.fixture(scope="module")
def windowed_for_long(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedServer]:
    """All groups take their blocks from one pool: a prompt of 1024 tokens wants more than 64."""
    folder = tmp_path_factory.mktemp("windowed")
    model = write_tiny_model(vllm_python, folder, "windowed")
    server = VllmServer(vllm_python, model, folder, pod="windowed", blocks=128)
    with server, Observer(server) as observer, ObservedServer(server, observer) as observed:
        server.wait_until_healthy()
        yield observed


@pytest.fixture
def windowed(windowed_for_long: ObservedServer) -> ObservedServer:
    windowed_for_long.reset()
    return windowed_for_long


def test_a_prompt_is_reused_only_where_the_window_before_it_is_held(windowed: ObservedServer) -> None:
    prompt = fresh_prompt(1, 600)
    for tokens, reused in ((600, 0), (600, 576), (400, 0), (416, 384)):
        turn = windowed.complete(prompt[:tokens])
        assert turn.predicted_tokens == turn.answer.cached_tokens == reused, turn.describe()


def converse(windowed: ObservedServer, seed: int, count: int, **fields: Any) -> list[Turn]:
    turns = []
    for question in questions(seed, count):
        turn = windowed.complete(
            question.prompt, cache_salt=question.cache_salt, max_tokens=question.max_tokens, **fields
        )
        question.answered(turn.answer.token_ids)
        turns.append(turn)
    return turns


def test_every_request_of_many_conversations_reuses_what_was_predicted(windowed: ObservedServer) -> None:
    turns = converse(windowed, seed=21, count=80)
    for turn in turns:
        assert turn.state == "EXACT"
        assert turn.predicted_tokens == turn.answer.cached_tokens, turn.describe()
    assert sum(turn.predicted_tokens > 0 for turn in turns) > 25
    assert windowed.log.count("BlockRemoved") > 100, "the traffic must not fit into the cache"


def test_reports_of_blocks_already_held_promise_nothing(windowed: ObservedServer) -> None:
    """A report names the blocks of every group, those outside of the window too, which are not there."""
    converse(windowed, seed=22, count=20)
    turns = converse(windowed, seed=22, count=40, vllm_xargs={"kv_cache_report_mode": "full"})
    for turn in turns:
        assert turn.predicted_tokens <= turn.answer.cached_tokens, turn.describe()
        if turn.state == "EXACT":
            assert turn.predicted_tokens == turn.answer.cached_tokens, turn.describe()
    assert sum(turn.predicted_tokens > 0 for turn in turns) > 10
