"""The segment memo beside the plain model: ids, what is missing, counters, bounds."""

from __future__ import annotations

import random
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from kvatlas.tokenize._native import LINES_BEFORE_TEXT, Cutter, MemoStatistics, Plan, SegmentMemo
from tests.models import segment_memo as model

pytestmark = pytest.mark.native

ADDED = {"<s>": 1, "<e>": 2, "<s><e>": 3}
PIECE_BYTES = 8

parts = st.sampled_from(["<s>", "<e>", "a", "b\n", "é", "漢\n", "😀", "hello\nworld\n", "x" * 30, "\n"])
texts = st.one_of(st.lists(parts, max_size=12).map("".join), st.text("ab<s>e\n é", max_size=40))


def encode(text: str) -> list[int]:
    """Stands for a tokenizer: ids that tell texts apart, one for every other character."""
    seed = zlib.crc32(text.encode())
    return [(seed + i * 2654435761) % 2**32 for i in range((len(text) + 1) // 2)]


def all_ids(text: str) -> list[int]:
    out: list[int] = []
    for part in model.cut(ADDED, LINES_BEFORE_TEXT, PIECE_BYTES, text):
        out += [part] if isinstance(part, int) else encode(part)
    return out


def counters(statistics: MemoStatistics) -> dict[str, int]:
    return {name: getattr(statistics, name) for name in dir(statistics) if not name.startswith("_")}


class MemoBesideTheModel(RuleBasedStateMachine):
    """Plans open at once. Under small bounds pieces are dropped; under a large one both know the same."""

    plans = Bundle("plans")

    @initialize(
        bytes_max=st.sampled_from([0, 100, 600, 3000, 20_000, 64 << 20]), seed=st.integers(0, 2**64 - 1)
    )
    def begin(self, bytes_max: int, seed: int) -> None:
        self.memo = SegmentMemo(bytes_max, seed)
        self.cutter = Cutter(list(ADDED.items()), LINES_BEFORE_TEXT, PIECE_BYTES)
        self.model = model.Memo()
        self.is_large = bytes_max == 64 << 20
        self.n_pieces = self.n_bytes = self.n_misses = 0

    @rule(target=plans, text=texts)
    def plan(self, text: str) -> tuple[str, Plan, int, list[str]]:
        plan = self.memo.plan(self.cutter, text)
        missing = plan.missing()
        cuts = model.cut(ADDED, LINES_BEFORE_TEXT, PIECE_BYTES, text)
        pieces = [part for part in cuts if isinstance(part, str)]
        known = self.model.missing(cuts)
        if self.is_large:
            assert missing == known
        else:  # it may have dropped some, and knows none that the model does not
            assert set(missing) >= set(known)
            assert missing == [piece for piece in dict.fromkeys(pieces) if piece in missing]
        assert (plan.n_pieces, plan.n_missing) == (len(pieces), len(missing))
        self.n_pieces += len(pieces)
        self.n_bytes += sum(map(model.n_bytes, pieces))
        self.n_misses += len(missing)
        return text, plan, self.model.generation, missing

    @rule(opened=consumes(plans), kind=st.sampled_from(["list", "array", "bytes", "int64"]))
    def finish(self, opened: tuple[str, Plan, int, list[str]], kind: str) -> None:
        text, plan, generation, missing = opened
        encoded: list[Any] = [encode(piece) for piece in missing]
        for piece, ids in zip(missing, encoded, strict=True):
            self.model.remember(generation, piece, ids)
        if kind != "list":
            dtype = np.int64 if kind == "int64" else np.uint32
            encoded = [np.array(ids, dtype) for ids in encoded]
        if kind == "bytes":
            encoded = [array.tobytes() for array in encoded]
        ids = plan.ids(encoded)
        assert ids.dtype == np.uint32
        assert ids.tolist() == all_ids(text)

    @rule(opened=consumes(plans))
    def give_up(self, opened: tuple[str, Plan, int, list[str]]) -> None:
        """A plan that is never finished leaves nothing behind."""

    @rule()
    def clear(self) -> None:
        self.memo.clear()
        self.model.clear()
        assert counters(self.memo.statistics())["bytes"] == 0

    @invariant()
    def counters_add_up(self) -> None:
        now = self.memo.statistics()
        assert now.bytes <= now.bytes_max
        assert now.hits + now.misses == self.n_pieces
        assert now.hit_bytes + now.missed_bytes == self.n_bytes
        assert now.misses == self.n_misses
        assert now.pieces <= len(self.model.ids)
        if self.is_large:
            assert now.pieces == len(self.model.ids)
            assert now.tokens == sum(map(len, self.model.ids.values()))
            assert (now.evicted, now.refused) == (0, 0)


TestMemoBesideTheModel = pytest.mark.slow(pytest.mark.native(MemoBesideTheModel.TestCase))


@pytest.mark.fuzz
def test_random_conversations_through_small_memos_get_the_right_ids(fuzz_seconds: float) -> None:
    until = time.monotonic() + fuzz_seconds
    seed = 0
    while time.monotonic() < until:
        seed += 1
        rng = random.Random(seed)
        memo = SegmentMemo(rng.choice([200, 5_000, 100_000, 3 << 20]), rng.getrandbits(64))
        cutter = Cutter(list(ADDED.items()), LINES_BEFORE_TEXT, PIECE_BYTES)
        words = ["<s>", "<e>", "\n", " ", "é", "漢", "😀", *(f"w{i}\n" for i in range(rng.choice([3, 300])))]
        chats = [""] * 20
        for _ in range(200):
            which = rng.randrange(len(chats))
            chats[which] += "".join(rng.choices(words, k=rng.randrange(40)))
            plan = memo.plan(cutter, chats[which])
            assert plan.ids([encode(piece) for piece in plan.missing()]).tolist() == all_ids(chats[which])
            if rng.random() < 0.01:
                memo.clear()
        assert memo.statistics().bytes <= memo.statistics().bytes_max
