"""What has to be reached: each goal's thresholds, and how far the measurements are from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from results import Result, number

Results = Mapping[str, Result]
"""By row."""


class Outcome(NamedTuple):
    """One goal judged. A score is measured over wanted, 1 or more: reached."""

    measured: str
    peer: str
    must: float | None
    """None: the peer is missing."""
    aim: float | None


class Goal(NamedTuple):
    """One line of the table in docs/benchmarks.md."""

    what: str
    must: str
    aim: str
    judge: Callable[[Results], Outcome]


def verdict(outcome: Outcome) -> str:
    if outcome.must is None:
        return "no peer to compare with"
    if outcome.must < 1:
        return f"**falls short by {1 - outcome.must:.0%}**"
    if outcome.aim is None:
        return "reached"
    return "reached, the aim too" if outcome.aim >= 1 else f"reached; {1 - outcome.aim:.0%} short of the aim"


def times_the_peer(what: str, rows: Sequence[str], must: float, aim: float) -> Goal:
    """So many times better than the peer, in the worst of the rows."""

    def judge(results: Results) -> Outcome:
        worst = min((results[row] for row in rows), key=lambda r: r.ratio or 0.0)
        if worst.ratio is None:
            return Outcome(_pair(worst), "", None, None)
        measured = f"{_pair(worst)}: {worst.ratio:.1f}x"
        return Outcome(measured, _peer_pair(worst), worst.ratio / must, worst.ratio / aim)

    return Goal(what, f"{must:g}x", f"{aim:g}x", judge)


def share_of_the_peer(what: str, rows: Sequence[str], must: float, aim: float) -> Goal:
    """So much of what the peer reaches, which is the limit, in the worst of the rows."""

    def judge(results: Results) -> Outcome:
        worst = min((results[row] for row in rows), key=lambda r: r.ratio or 0.0)
        if worst.ratio is None:
            return Outcome(_pair(worst), "", None, None)
        measured = f"{_pair(worst)}: {worst.ratio:.2f} ({worst.what.partition(' (')[0]})"
        return Outcome(measured, _peer_pair(worst), worst.ratio / must, worst.ratio / aim)

    return Goal(what, f"{must:g}", f"{aim:g}", judge)


def rate(what: str, row: str, must: float, aim: float, times_peer: float = 0) -> Goal:
    """So many million blocks a second, and so many times the peer's."""

    def judge(results: Results) -> Outcome:
        result = results[row]
        score = result.median / must
        if result.ratio is None:
            return Outcome(_pair(result), "", None if times_peer else score, result.median / aim)
        measured = f"{_pair(result)}: {result.ratio:.1f}x"
        if times_peer:
            score = min(score, result.ratio / times_peer)
        return Outcome(measured, _peer_pair(result), score, result.median / aim)

    return Goal(what, f"{must:g} M" + (f" and {times_peer:g}x" if times_peer else ""), f"{aim:g} M", judge)


def at_most(what: str, rows: Sequence[str], must: float, aim: float | None = None) -> Goal:
    """The worst of the rows."""

    def judge(results: Results) -> Outcome:
        worst = max((results[row] for row in rows), key=lambda r: r.median)
        return Outcome(_pair(worst), _peer_pair(worst), must / worst.median, aim and aim / worst.median)

    return Goal(what, f"{must:g}", "" if aim is None else f"{aim:g}", judge)


def at_most_the_other(
    what: str, rows: Sequence[str], must: float, aim: float, other: str = "in process"
) -> Goal:
    """So many times the time of the other way to do the same, in the worst of the rows."""

    def judge(results: Results) -> Outcome:
        worst = min((results[row] for row in rows), key=lambda r: r.ratio or 0.0)
        times = 1 / worst.ratio if worst.ratio else float("inf")
        return Outcome(
            f"{_pair(worst)}: {times:.2f}x", f"{other} {_peer_pair(worst)}", must / times, aim / times
        )

    return Goal(what, f"{must:g}x", f"{aim:g}x", judge)


def added_to_the_other(what: str, row: str, must_us: float, aim_us: float) -> Goal:
    """At most so many microseconds more than the other way to do the same."""

    def judge(results: Results) -> Outcome:
        result = results[row]
        if result.peer_median is None:
            return Outcome(_pair(result), "", None, None)
        added_us = max(result.median - result.peer_median, 1e-3)
        measured = f"{_pair(result)}: {number(result.median - result.peer_median)} us more"
        return Outcome(measured, f"beside {_peer_pair(result)}", must_us / added_us, aim_us / added_us)

    return Goal(what, f"+ {must_us:g} us", f"+ {aim_us:g} us", judge)


def aimed_at(what: str, row: str, aim: float) -> Goal:
    """At most so much would be well; nothing must be."""

    def judge(results: Results) -> Outcome:
        result = results[row]
        return Outcome(_pair(result), _peer_pair(result), 1.0, aim / result.median)

    return Goal(what, "", f"{aim:g}", judge)


def at_least(what: str, rows: Sequence[str], must: float, aim: float) -> Goal:
    """The worst of the rows."""

    def judge(results: Results) -> Outcome:
        worst = min((results[row] for row in rows), key=lambda r: r.median)
        return Outcome(_pair(worst), _peer_pair(worst), worst.median / must, worst.median / aim)

    return Goal(what, number(must), number(aim), judge)


def none_of(what: str, rows: Sequence[str]) -> Goal:
    """A count that has to be zero."""

    def judge(results: Results) -> Outcome:
        counted = [results[row] for row in rows]
        measured = "; ".join(f"{number(r.median)} ({r.what.rpartition(', ')[2]})" for r in counted)
        return Outcome(measured, "", 0.0 if any(r.median for r in counted) else 1.0, None)

    return Goal(what, "0", "", judge)


def stated(what: str, rows: Sequence[str]) -> Goal:
    """Asked for as a figure, without a threshold."""

    def judge(results: Results) -> Outcome:
        return Outcome(", ".join(_pair(results[row]) for row in rows), "", 1.0, None)

    return Goal(what, "stated", "", judge)


def flat_in_workers(what: str, row: str, workers: Sequence[int], factor: float, lane_ns: float) -> Goal:
    """A match costs at most `factor` times that of the fewest workers, plus so much per matching lane."""

    def judge(results: Results) -> Outcome:
        few = results[row.format(workers[0])]
        scores = []
        for n in workers[1:]:
            allowed_us = factor * few.median + lane_ns * n / 1e3
            scores.append(allowed_us / results[row.format(n)].median)
        shown = [results[row.format(n)] for n in workers]
        measured = ", ".join(number(r.median) for r in shown) + f" {few.unit}"
        peer = ", ".join(number(r.peer_median) for r in shown) + f" {few.unit}" if few.peer_median else ""
        return Outcome(measured, peer, min(scores), None)

    return Goal(what, f"{factor:g}x + {lane_ns:g} ns a lane", "", judge)


def _pair(result: Result) -> str:
    if result.median == result.best:
        return f"{number(result.median)} {result.unit}"
    return f"{number(result.median)} ({number(result.best)}) {result.unit}"


def _peer_pair(result: Result) -> str:
    if result.peer_median is None:
        return ""
    if result.peer_median == result.peer_best:
        return number(result.peer_median)
    return f"{number(result.peer_median)} ({number(result.peer_best)})"


GOALS = (
    times_the_peer("block keys of 8 192 tokens", ["keys/8192/fold64/numpy"], 10, 20),
    times_the_peer("match, 512 blocks hit", [f"match/hit512/{w}/closed" for w in (8, 64)], 2, 4),
    times_the_peer("match, 8 192 blocks hit", [f"match/hit8192/{w}/closed" for w in (8, 64)], 4, 20),
    times_the_peer("match, 512 blocks missed", [f"match/miss512/{w}/closed" for w in (8, 64)], 10, 50),
    rate("payload to table, 512 blocks an event", "ingest/512", 2.5, 6, 2),
    rate("payload to table, 16 blocks an event", "ingest/16", 1.5, 4, 2),
    rate("payload to table, 1 block an event", "ingest/1", 0.3, 1, 2),
    at_most(
        "table bytes per distinct block, 64 workers, 1 M pairs",
        [f"memory/table/distinct-block/64/{kind}" for kind in ("counted", "resident")],
        40,
        24,
    ),
    at_most(
        "mirror bytes per (block, worker)",
        [f"memory/mirrors/pair/64/{kind}" for kind in ("counted", "resident")],
        80,
        40,
    ),
    at_most_the_other(
        "reader in another process, time of a lookup",
        [f"reader/{what}/closed" for what in ("hit512", "hit8192", "miss512")],
        1.5,
        1.1,
    ),
    flat_in_workers(
        "match of a chain held by 8, 64, 1 024 workers", "lanes/{}/closed", (8, 64, 1024), 1.3, 3
    ),
    at_most("churn in a table of 1 M: p99 pause of an apply", ["churn/p99"], 10, 2),
    at_most("churn: peak memory at the end, times that at the half", ["churn/growth"], 1.02),
    rate("sockets to table on one core, 512 blocks an event", "subscriber/512", 2, 4),
    rate("sockets to table on one core, 16 blocks an event", "subscriber/16", 0.8, 1.5),
    rate("sockets to table on one core, 1 block an event", "subscriber/1", 0.06, 0.1),
    at_most(
        "late join, gap, restart: EXACT again with 100 000 blocks, us",
        [f"recovery/{kind}" for kind in ("late join", "gap", "restart")],
        1_000_000,
    ),
    at_most("checkpoint of 1 M blocks: write in the background, s", ["checkpoint/write"], 0.5),
    at_most("checkpoint of 1 M blocks: load, s", ["checkpoint/load"], 0.5),
    at_most("checkpoint: bytes a block", ["checkpoint/bytes"], 48),
    at_most("checkpoint: slowest batch while it is written, ms", ["checkpoint/wait"], 5),
    added_to_the_other(
        "client.score, 8 192 tokens, attached, beside Atlas.score", "read/attached/8192", 20, 5
    ),
    added_to_the_other(
        "scorer.score.remote, 8 192 tokens, beside an empty call", "read/scorer/8192", 300, 100
    ),
    at_least(
        "score_many through one scorer, prompts of 512 blocks a second", ["read/many/sent"], 5000, 20_000
    ),
    at_most("16 pods x 100 batches/s, publish to score: p99, ms", ["visible/zmq/p99"], 100, 10),
    at_most("shard of 4 killed, 1 M pairs: whole, from its new process being up, s", ["heal/kill/up"], 3, 1),
    at_most("4 shards to 8, 1 M pairs, from the new processes being up, s", ["heal/reshard/up"], 5, 1),
    none_of("wrong answers meanwhile", ["heal/kill/wrong", "heal/reshard/wrong"]),
    stated(
        "a subscriber's private memory: idle, with 64 pods and 1 M blocks",
        ["actors/subscriber/idle/uss", "actors/subscriber/64/uss"],
    ),
    times_the_peer(
        "next turn of a chat of 8k tokens, messages to ids: a new question, short or long",
        ["turn/question", "turn/long"],
        20,
        100,
    ),
    times_the_peer("the same, the reply before the question is new as well", ["turn/reply"], 20, 100),
    at_most("messages to scores of that turn, 16 pods, us", ["turn/score/question"], 2000, 500),
    at_most("the same, the reply is new as well, us", ["turn/score/reply"], 2000, 500),
    at_most_the_other(
        "a text of 8k tokens, first time seen",
        ["first/qwen3/text", "first/gpt-oss/text", "first/qwen3/chat"],
        1.1,
        0.7,
        other="plain",
    ),
    at_most(
        "segment memo: bytes a token beyond the text",
        [f"memo/{kind}/{how}" for kind in ("text", "chat") for how in ("counted", "resident")],
        8,
    ),
    at_most("segment memo that overflows: resident, times its bound", ["memo/bound"], 1.25),
    stated(
        "next turn tokenized elsewhere, messages to ids: pool of the cluster, gRPC service",
        ["ask/pool/ids", "ask/service/ids"],
    ),
    at_most("choose and reserve, 8 192 token ids in a list, 64 workers, us", ["choose/list"], 250, 130),
    at_most("the same, time on the event loop, us", ["choose/loop"], 150, 100),
    at_most("the same from numpy and from bytes, us", ["choose/numpy", "choose/bytes"], 100, 40),
    at_least(
        "choices a second with their ends, one process, from bytes",
        [f"choose/many/bytes/{threads}" for threads in (2, 8)],
        8000,
        30_000,
    ),
    at_least("the same from lists", [f"choose/many/list/{threads}" for threads in (2, 8)], 3500, 6000),
    at_most("all hooks of the Serve router, a request with 8 192 ids, us", ["serve/hooks"], 300, 100),
    at_most(
        "proxy, added to the first part: alone and with 200 streams, ms",
        ["proxy/added", "proxy/200/added"],
        3,
        1,
    ),
    aimed_at("the same with 500 streams, ms", "proxy/500/added", 1),
    stated(
        "TTFT p50 and p90 of chats, 8 pods in simulated time; peer: its cost formula",
        ["routing/chats/weighted/p50", "routing/chats/weighted/p90"],
    ),
    share_of_the_peer(
        "files of 2 MB chunks, times vLLM's fs tier: many jobs at once",
        [f"files/{direction}/many/{depth}/fs" for direction in ("store", "load") for depth in (8, 32)],
        1.2,
        2,
    ),
    share_of_the_peer(
        "the same, one job: a request's chunks",
        [f"files/{direction}/one/32/fs" for direction in ("store", "load")],
        1.2,
        2,
    ),
    share_of_the_peer(
        "the same beside a plain C loop at the same depth",
        [
            f"files/{direction}/{kind}/plain"
            for direction in ("store", "load")
            for kind in ("many/8", "many/32", "one/32")
        ],
        0.8,
        0.95,
    ),
    at_most("lookup of a chunk in host memory, us", ["lookup/pinned"], 20, 2),
    none_of("system calls of 2 048 such lookups", ["lookup/calls"]),
    share_of_the_peer(
        "throughput with checksums, of that without", ["checksum/store", "checksum/load"], 0.9, 0.97
    ),
    share_of_the_peer(
        "CPU copy path, of memcpy",
        [
            f"copies/{direction}/{page}k/{threads}"
            for direction in ("store", "load")
            for page in (2, 16, 64, 512)
            for threads in (1, 2)
        ],
        0.8,
        0.95,
    ),
    at_most(
        "engine core held by the tier in a step of 64 requests with 32 chunks: p50, ms",
        [f"step/tier/{kind}/p50" for kind in ("unknown", "absent", "present")],
        1,
        0.2,
    ),
    at_most(
        "the same in a step without lookups: p50 and p99, ms",
        ["step/tier/quiet/p50", "step/tier/quiet/p99"],
        1,
        0.2,
    ),
    stated(
        "store of 100 000 files: inventory, crawl, eviction",
        ["evict/walk", "evict/crawl/4", "evict/delete/4"],
    ),
    at_most("match through Redis, 512 blocks, us", [f"remote/match/{pods}" for pods in (8, 64)], 1500, 500),
    times_the_peer(
        "the same beside llm-d's way, an HKEYS for each key",
        [f"remote/match/{pods}" for pods in (8, 64)],
        3,
        10,
    ),
    *(
        rate(f"told to Redis, {blocks} blocks an event", f"remote/apply/{blocks}", 0.3, 1)
        for blocks in (512, 16, 1)
    ),
    rate("told to Redis, 1 block an event, each of another sequence", "remote/apply/sparse", 0.3, 0.5),
    at_most("dump and load of 1 M pairs, s", [f"dump/{fleet}/both" for fleet in ("8", "64")], 0.3),
    at_most("size of a dump of 1 M pairs, MB", [f"dump/{fleet}/MB" for fleet in ("8", "64")], 30),
    at_most("slowest apply while it is written, ms", [f"dump/{fleet}/wait" for fleet in ("8", "64")], 10),
    at_most_the_other(
        "missed at half the needed memory, a conversation trace, beside LRU",
        ["budget/trace/50%/LRU/missed"],
        1,
        0.9,
        other="LRU",
    ),
    stated("a cluster's dump under load, and a load of it, s", ["moving/dump", "moving/load again"]),
)
