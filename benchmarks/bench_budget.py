"""How much of what engines hold an index at a limit still finds: ours, LRU, llm-d's; a trace, zipf, scans."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from budget_policies import BlockLru, LlmdLimit, OurTable, Policy, SegmentLru
from budget_traffic import Traffic, Turn, played, scanned, trace, zipf
from results import Result, arguments, show

SHARES = (0.25, 0.5, 0.75)
"""Of the memory that is needed to drop nothing: bytes for our table, entries for the others."""


class Outcome(NamedTuple):
    missed: float
    """Share of the blocks that engines hold of the prompts, which the index did not find."""
    hurt: float
    """Share of the lookups whose best match was shorter than without a limit."""


def outcome(policy: Policy, turns: list[Turn]) -> Outcome:
    found = held = hurt = 0
    for turn in turns:
        seen = policy.look_up(turn.prompt[: turn.held])
        found, held, hurt = found + seen, held + turn.held, hurt + (seen < turn.held)
        policy.remove(turn.engine, turn.removed)
        policy.store(turn.engine, turn.stored)
    return Outcome(1 - found / held, hurt / len(turns))


def needed_bytes(traffic: Traffic) -> int:
    """The least budget with which our table drops nothing, to a fiftieth."""
    low, high = 4 << 20, 1 << 30
    while high > low * 1.02:
        middle = int((low * high) ** 0.5)
        if drops(middle, traffic.turns):
            low = middle
        else:
            high = middle
    return high


def drops(budget_bytes: int, turns: list[Turn]) -> bool:
    table = OurTable(budget_bytes)
    for turn in turns:
        table.remove(turn.engine, turn.removed)
        table.store(turn.engine, turn.stored)
        statistics = table.index.statistics()[0]
        if statistics["dropped_entries"] or statistics["dropped_adds"]:
            return True
    return False


def compare(name: str, traffic: Traffic) -> Iterator[Result]:
    needed = needed_bytes(traffic)
    print(f"{name}: {len(traffic.turns)} lookups, {traffic.units_held_max * 32 / 1e6:.2f} M blocks at once,"
          f" {needed / 1e6:.1f} MB needed")  # fmt: skip
    others: dict[str, Callable[[int], Policy]] = {
        "LRU": BlockLru,
        "LRU by segment": SegmentLru,
        "llm-d's limit": LlmdLimit,
    }
    for share in SHARES:
        table = OurTable(int(needed * share))
        ours = outcome(table, traffic.turns)
        statistics = table.index.statistics()[0]
        assert statistics["bytes"] <= statistics["bytes_max"], statistics
        for other, made in others.items():
            theirs = outcome(made(int(traffic.units_held_max * share)), traffic.turns)
            for field in Outcome._fields:
                yield Result(
                    row=f"budget/{name}/{share:.0%}/{other}/{field}",
                    what=f"{name}, {share:.0%}: {field}, beside {other}",
                    unit="share",
                    median=getattr(ours, field),
                    best=getattr(ours, field),
                    peer_median=getattr(theirs, field),
                    peer_best=getattr(theirs, field),
                )


def main() -> None:
    parser = arguments(__doc__)
    shared = Path(os.environ.get("KVATLAS_SHARED", Path(__file__).parents[2] / "shared"))
    parser.add_argument("--trace", type=Path, default=shared / "traces" / "mooncake_conversation.jsonl")
    args = parser.parse_args()
    n = 3_000 if args.quick else 12_000
    workloads = {"zipf": played(zipf(n, 4_000), 4_000), "scan": played(scanned(n, 4_000), 4_000)}
    if args.trace.exists():
        workloads["trace"] = played(list(trace(args.trace))[: n if args.quick else None], 5_000)
    results = [r for name, traffic in workloads.items() for r in compare(name, traffic)]
    show(results, args.json)


if __name__ == "__main__":
    main()
