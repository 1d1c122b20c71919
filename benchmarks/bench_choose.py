"""How long does a choice with its reservation take, and how many a second does one process make?

64 workers that hold a million blocks; prompts of 8 192 tokens, each held whole by one worker and half by
others. Every answer is checked.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from results import Result, arguments, show
from selecting_peer import SelectingPeer, load_selecting_peer
from timing import quiet
from workload import MODEL, PAIRS, Held, filled_atlas, fleet

from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.keys import TokenIds

WORKERS = 64
PROMPTS = 512
IN_A_ROW = 25
"""Calls of one contender before the next one's turn."""
IN_FLIGHT = 16
_OUTPUT_TOKENS = 256


class Asked(NamedTuple):
    """One prompt, and who holds all of it."""

    token_ids: TokenIds
    worker: int


def kinds_of(prompts: Sequence[Held]) -> dict[str, list[Asked]]:
    """The prompts as callers have them."""
    return {
        "bytes": [Asked(held.tokens.tobytes(), held.worker) for held in prompts],
        "numpy": [Asked(held.tokens, held.worker) for held in prompts],
        "list": [Asked(held.tokens.tolist(), held.worker) for held in prompts],
    }


# One at a time: nanoseconds of each call.

Turn = Callable[[], Coroutine[Any, Any, Sequence[int]]]
"""Nanoseconds of one call, in one or more respects."""


def our_turn(chooser: Chooser, asked: Iterator[Asked]) -> Turn:
    async def turn() -> Sequence[int]:
        token_ids, worker = next(asked)
        began_ns = time.perf_counter_ns()
        choice = chooser.choose(token_ids, model=MODEL, output_tokens=_OUTPUT_TOKENS)
        took_ns = time.perf_counter_ns() - began_ns
        _check_and_end(chooser, choice, worker)
        return (took_ns,)

    return turn


def our_awaited_turn(chooser: Chooser, asked: Iterator[Asked]) -> Turn:
    """Of which nothing is done elsewhere: all of it is the event loop's time."""

    async def turn() -> Sequence[int]:
        token_ids, worker = next(asked)
        began_ns = time.perf_counter_ns()
        choice = await chooser.choose_async(token_ids, model=MODEL, output_tokens=_OUTPUT_TOKENS)
        took_ns = time.perf_counter_ns() - began_ns
        _check_and_end(chooser, choice, worker)
        return took_ns, took_ns

    return turn


def _check_and_end(chooser: Chooser, choice: Any, worker: int) -> None:
    assert choice.pod == f"pod-{worker}" and choice.is_reserved, (choice, worker)
    assert chooser.completed(choice.request_id)


def peer_turn(peer: SelectingPeer, asked: Iterator[Asked]) -> Turn:
    """Until its answer is there; and until the event loop may go on."""
    names = map(str, itertools.count())

    async def turn() -> Sequence[int]:
        (token_ids, worker), name = next(asked), next(names)
        began_ns = time.perf_counter_ns()
        awaited = peer.begin(name, token_ids)  # type: ignore[arg-type]  # lists only
        begun_ns = time.perf_counter_ns()
        selected = await awaited
        took_ns = time.perf_counter_ns() - began_ns
        assert selected["worker_id"] == worker, (selected["worker_id"], worker)
        await peer.end(name)
        return took_ns, begun_ns - began_ns

    return turn


async def one_by_one(turns: dict[str, Turn], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """[calls, respects] microseconds by contender, who take turns."""
    times: dict[str, list[Sequence[int]]] = {name: [] for name in turns}
    with quiet():
        for a_round in range(-1, rounds):
            for name in list(turns)[:: 1 if a_round % 2 else -1]:
                took = [await turns[name]() for _ in range(IN_A_ROW)]
                times[name] += took if a_round >= 0 else []
    return {name: np.array(of, float) / 1e3 for name, of in times.items()}


def latency_results(times: dict[str, np.ndarray[Any, Any]]) -> Iterator[Result]:
    peer = times.pop("peer", None)
    for name, us in times.items():
        if name == "awaited":
            yield latency("choose/loop", "list, time on the event loop", us[:, 1], peer, 1)
            continue
        beside = peer if name == "list" else None
        yield latency(f"choose/{name}", f"choose and reserve, {name}", us[:, 0], beside)
        yield latency(f"choose/{name}/p99", f"choose and reserve, {name}, p99", us[:, 0], beside, q=0.99)


def latency(
    row: str,
    what: str,
    us: np.ndarray[Any, Any],
    peer: np.ndarray[Any, Any] | None,
    respect: int = 0,
    q: float = 0.5,
) -> Result:
    theirs = None if peer is None else peer[:, respect]
    return Result(
        row=row,
        what=what,
        unit="us",
        median=float(np.quantile(us, q)),
        best=float(us.min()),
        peer_median=None if theirs is None else float(np.quantile(theirs, q)),
        peer_best=None if theirs is None else float(theirs.min()),
    )


# Many at a time: choices a second, each with its end.


def by_threads(chooser: Chooser, asked: list[Asked], threads: int, calls: int) -> float:
    """Seconds a choice; every thread makes so many."""
    failed: list[BaseException] = []
    ready = threading.Barrier(threads + 1)

    def work(first: int) -> None:
        mine = itertools.islice(itertools.cycle(asked), first, first + calls)
        ready.wait()
        try:
            for token_ids, worker in mine:
                choice = chooser.choose(token_ids, model=MODEL, output_tokens=_OUTPUT_TOKENS)
                _check_and_end(chooser, choice, worker)
        except BaseException as error:
            failed.append(error)

    workers = [
        threading.Thread(target=work, args=(n * len(asked) // threads,), daemon=True) for n in range(threads)
    ]
    for thread in workers:
        thread.start()
    ready.wait()
    began_s = time.perf_counter()
    for thread in workers:
        thread.join()
    took_s = time.perf_counter() - began_s
    if failed:
        raise failed[0]
    return took_s / (threads * calls)


async def by_peer(peer: SelectingPeer, asked: list[Asked], calls: int, names: Iterator[str]) -> float:
    """Seconds a choice, 16 in flight."""
    prompts = itertools.islice(itertools.cycle(asked), IN_FLIGHT * calls)

    async def work() -> None:
        for token_ids, _ in prompts:
            name = next(names)
            selected = await peer.begin(name, token_ids)  # type: ignore[arg-type]
            assert 0 <= selected["worker_id"] < WORKERS  # by its costs, load can move a request
            await peer.end(name)

    began_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return (time.perf_counter() - began_s) / (IN_FLIGHT * calls)


async def at_once(
    chooser: Chooser, peer: SelectingPeer | None, kinds: dict[str, list[Asked]], rounds: int
) -> list[Result]:
    times: dict[str, list[float]] = {}
    names = (f"at-once-{n}" for n in itertools.count())
    contenders = [(f"{kind}/{threads}", kind, threads) for kind in ("bytes", "list") for threads in (1, 2, 8)]
    with quiet():
        for _ in range(rounds):
            for name, kind, threads in contenders:
                took_s = by_threads(chooser, kinds[kind], threads, 4096 // threads)
                times.setdefault(name, []).append(took_s)
            if peer is not None:
                times.setdefault("peer", []).append(await by_peer(peer, kinds["list"], 8, names))
    theirs = times.get("peer")
    return [
        Result(
            row=f"choose/many/{name}",
            what=f"choices with their ends, {kind}, {threads} thread" + ("s" if threads > 1 else ""),
            unit="/s",
            median=1 / float(np.median(times[name])),
            best=1 / min(times[name]),
            peer_median=1 / float(np.median(theirs)) if theirs and kind == "list" else None,
            peer_best=1 / min(theirs) if theirs and kind == "list" else None,
        )
        for name, kind, threads in contenders
    ]


async def measure(quick: bool) -> list[Result]:
    peer = load_selecting_peer()
    stored = fleet(WORKERS, PAIRS // 4 if quick else PAIRS)
    chosen = np.random.default_rng(4).choice(len(stored), size=PROMPTS, replace=False).tolist()
    kinds = kinds_of([stored[n] for n in chosen])
    chooser = Chooser(filled_atlas(stored))
    turns: dict[str, Turn] = {
        kind: our_turn(chooser, itertools.cycle(asked)) for kind, asked in kinds.items()
    }
    turns["awaited"] = our_awaited_turn(chooser, itertools.cycle(kinds["list"]))
    try:
        if peer is not None:
            await peer.hear(stored, WORKERS)
            turns["peer"] = peer_turn(peer, itertools.cycle(kinds["list"]))
        results = list(latency_results(await one_by_one(turns, 10 if quick else 80)))
        return results + await at_once(chooser, peer, kinds, 2 if quick else 9)
    finally:
        if peer is not None:
            peer.close()


def main() -> None:
    args = arguments(__doc__).parse_args()
    show(asyncio.run(measure(args.quick)), args.json)


if __name__ == "__main__":
    main()
