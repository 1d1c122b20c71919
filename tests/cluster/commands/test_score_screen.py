"""What `kvatlas score` shows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from kvatlas.cluster.commands.score_screen import ScoredPrompt, plain_score, score_view
from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS, TIERS, Explanation, Scores, WorkerExplanation
from kvatlas.index.scores import KnownTruth as Truth
from kvatlas.index.shards import Matches

WEIGHTS = np.array([DEFAULT_TIER_WEIGHTS[tier] for tier in TIERS])


def scored(
    workers: Sequence[tuple[str, int, int, int]],
    *,
    is_whole: bool = True,
    note: str = "",
    by: str = "files:/a",
) -> ScoredPrompt:
    """`workers` are (pod, rank, blocks on the GPU, blocks in CPU memory), of a prompt of 100 tokens."""
    tiers = np.array([(gpu, cpu, 0, 0, 0) for _, _, gpu, cpu in workers], np.uint32).reshape(-1, 5)
    numbers = np.arange(len(workers), dtype=np.uint32)
    matches = Matches(numbers, tiers.sum(axis=1, dtype=np.uint32), tiers, 0, (), is_whole)
    names = {number: (pod, rank) for number, (pod, rank, _, _) in enumerate(workers)}
    explained = tuple(
        WorkerExplanation(
            pod=pod,
            rank=rank,
            blocks=gpu + cpu,
            tier_blocks={},
            score=0.0,
            ends_at_block=gpu + cpu,
            reason=f"block {gpu + cpu} is held nowhere",
            stores=(),
        )
        for pod, rank, gpu, cpu in workers
    )
    truths = {number: Truth("EXACT" if number == 0 else "BLIND") for number in names}
    told = Explanation(
        model="m", prompt_tokens=100, prompt_blocks=6, block_size_tokens=16, workers=explained, note=note
    )
    scores = Scores(matches, names, WEIGHTS, prompt_blocks=6, block_size_tokens=16, truths=truths)
    return ScoredPrompt("m", scores, told, by)


def shown(prompt: ScoredPrompt) -> list[str]:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(score_view(prompt), highlight=False)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_pods_stand_best_first_with_tiers_tokens_and_truth() -> None:
    lines = [" ".join(line.split()) for line in shown(scored([("pod-b", 0, 1, 2), ("[pod]-a", 0, 5, 0)]))]
    assert lines == [
        "m: 100 tokens, 6 full blocks of 16",
        "tokens by files:/a",
        "pod score tokens reused share blocks by tier truth why it ends there",
        "[pod]-a 5.0 80 80.0 % gpu 5 BLIND block 5 is held nowhere",
        "pod-b 2.6 48 48.0 % gpu 1, cpu 2 EXACT block 3 is held nowhere",
    ]


def test_ranks_are_shown_where_there_are_several() -> None:
    lines = shown(scored([("pod-a", 0, 1, 0), ("pod-a", 1, 2, 0)], by=""))
    assert lines[0] == "m: 100 tokens, 6 full blocks of 16"
    assert lines[1].split()[:2] == ["pod", "rank"]
    assert [line.split()[1] for line in lines[2:]] == ["1", "0"]


def test_nothing_found_is_said_and_why() -> None:
    assert shown(scored([], by=""))[1:] == ["no worker holds its first block"]
    assert shown(scored([], note="no server has announced a model 'm'", by=""))[1:] == [
        "no server has announced a model 'm'"
    ]
    assert "a shard is missing: workers may hold more" in shown(scored([("a", 0, 1, 0)], is_whole=False))


def test_many_workers_are_cut_short_and_counted() -> None:
    lines = shown(scored([(f"pod-{number}", 0, 1, 0) for number in range(50)], by=""))
    assert len(lines) == 2 + 40 + 1
    assert "and 10 more: --json shows all" in lines[-1]


def test_the_same_as_json() -> None:
    told = json.loads(json.dumps(plain_score(scored([("pod-b", 0, 1, 2), ("pod-a", 0, 5, 0)]))))
    assert told["scores"] == {"pod-a": 5.0, "pod-b": 2.6}
    assert [worker["pod"] for worker in told["workers"]] == ["pod-a", "pod-b"]
    assert told["workers"][1] == {
        "pod": "pod-b",
        "rank": 0,
        "blocks": 3,
        "tier_blocks": {"gpu": 1, "cpu": 2},
        "score": 2.6,
        "cached_tokens": 48,
        "truth": "EXACT",
        "reason": "block 3 is held nowhere",
    }
    assert (told["prompt_tokens"], told["prompt_blocks"], told["block_size_tokens"]) == (100, 6, 16)
    assert (told["model"], told["tokens_by"], told["is_whole"], told["note"]) == ("m", "files:/a", True, "")
