"""One tenant against the others: what a request leaves behind in memo, templates and queue harms nobody.

What a stranger may learn from how quickly a text is answered (that somebody has asked for it before) is not
hidden: routers that must hide it give each tenant tokenizers of its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import OverloadedError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.pool.bounded_work import BoundedWork, WorkLimits
from kvatlas.tokenize.pool.sizes import bytes_held
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.models.tokenizer_kinds import NASTY, SPECIAL
from tests.tokenize.bad_input.hostile_chats import CYCLIC
from tests.tokenize.bad_input.victims import check_served, plain_ids, victims

pytestmark = pytest.mark.timeout(120)
PATIENCE_S = 60.0


def memo_counts(tokenizers: Tokenizers) -> dict[str, int]:
    [counts] = [one.counts for one in tokenizers.statistics().loaded if one.model == "good"]
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("memo_bytes_max", [1 << 14, 1 << 24])
def test_no_text_changes_the_ids_of_another(folder: Path, memo_bytes_max: int) -> None:
    """Texts of the same parts in other orders, so that pieces meet in every way; but for the first three none
    is compared by the encoder itself."""
    tokenizers = victims(folder, memo_bytes_max=memo_bytes_max, check_share=0.0)
    chance = random.Random(5)
    parts = (*NASTY, *SPECIAL * 12, "\n", "\nThe", "fox\n", "x" * 3000)
    for _ in range(1500):
        text = "".join(chance.choices(parts, k=chance.randrange(1, 24)))
        assert tokenizers.encode("good", text).token_ids.tolist() == plain_ids(text, True)
    counts = memo_counts(tokenizers)
    assert counts["memo_hits"] > 1000 and counts["encoded_whole"] == 0
    assert counts["memo_bytes"] <= memo_bytes_max
    tokenizers.close()


def test_ids_that_a_caller_changes_are_its_own(folder: Path) -> None:
    tokenizers = victims(folder)
    for _ in range(3):
        ids = tokenizers.encode("good", "<|a|>one\ntwo<|b|>").token_ids
        if ids.flags.writeable:
            ids[:] = 7
        check_served(tokenizers)
        expected = plain_ids("<|a|>one\ntwo<|b|>", True)
        assert tokenizers.encode("good", "<|a|>one\ntwo<|b|>").token_ids.tolist() == expected
    tokenizers.close()


@pytest.mark.slow
def test_flood_of_one_tenant_leaves_the_memo_to_those_who_come_back(folder: Path) -> None:
    tokenizers = victims(folder, memo_bytes_max=1 << 20)
    ours = "".join(f"<|a|>turn {number} of a conversation that goes on<|b|>" for number in range(50))
    for _ in range(4):
        tokenizers.encode("good", ours)
    for number in range(6):  # each twice the memo, and never asked again
        flood = "".join(f"<|a|>{number} {place} of a flood<|b|>" for place in range(20_000))
        tokenizers.encode("good", flood)
    assert memo_counts(tokenizers)["memo_evicted"] + memo_counts(tokenizers)["memo_refused"] > 0
    before = memo_counts(tokenizers)
    assert tokenizers.encode("good", ours).token_ids.tolist() == plain_ids(ours, True)
    after = memo_counts(tokenizers)
    assert after["memo_hits"] - before["memo_hits"] >= 45
    tokenizers.close()


@pytest.mark.slow
def test_one_monstrous_piece_is_answered_and_not_kept(folder: Path) -> None:
    tokenizers = victims(folder, memo_bytes_max=1 << 20)
    tokenizers.encode("good", "<|a|>kept<|b|>")
    monster = "ab" * 300_000
    before = memo_counts(tokenizers)
    assert tokenizers.encode("good", monster).token_ids.tolist() == plain_ids(monster, True)
    after = memo_counts(tokenizers)
    assert after["memo_refused"] == before["memo_refused"] + 1
    assert after["memo_pieces"] == before["memo_pieces"]
    tokenizers.close()


class Stuck:
    """A queue of one thread, which is held up."""

    def __init__(self, **limits: Any) -> None:
        self.work = BoundedWork(WorkLimits(**({"threads": 1, "waiting_max": 4} | limits)))
        self.gate, inside = threading.Event(), threading.Event()

        def hold() -> None:
            inside.set()
            assert self.gate.wait(PATIENCE_S)

        self.holding = self.work.submit(hold)
        assert inside.wait(PATIENCE_S)

    def end(self) -> None:
        self.gate.set()
        self.holding.result(PATIENCE_S)
        self.work.close()


def test_requests_that_are_given_up_give_their_places_back() -> None:
    stuck = Stuck()

    async def ask_and_leave() -> None:
        for _ in range(25):
            mine = [asyncio.wrap_future(stuck.work.submit(lambda: None, 10)) for _ in range(4)]
            for one in mine:
                one.cancel()
            await asyncio.gather(*mine, return_exceptions=True)

    asyncio.run(ask_and_leave())
    others = [stuck.work.submit(lambda: "served") for _ in range(4)]
    with pytest.raises(OverloadedError):
        stuck.work.submit(lambda: None)
    statistics = stuck.work.statistics()
    assert (statistics.waiting, statistics.bytes) == (4, 0)
    assert statistics.counts == {"given_up": 100, "refused": 1}
    stuck.end()
    assert [one.result(PATIENCE_S) for one in others] == ["served"] * 4


def test_bytes_of_requests_that_are_given_up_are_given_back() -> None:
    stuck = Stuck(waiting_bytes_max=100)
    assert stuck.work.submit(lambda: None, 100).cancel()
    mine = stuck.work.submit(lambda: "mine", 100)
    with pytest.raises(OverloadedError, match="at most 100 bytes"):
        stuck.work.submit(lambda: None, 1)
    stuck.end()
    assert mine.result(PATIENCE_S) == "mine"


BULK = "x" * 1_000_000
PART = {"type": "text", "text": BULK}
CALL = {"type": "function", "function": {"name": "f", "arguments": BULK}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": BULK}]},
        {"messages": [{"role": "user", "content": [PART]}]},
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        {"messages": [{"role": "assistant", "reasoning": BULK}]},
        {"messages": [], "tools": [{"function": {"description": BULK}}]},
        {"messages": [], "documents": [{"text": BULK}]},
        {"messages": [], "chat_template_kwargs": {"x": [BULK]}},
        {"messages": [], "chat_template": BULK},
    ],
)
def test_bulk_counts_wherever_in_a_chat_it_stands(fields: dict[str, Any]) -> None:
    assert len(BULK) <= bytes_held(Chat(**fields)) < len(BULK) + 5000


@pytest.mark.parametrize(
    "messages", [CYCLIC, [{"role": "user"}] * 1_000_000, [CYCLIC] * 50, 5, None, [5, None]]
)
def test_size_of_anything_is_had_soon(messages: Any) -> None:
    held = bytes_held(Chat(messages=messages))
    assert held > 1 << 20 or not isinstance(messages, list) or len(messages) == 2
