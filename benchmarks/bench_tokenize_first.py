"""How long a text of 8k tokens takes that nobody has seen, beside a plain encode of the tokenizers library.

Each sample is a text that is new to all: each way has its own object of the tokenizer, which has been
given the same texts in the same order, so the library's caches of words have seen the same. Ids are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chats import TEXT_CHARS, Conversations, Texts, said, tokenizer_folder
from plain_tokenizing import PlainTokenizing, beside
from results import Result, arguments, show, timed

from kvatlas import TokenizeConfig, Tokenizers

TOKENIZERS = ("qwen3", "gpt-oss")
WITH_TEMPLATE = "qwen3"
CHECKED = 3
"""Answers that a new tokenizer compares with a plain encode, each of them; they are not timed."""


class Rig:
    """All ways to token ids, each past what it does with its first texts."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.texts = Texts()
        self.plain, self.fast = PlainTokenizing(folder), PlainTokenizing(folder)
        self.ours = Tokenizers(TokenizeConfig(models={name: str(folder)}, order=("models",)))
        for _ in range(CHECKED):
            text = self.texts.take(TEXT_CHARS)
            self.ids(text)
            self.plain.encode(text)
            self.fast.encode_fast(text)

    def ids(self, text: str) -> Any:
        return self.ours.tokenize(self.name, prompt=text).token_ids

    def chat_ids(self, messages: list[dict[str, Any]]) -> Any:
        return self.ours.tokenize(self.name, messages=messages).token_ids

    def held_share(self) -> float:
        """Of the bytes that were asked of the memo: those that it held."""
        counts = self.ours.statistics().loaded[0].counts
        return counts["memo_hit_bytes"] / (counts["memo_hit_bytes"] + counts["memo_missed_bytes"])


def bench_text(rig: Rig, rounds: int) -> list[Result]:
    texts = (rig.texts.take(TEXT_CHARS) for _ in itertools.count())
    ways = {"ours": rig.ids, "plain": rig.plain.encode, "fast": rig.fast.encode_fast}
    times = beside(ways, texts, rounds=rounds)
    assert rig.held_share() < 0.02, f"the memo held {rig.held_share():.1%} of texts that should be new"
    return [
        timed(f"first/{rig.name}/text", f"{rig.name}: a text, beside encode", times["ours"], times["plain"]),
        timed(
            f"first/{rig.name}/fast",
            f"{rig.name}: the same, beside encode_batch_fast of one text",
            times["ours"],
            times["fast"],
        ),
    ]


def bench_chat(rig: Rig, rounds: int) -> list[Result]:
    """Whole chats of 16 turns: nothing of them but the template's own words has been seen."""

    def chats() -> Iterator[list[dict[str, Any]]]:
        while True:
            [begun] = Conversations(rig.texts, 1).begun
            yield [*begun, said("user", "And what follows from this?")]

    times = beside({"ours": rig.chat_ids, "plain": rig.plain.encode_chat}, chats(), rounds=rounds)
    assert rig.held_share() < 0.02, f"the memo held {rig.held_share():.1%} of chats that should be new"
    what = f"{rig.name}: a chat, beside render and encode"
    return [timed(f"first/{rig.name}/chat", what, times["ours"], times["plain"])]


def main() -> None:
    args = arguments(__doc__).parse_args()
    rounds = 7 if args.quick else 31
    results: list[Result] = []
    for name in TOKENIZERS:
        folder = tokenizer_folder(name)
        if folder is None:
            continue
        results += bench_text(Rig(name, folder), rounds)
        if name == WITH_TEMPLATE:
            results += bench_chat(Rig(name, folder), rounds)
    show(results, args.json)


if __name__ == "__main__":
    main()
