"""How long until answers are whole again after a shard is killed, and until 4 shards are 8, under load."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from answers import Asker, Known, known
from live_cluster import (
    BATCH_BLOCKS,
    BATCHES_PER_S,
    NAME,
    WAIT_S,
    LiveCluster,
    cluster,
    empty_call,
    local_ray,
    of_many,
    single,
    wait_until,
)
from results import Result, arguments, show
from workload import PAIRS, events, fleet, pairs_of

from kvatlas.actors.orders import ClusterView
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.index.errors import ClusterError

PODS, SHARDS, MORE_SHARDS = 16, 4, 8
LOAD_BATCHES = 96_000
"""Enough for a minute."""
_VIEW_WAIT_S = 0.5
_CALM_S = 1.0
_LOOK_S = 0.01


class Healing(NamedTuple):
    """Seconds until all was whole again, and what was answered meanwhile."""

    asker: Asker
    all_s: float
    """From what was done."""
    up_s: float
    """From when the new processes were up."""


class Views:
    """When readers were told what: every view of the directory, with the time it came."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._log: list[tuple[float, ClusterView]] = []

    def run(self) -> None:
        since = 0
        while not self._over.is_set():
            with contextlib.suppress(ClusterError):
                view = self._client.directory().ask("view", ClusterView, since, _VIEW_WAIT_S)
                if view.version != since:
                    since = view.version
                    self._log.append((time.monotonic(), view))

    def when(self, condition: Callable[[ClusterView], bool]) -> float:
        """The time of the first such view; waits for it."""
        return first(lambda: [at_s for at_s, view in list(self._log) if condition(view)])

    def stop(self) -> None:
        self._over.set()


class Enlistments:
    """When new processes of shards were up: each asks the directory for its number first."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._before = self._count()
        self._log: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            with contextlib.suppress(ClusterError):
                self._log.append((time.monotonic(), self._count() - self._before))

    def when(self, processes: int) -> float:
        """The time when so many were up; waits for it."""
        return first(lambda: [at_s for at_s, count in list(self._log) if count >= processes])

    def _count(self) -> int:
        return self._client.status().counts["shards_enlisted"]

    def stop(self) -> None:
        self._over.set()


def first(look: Callable[[], list[float]]) -> float:
    found: list[float] = []

    def has_found() -> bool:
        found[:] = look()
        return bool(found)

    wait_until(has_found, "the directory to tell of it")
    return found[0]


@contextmanager
def running(*runners: Asker | Views | Enlistments) -> Iterator[None]:
    threads = [threading.Thread(target=runner.run, daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join(WAIT_S)


@contextmanager
def load(live: LiveCluster) -> Iterator[None]:
    """Every pod publishes evenly: new sequences, so what is known of the others stays true."""
    sequences = fleet(PODS, LOAD_BATCHES * BATCH_BLOCKS, seed=9)
    messages = live.messages(events(sequences, BATCH_BLOCKS))
    over = threading.Event()

    def publish() -> None:
        begin = time.monotonic()
        for sent in itertools.count():
            late_s = time.monotonic() - begin - sent / (PODS * BATCHES_PER_S)
            if sent == len(messages) or over.wait(max(0.0, -late_s)):
                return
            live.publish(messages[sent : sent + 1])

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
        if not thread.is_alive():
            raise RuntimeError("expected load until the end, it has run out")
    finally:
        over.set()
        thread.join(WAIT_S)


def kill(live: LiveCluster, truths: list[Known], shard: int) -> Healing:
    status = live.client.status()
    layout = status.layouts[0].number
    before = max(replica.incarnation for replica in status.shards)
    pid = live.pid(f"shard/{layout}-{shard}-0")

    def is_whole(view: ClusterView) -> bool:
        replicas = view.serving.replicas
        return (
            len(replicas) == SHARDS
            and all(replica.whole for replica in replicas)
            and any(replica.incarnation > before for replica in replicas)
        )

    return heal(live, truths, lambda: os.kill(pid, signal.SIGKILL), 1, is_whole)


def reshard(live: LiveCluster, truths: list[Known]) -> Healing:
    return heal(
        live,
        truths,
        lambda: launch.scale(NAME, shards=MORE_SHARDS),
        MORE_SHARDS,
        lambda view: view.serving.n_shards == MORE_SHARDS and all(r.whole for r in view.serving.replicas),
    )


def heal(
    live: LiveCluster,
    truths: list[Known],
    begin: Callable[[], object],
    processes: int,
    is_over: Callable[[ClusterView], bool],
) -> Healing:
    """Begin something, and ask until readers are told that it is over and all answers are right."""
    asker, views, enlistments = Asker(live, truths), Views(live.client), Enlistments(live.client)
    with running(asker, views, enlistments):
        began_s = time.monotonic()
        begin()
        up_s = enlistments.when(processes)
        told_s = views.when(is_over)
        wait_until(lambda: time.monotonic() - max(asker.bad_s, told_s) > _CALM_S, "answers to be whole")
    over_s = max(told_s, asker.good_s if asker.bad_s > began_s else 0.0)
    return Healing(asker, over_s - began_s, over_s - up_s)


def measure(pairs: int, kills: int) -> list[Result]:
    sequences = fleet(PODS, pairs)
    truths = known(sequences, 256)
    with cluster(shards=SHARDS, pods=PODS) as live:
        took_s = live.fill(list(events(sequences, 512)))
        print(f"{pairs_of(sequences)} pairs were published and visible in {took_s:.1f} s", flush=True)
        assert not any(truth.is_wrong(live.score(truth.held)) for truth in truths)
        with load(live):
            killed = [kill(live, truths, number % SHARDS) for number in range(kills)]
            resharded = reshard(live, truths)
    return [*of_kills(killed, pairs), *of_reshard(resharded, pairs)]


def of_kills(killed: list[Healing], pairs: int) -> list[Result]:
    what = f"shard of {SHARDS} killed, {pairs / 1e6:g} M pairs"
    up = [healing.up_s for healing in killed]
    return [
        of_many("heal/kill/up", f"{what}: whole, from its new process being up", "s", up),
        of_many("heal/kill/all", f"{what}: whole, from the kill", "s", [k.all_s for k in killed]),
        *of_answers("heal/kill", what, [healing.asker for healing in killed]),
    ]


def of_reshard(resharded: Healing, pairs: int) -> list[Result]:
    what = f"{SHARDS} shards to {MORE_SHARDS}, {pairs / 1e6:g} M pairs"
    return [
        single("heal/reshard/up", f"{what}: served, from the new processes being up", "s", resharded.up_s),
        single("heal/reshard/all", f"{what}: served, from the order", "s", resharded.all_s),
        *of_answers("heal/reshard", what, [resharded.asker]),
    ]


def of_answers(row: str, what: str, askers: list[Asker]) -> list[Result]:
    answers = sum(asker.answers for asker in askers)
    pause_ms = max(asker.longest_pause_s for asker in askers) * 1e3
    wrong, partial = sum(asker.wrong for asker in askers), sum(asker.partial for asker in askers)
    return [
        single(f"{row}/wrong", f"{what}: wrong answers, of {answers}", "answers", wrong),
        single(f"{row}/partial", f"{what}: marked not whole, of {answers}", "answers", partial),
        single(f"{row}/pause", f"{what}: longest time without an answer", "ms", pause_ms),
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    pairs, kills = (PAIRS // 10, 1) if args.quick else (PAIRS, 3)
    with local_ray():
        results = [empty_call("heal"), *measure(pairs, kills)]
    show(results, args.json)


if __name__ == "__main__":
    main()
