"""KV events without a server: payloads made by hand, an atlas that reads them, and a question.

python examples/offline_events.py
"""

from __future__ import annotations

import msgpack

import kvatlas

MODEL = "some/model"
BLOCK_SIZE = 16  # tokens

# Two prompts that begin alike: a system prompt of 48 tokens, then different questions.
SYSTEM_PROMPT = list(range(1000, 1048))
PROMPT = SYSTEM_PROMPT + list(range(2000, 2032))
OTHER_PROMPT = SYSTEM_PROMPT + list(range(3000, 3032))


def stored(block_hashes: list[int], token_ids: list[int], parent: int | None = None) -> dict[str, object]:
    """A server computed these blocks and keeps them; the hashes are its own names for them."""
    return {
        "type": "BlockStored",
        "block_hashes": block_hashes,
        "parent_block_hash": parent,
        "token_ids": token_ids,
        "block_size": BLOCK_SIZE,
        "medium": "GPU",
        "extra_keys": [None] * len(block_hashes),
    }


def stored_on_cpu(block_hashes: list[int]) -> dict[str, object]:
    """Copies in CPU memory, of blocks announced before: no tokens, only their names."""
    return {
        "type": "BlockStored",
        "block_hashes": block_hashes,
        "parent_block_hash": None,
        "token_ids": [],
        "block_size": 0,
        "medium": "CPU",
    }


def removed(block_hashes: list[int]) -> dict[str, object]:
    """The server needed the room in GPU memory."""
    return {"type": "BlockRemoved", "block_hashes": block_hashes, "medium": "GPU"}


def batch(*events: dict[str, object]) -> bytes:
    """What a server publishes at the end of an engine step: time, events, data-parallel rank."""
    return msgpack.packb([1_700_000_000.0, list(events), 0])


def main() -> None:
    atlas = kvatlas.Atlas()

    # pod-a served PROMPT: five full blocks. Then it moved the last two out to CPU memory.
    atlas.ingest(b"kv@pod-a@some/model", 0, batch(stored([1, 2, 3, 4, 5], PROMPT)))
    atlas.ingest(b"kv@pod-a@some/model", 1, batch(stored_on_cpu([4, 5]), removed([5]), removed([4])))

    # pod-b served OTHER_PROMPT, in two steps; its names have nothing to do with those of pod-a.
    first, rest = OTHER_PROMPT[:48], OTHER_PROMPT[48:]
    atlas.ingest(b"kv@pod-b@some/model", 0, batch(stored([71, 72, 73], first)))
    atlas.ingest(b"kv@pod-b@some/model", 1, batch(stored([74, 75], rest, parent=73)))

    print("scores of the prompt (a block on a GPU counts 1, in CPU memory 0.8):")
    scores = atlas.score(PROMPT, model=MODEL)
    for match in scores.matches:
        print(f"  {match.pod}: {match.score:.1f} of {scores.prompt_blocks} blocks, {match.tier_blocks}")

    print("why each ends where it ends:")
    for worker in atlas.explain(PROMPT, model=MODEL).workers:
        print(f"  {worker.pod}: {worker.reason}")

    # A broken event is counted; the others of its batch are applied.
    atlas.ingest(
        b"kv@pod-b@some/model", 2, batch({"type": "BlockStored", "block_hashes": "?"}, removed([75]))
    )
    statistics = atlas.statistics()
    print("pod-b after its last batch:", {w.pod: w.blocks for w in statistics.workers}["pod-b"])
    print("not applied:", {reason: count for reason, count in statistics.skips.items() if count})


if __name__ == "__main__":
    main()
