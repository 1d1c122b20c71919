"""The simulated model server beside a real one: the same requests, the same events in the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from kvatlas.ingest.simulator.server import SimulatedServer
from tests.e2e.conversations import Question, questions
from tests.e2e.observed_server import ObservedServer
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME

pytestmark = pytest.mark.timeout(420)  # the first test waits for the server to start


class NamesOfBlocks:
    """Both servers hash in their own way; so a block is named by when it was first announced."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def rewrite(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with numbers for its block hashes."""
        renamed = dict(event)
        if "block_hashes" in event:
            renamed["block_hashes"] = [self._number(name) for name in event["block_hashes"]]
        if event.get("parent_block_hash") is not None:
            renamed["parent_block_hash"] = self._number(event["parent_block_hash"])
        return renamed

    def _number(self, block_hash: int) -> int:
        return self._numbers.setdefault(block_hash, len(self._numbers))


def simulated_answer(
    server: SimulatedServer, question: Question, output: Sequence[int], *, report: bool
) -> int:
    """Serves a request whose output is known; returns how many tokens of its prompt were reused."""
    request = server.prefill(question.prompt, cache_salt=question.cache_salt, report=report)
    server.step()
    server.decode(request, output)
    server.finish(request)
    server.step()
    return request.cached_tokens


def test_the_simulated_server_announces_what_the_real_one_does(observed: ObservedServer) -> None:
    announced: list[dict[str, Any]] = []
    simulated = SimulatedServer(
        "simulated",
        MODEL_NAME,
        block_size=BLOCK_SIZE_TOKENS,
        blocks=observed.server.blocks,
        publish=lambda payload: announced.extend(msgpack.unpackb(payload)[1]),
    )
    real_names, simulated_names = NamesOfBlocks(), NamesOfBlocks()
    kinds: Counter[str] = Counter()
    for number, question in enumerate(questions(seed=4, count=60)):
        if number == 40:
            observed.server.reset_prefix_cache()
            simulated.reset()
        published = len(observed.log.batches)
        announced.clear()
        report = number % 5 == 0
        answer = observed.complete(
            question.prompt,
            cache_salt=question.cache_salt,
            max_tokens=question.max_tokens,
            vllm_xargs={"kv_cache_report_mode": "full" if report else "incremental"},
        ).answer
        question.answered(answer.token_ids)
        reused = simulated_answer(simulated, question, answer.token_ids, report=report)
        assert reused == answer.cached_tokens
        real = [event for batch in observed.log.batches[published:] for event in batch]
        assert [simulated_names.rewrite(event) for event in announced] == [
            real_names.rewrite(event) for event in real
        ]
        kinds.update(event["type"] for event in real)
    assert kinds["AllBlocksCleared"] == 1
    assert kinds["BlockStored"] > 60
    assert kinds["BlockRemoved"] > 60
