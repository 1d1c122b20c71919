"""Times calls beside one another: their samples alternate, so what slows the machine slows all of them."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """Seconds for one unit of work, over all samples."""

    median: float
    best: float


class Contender(NamedTuple):
    """Something to time: `run(prepare())`, of which only `run` counts."""

    prepare: Callable[[], Any]
    run: Callable[[Any], object]
    units: int
    """Units of work in one run; times are divided by it."""


def over(call: Callable[[Any], object], inputs: Iterable[Any], *, sample_s: float = 2e-3) -> Contender:
    """Calls `call` with one input after the other, as many times as fill a sample; a unit is a call."""
    endless = itertools.cycle(list(inputs))
    first = [next(endless) for _ in range(3)]
    _run_each(call, first)  # lazy imports and first touches
    begin = time.perf_counter()
    _run_each(call, first)
    calls = max(1, min(20_000, int(sample_s / ((time.perf_counter() - begin) / len(first)))))
    return Contender(
        lambda: list(itertools.islice(endless, calls)), lambda chunk: _run_each(call, chunk), calls
    )


def _run_each(call: Callable[[Any], object], inputs: list[Any]) -> None:
    for value in inputs:
        call(value)


def alternate(contenders: Mapping[str, Contender], *, rounds: int, warm_up: int = 2) -> dict[str, Timing]:
    """One sample of each contender per round, every other round in reverse order."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    with quiet():
        for i in range(warm_up + rounds):
            for name in list(contenders)[:: 1 if i % 2 == 0 else -1]:
                seconds = _sample(contenders[name])
                if i >= warm_up:
                    samples[name].append(seconds)
    return {name: Timing(statistics.median(all_of), min(all_of)) for name, all_of in samples.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _sample(contender: Contender) -> float:
    prepared = contender.prepare()
    begin = time.perf_counter()
    contender.run(prepared)
    seconds = time.perf_counter() - begin
    del prepared
    return seconds / contender.units


def settle(quiet_s: float = 0.02, most_s: float = 5.0) -> None:
    """Waits until this process's other threads (a peer that drops a tree) are idle."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(quiet_s)
        if time.process_time() - before < quiet_s / 10:
            return
