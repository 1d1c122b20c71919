"""Chats scored as they come: messages in, pods by score out, in one process and without Ray.

    python examples/chat_scores.py

For a real model, `folders=("/models",)` in place of the tiny tokenizer that is made here: the folder of a
model as it is published has all that is needed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

import kvatlas
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "tiny/chat-model"
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|role|>' + message.role + '<|text|>' + message.content + '<|end|>' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|role|>assistant<|text|>' }}{% endif -%}
"""
SYSTEM = "You answer questions about caches, in short sentences and without figures that you have not seen. "
QUESTIONS = (
    "What does a model server keep in its cache?",
    "And when is it thrown away?",
    "Who tells the router?",
)


def write_model(folder: Path) -> None:
    """A byte-level BPE with three special tokens, and a chat template: files as a model brings them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, normalized=False) for token in ("<|role|>", "<|text|>", "<|end|>")],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SYSTEM, *QUESTIONS], trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def server_of(pod: str, atlas: kvatlas.Atlas) -> SimulatedServer:
    """A server whose events go straight into the atlas; real ones publish them over ZeroMQ."""
    numbers = itertools.count()

    def publish(payload: bytes) -> None:
        atlas.ingest(f"kv@{pod}@{MODEL}".encode(), next(numbers), payload)

    return SimulatedServer(pod, MODEL, publish=publish)


def converse(atlas: kvatlas.Atlas, tokenizers: kvatlas.Tokenizers, pods: dict[str, SimulatedServer]) -> None:
    """Some turns of one chat, each sent to the pod that can reuse most of it."""
    messages = [{"role": "system", "content": 3 * SYSTEM}]
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        scores = atlas.score(messages=messages, model=MODEL)
        pod = max(scores, key=lambda name: scores[name], default="pod-a")
        foretold = scores.matches[0].cached_tokens if scores else 0

        prompt = tokenizers.tokenize(MODEL, messages=messages)  # as the server does for itself
        reused = pods[pod].serve(prompt.token_ids.tolist())
        print(f"{len(prompt.token_ids)} tokens to {pod}: {foretold} foretold as reused, {reused} reused")
        messages.append({"role": "assistant", "content": "That is told by an event."})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder, MODEL))
        config = kvatlas.TokenizeConfig(folders=(folder,))
        with contextlib.closing(kvatlas.Tokenizers(config)) as tokenizers:
            atlas = kvatlas.Atlas(tokenizers=tokenizers)
            converse(atlas, tokenizers, {pod: server_of(pod, atlas) for pod in ("pod-a", "pod-b")})

            (tiny,) = tokenizers.statistics().loaded
            print(tiny.exactness)
            print("pieces encoded:", tiny.counts["memo_misses"], "remembered:", tiny.counts["memo_hits"])


if __name__ == "__main__":
    main()
