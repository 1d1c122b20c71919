"""The atlas beside a real model server: what it predicts is what the server reuses, request by request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conversations import fresh_prompt, questions
from tests.e2e.observed_server import ObservedServer, Turn
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME

pytestmark = pytest.mark.timeout(420)  # the first test waits for the server to start


def test_every_request_of_many_conversations_reuses_what_was_predicted(
    observed: ObservedServer,
) -> None:
    turns: list[Turn] = []
    skips_before = observed.skips()
    for question in questions(seed=1, count=100):
        turn = observed.complete(
            question.prompt, cache_salt=question.cache_salt, max_tokens=question.max_tokens
        )
        question.answered(turn.answer.token_ids)
        turns.append(turn)
        assert turn.predicted_tokens == turn.answer.cached_tokens, turn.describe()
        assert observed.held_blocks("gpu") == len(observed.log.held("GPU"))
    assert sum(turn.predicted_tokens > 0 for turn in turns) > 40
    assert observed.log.count("BlockRemoved") > 100, "the traffic must not fit into the cache"
    assert set(observed.skips() - skips_before) <= {"duplicates"}
    worker = observed.worker
    assert (worker.gaps, worker.restarts, worker.orphans) == (0, 0, 0)
    assert worker.closed, "an engine evicts tails first"


def test_blocks_filled_while_generating_are_predicted(observed: ObservedServer) -> None:
    prompt = fresh_prompt(1, 40)
    answer = observed.complete(prompt, max_tokens=100).answer
    longer = [*prompt, *answer.token_ids, 5, 6, 7]
    # The last generated token has not been through the model: its keys and values do not exist.
    full_blocks = (len(prompt) + len(answer.token_ids) - 1) // BLOCK_SIZE_TOKENS
    assert observed.matched_blocks(longer) == full_blocks
    (explained,) = observed.atlas.explain(longer, model=MODEL_NAME).workers
    assert (explained.pod, explained.blocks) == ("pod0", full_blocks)
    turn = observed.complete(longer)
    assert turn.predicted_tokens == turn.answer.cached_tokens == full_blocks * BLOCK_SIZE_TOKENS


def test_copies_of_a_recomputed_last_block_are_counted(observed: ObservedServer) -> None:
    prompt = fresh_prompt(2, 3 * BLOCK_SIZE_TOKENS)
    for _ in range(4):
        observed.complete(prompt)
    assert observed.log.copies_of(prompt) == 4
    # 6 of 63 blocks are taken. The long prompts make room by dropping the copies one by one.
    for seed, tokens in ((3, 900), (4, 900), (5, 40), (6, 40), (7, 70)):
        observed.complete(fresh_prompt(seed, tokens))
        assert observed.matched_blocks(prompt) == observed.logged_blocks(prompt)
    turn = observed.complete([*prompt, 9])
    assert turn.predicted_tokens == turn.answer.cached_tokens, turn.describe()


def test_a_cache_salt_makes_another_prompt(observed: ObservedServer) -> None:
    prompt = fresh_prompt(6, 100)
    observed.complete(prompt, cache_salt="red")
    for salt, reused in (("red", 96), ("blue", 0), (None, 0), ("blue", 96), (None, 96)):
        turn = observed.complete(prompt, cache_salt=salt)
        assert turn.predicted_tokens == turn.answer.cached_tokens == reused, (salt, turn.describe())


def test_reports_of_blocks_already_held_leave_nothing_behind(observed: ObservedServer) -> None:
    """A client may ask for reports; a prompt of one block, computed again, announces itself alike."""
    reported, single = fresh_prompt(7, 100), fresh_prompt(8, BLOCK_SIZE_TOKENS)
    for _ in range(3):
        turn = observed.complete(reported, vllm_xargs={"kv_cache_report_mode": "full"})
        assert turn.predicted_tokens == turn.answer.cached_tokens, turn.describe()
        observed.complete(single)
    for seed in range(10, 22):
        observed.complete(fresh_prompt(seed, 6 * BLOCK_SIZE_TOKENS + 1))
        # Looked up, not asked for: a request would make these blocks the youngest of the cache.
        assert observed.matched_blocks(reported) <= observed.logged_blocks(reported)
        assert observed.matched_blocks(single) <= observed.logged_blocks(single)
    for prompt in (reported, single):
        turn = observed.complete([*prompt, 9])
        assert turn.predicted_tokens == turn.answer.cached_tokens == 0, "the server has dropped it"


def test_requests_at_once_leave_the_atlas_as_exact_as_requests_in_turn(
    observed: ObservedServer,
) -> None:
    """Eight conversations at once need more blocks than there are: requests wait, or are computed again."""

    def converse(seed: int) -> None:
        for question in questions(seed, count=8, conversations=2):
            salt = {} if question.cache_salt is None else {"cache_salt": question.cache_salt}
            answer = observed.server.complete(question.prompt, max_tokens=question.max_tokens, **salt)
            question.answered(answer.token_ids)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(converse, range(8)))
    observed.settle()
    assert observed.held_blocks("gpu") == len(observed.log.held("GPU")) > 40
    for question in questions(seed=3, count=10):
        turn = observed.complete(question.prompt, cache_salt=question.cache_salt)
        assert turn.predicted_tokens == turn.answer.cached_tokens, turn.describe()


def test_a_reset_empties_the_worker(observed: ObservedServer) -> None:
    prompt = fresh_prompt(30, 200)
    observed.complete(prompt)
    assert observed.matched_blocks(prompt) == observed.held_blocks("gpu") == 6
    observed.server.reset_prefix_cache()
    observed.complete([4, 5, 6])  # too short to store a block: it only brings the event of the reset
    assert observed.held_blocks("gpu") == 0
    turn = observed.complete(prompt)
    assert turn.predicted_tokens == turn.answer.cached_tokens == 0
    assert observed.held_blocks("gpu") == 6
