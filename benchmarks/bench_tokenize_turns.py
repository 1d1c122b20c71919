"""How long the next turn of a chat of 8k tokens takes, from messages to token ids and to scores.

Beside it, as the peer: jinja's sandbox renders the whole chat and the tokenizers library encodes it (for
scores: and the same atlas is asked with these ids). Every answer is compared. Each sample is a turn that is
new to both; the memo holds the turns before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chats import LONG_CHARS, TEXT_CHARS, Conversations, Texts, Turn, tokenizer_folder
from plain_tokenizing import PlainTokenizing, beside
from results import Result, arguments, show, timed
from timing import Timing
from workload import BLOCK_TOKENS, SEED

from kvatlas import Atlas, AtlasConfig, Chat, ModelConfig, TokenizeConfig, Tokenizers
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "qwen3"
PODS, PODS_EACH = 16, 4
CHATS = 32
PREFIX_SHARE = 7 / 8
CALLS = 4
"""In a sample: a router encodes one turn after the other, not each behind a whole encode of the peer."""
Messages = list[dict[str, Any]]


class Rig:
    """Both ways to token ids, and the chats."""

    def __init__(self, folder: Path, chats: int) -> None:
        self.texts = Texts()
        self.chats = Conversations(self.texts, chats)
        self.plain = PlainTokenizing(folder)
        self.config = TokenizeConfig(models={MODEL: str(folder)}, order=("models",))
        self.ours = Tokenizers(self.config)
        self.asked = list(self.chats.asked())
        """Of each chat the turn before the one that is timed."""

    def ids(self, messages: Messages) -> Any:
        return self.ours.tokenize(MODEL, messages=messages).token_ids

    def missed_bytes(self) -> int:
        """Of texts that the memo did not hold, so far."""
        return int(self.ours.statistics().loaded[0].counts["memo_missed_bytes"])


def bench_turns(rig: Rig, rounds: int) -> list[Result]:
    """Messages to ids."""
    for messages in rig.asked:
        rig.ids(messages)
    kinds = {
        "question": ("a new question", rig.chats.questions()),
        "long": ("a new question, a long one", rig.chats.questions(LONG_CHARS)),
        "reply": ("a new question, and the reply before it is new", rig.chats.turns()),
    }
    return [bench_kind(rig, f"turn/{name}", what, turns, rounds) for name, (what, turns) in kinds.items()]


def bench_kind(rig: Rig, row: str, what: str, turns: Iterator[Turn], rounds: int) -> Result:
    first = next(turns)
    n_all, n_new = len(rig.ids(first.messages)), len(rig.plain.encode(first.new, False))
    given: list[Turn] = []

    def all_messages() -> Iterator[Messages]:
        for turn in turns:
            given.append(turn)
            yield turn.messages

    before = rig.missed_bytes()
    times = beside(
        {"ours": rig.ids, "plain": rig.plain.encode_chat}, all_messages(), rounds=rounds, calls=CALLS
    )
    missed, new = rig.missed_bytes() - before, sum(len(turn.new.encode()) for turn in given)
    assert new <= missed < 1.2 * new + 64 * len(given), f"{missed} bytes were new to the memo, of {new}"
    return timed(row, f"{what}: {n_new} of {n_all} tokens", times["ours"], times["plain"])


def bench_known(rig: Rig, rounds: int) -> list[Result]:
    """What the memo holds wholly, or for the most part; what comes on top; the template alone."""
    cycle = itertools.cycle(rig.asked)
    seen = beside({"ours": rig.ids, "plain": rig.plain.encode_chat}, cycle, rounds=rounds, calls=CALLS)
    renderer = rig.ours.get(MODEL)

    def ours_rendered(messages: Messages) -> str:
        return renderer.render_chat(Chat(messages=messages))

    rendered = beside({"ours": ours_rendered, "plain": rig.plain.render}, cycle, rounds=rounds, calls=CALLS)
    prefix = rig.texts.take(int(TEXT_CHARS * PREFIX_SHARE))
    prompts = (f"{prefix}\n{rig.texts.take(int(TEXT_CHARS * (1 - PREFIX_SHARE)))}" for _ in itertools.count())

    def of_prompt(prompt: str) -> Any:
        return rig.ours.tokenize(MODEL, prompt=prompt).token_ids

    prefixed = beside({"ours": of_prompt, "plain": rig.plain.encode}, prompts, rounds=rounds, calls=CALLS)
    share = rig.config.check_share
    checks = Timing(seen["plain"].median * share, seen["plain"].best * share)
    return [
        timed("turn/seen", "a chat that was seen as a whole", seen["ours"], seen["plain"]),
        timed("turn/render", "of it the text alone", rendered["ours"], rendered["plain"]),
        timed(
            "turn/prefix", "a plain prompt, 7/8 of it shared with others", prefixed["ours"], prefixed["plain"]
        ),
        timed("turn/checks", f"on average on top: 1 of {1 / share:.0f} answers is compared", checks),
    ]


def filled_atlas(rig: Rig) -> Atlas:
    """16 pods, of which four hold each chat, as far as it is begun."""
    models = {MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}
    atlas = Atlas(AtlasConfig(hash_seed=SEED, models=models), tokenizers=rig.ours)
    sent: list[bytes] = []
    servers = [
        SimulatedServer(f"pod-{i}", MODEL, block_size=BLOCK_TOKENS, blocks=1 << 15, publish=sent.append)
        for i in range(PODS)
    ]
    held = [rig.ids(messages).tolist() for messages in rig.asked]
    for i, server in enumerate(servers):
        for ids in held[i % (PODS // PODS_EACH) :: PODS // PODS_EACH]:
            server.serve(ids, 1)
        for number, payload in enumerate(sent):
            atlas.ingest(f"kv@{server.pod}@{MODEL}".encode(), number, payload)
        sent.clear()
    return atlas


def bench_scores(rig: Rig, rounds: int) -> list[Result]:
    """Messages to scores, of an atlas in this process."""
    atlas = filled_atlas(rig)

    def ours(messages: Messages) -> dict[str, float]:
        return dict(atlas.score(model=MODEL, messages=messages))

    def plain(messages: Messages) -> dict[str, float]:
        return dict(atlas.score(rig.plain.encode_chat(messages), model=MODEL))

    results = []
    for kind, what, turns in (
        ("question", "a new question", rig.chats.questions()),
        ("reply", "a new question, and the reply before it is new", rig.chats.turns()),
    ):
        best = max(ours(next(turns).messages).values())
        assert best > 300, f"expected most of the 500 blocks at some pod, got {best}"
        inputs = (turn.messages for turn in turns)
        times = beside({"ours": ours, "plain": plain}, inputs, rounds=rounds, calls=CALLS)
        results.append(
            timed(f"turn/score/{kind}", f"to scores, {PODS} pods: {what}", times["ours"], times["plain"])
        )
    return results


def main() -> None:
    args = arguments(__doc__).parse_args()
    folder = tokenizer_folder(MODEL)
    results: list[Result] = []
    if folder is not None:
        rounds = 5 if args.quick else 31
        rig = Rig(folder, 8 if args.quick else CHATS)
        results += bench_turns(rig, rounds)
        results += bench_known(rig, rounds)
        results += bench_scores(rig, rounds)
    show(results, args.json)


if __name__ == "__main__":
    main()
