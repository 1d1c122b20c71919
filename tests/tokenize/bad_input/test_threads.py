"""Many threads, few places, files that change: the ids are those of a plain encoding, always."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from kvatlas.tokenize.chat.chat import Chat
from tests.models.tokenizer_kinds import NASTY, SPECIAL, metaspace_bpe, unigram, with_tokens
from tests.profiles import examples
from tests.tokenize.bad_input.victims import victims
from tests.tokenize.loading.model_files import small_tokenizer, write_model

pytestmark = pytest.mark.timeout(180)
N_THREADS = 16
N_ROUNDS = examples(500)
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "small": small_tokenizer,
    "spaced": lambda: with_tokens(metaspace_bpe("first")),
    "unigram": lambda: with_tokens(unigram()),
}


def rendered(chat: list[dict[str, Any]]) -> str:
    """As the template of these models does it, written by hand."""
    turns = "".join(f"<|a|>{message['role']}\n{message['content']}<|b|>" for message in chat)
    return f"<|ab|>{turns}<|a|>assistant\n"


def random_chat(chance: random.Random, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Another turn of a conversation, or the first of a new one."""
    text = "".join(
        chance.choices((*NASTY, *SPECIAL, "The quick brown fox ", "\n"), k=chance.randrange(1, 20))
    )
    kept = before if chance.random() < 0.7 and len(before) < 12 else []
    return [*kept, {"role": chance.choice(("user", "assistant", "system", "tool")), "content": text}]


@pytest.mark.slow
def test_threads_get_the_ids_of_a_plain_encoding_while_tokenizers_come_and_go(tmp_path: Path) -> None:
    plain = {name: make() for name, make in KINDS.items()}
    for name, tokenizer in plain.items():
        write_model(tmp_path / name, tokenizer)
    tokenizers = victims(tmp_path, loaded_max=2, look_s=0.0, memo_bytes_max=1 << 18)
    wrong: list[object] = []
    left = threading.Semaphore(0)

    def talk(seed: int) -> None:
        chance = random.Random(seed)
        chats: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
        try:
            for _ in range(N_ROUNDS):
                name = chance.choice(tuple(KINDS))
                chat = chats[name] = random_chat(chance, chats[name])
                ids = tokenizers.encode_chat(name, Chat(messages=chat)).token_ids.tolist()
                expected = plain[name].encode(rendered(chat), add_special_tokens=False).ids
                if ids != expected:
                    wrong.append((name, chat))
        except BaseException as error:
            wrong.append(error)
        finally:
            left.release()

    threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(N_THREADS)]
    for thread in threads:
        thread.start()
    n_left = 0
    while n_left < N_THREADS:  # the same tokenizer in another file, all the time
        for name, tokenizer in plain.items():
            write_new(tmp_path / name, tokenizer)
        n_left += left.acquire(timeout=0.01)
    for thread in threads:
        thread.join()
    statistics = tokenizers.statistics()
    tokenizers.close()
    assert wrong == []
    assert statistics.requests == N_THREADS * N_ROUNDS and statistics.failed == statistics.refused == 0
    assert statistics.evicted > 0 and len(statistics.loaded) <= 2
    assert statistics.reloads > 0


def write_new(folder: Path, tokenizer: Tokenizer) -> None:
    """As whoever wants no reader to see half of it: beside it, and then in its place."""
    tokenizer.save(str(folder / "new.json"))
    (folder / "new.json").replace(folder / "tokenizer.json")
