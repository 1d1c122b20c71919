"""What does the proxy add to a request, and how many streams does it carry?

Load, proxy and pods share the machine; each has a process of its own.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence

from http_streams import Stream, ask, ask_many, request
from proxied_fleet import MODEL, ProxiedFleet
from results import Result, arguments, show

from kvatlas.cluster.proxy.server import event_loop_factory

_PODS = 8
_TOKENS_PER_S = 20.0
_SHARED_TOKENS = 768
_OWN_TOKENS = 256
_STREAM_TOKENS = 100
_APART_S = 0.008
"""Between the beginnings of two streams: they are not to be a burst."""


def prompts(count: int, seed: int) -> list[list[int]]:
    """Of 1 024 tokens, 16 prefixes of 768 among them."""
    source = random.Random(seed)
    shared = [[source.randrange(32_000) for _ in range(_SHARED_TOKENS)] for _ in range(16)]
    return [
        [*source.choice(shared), *(source.randrange(32_000) for _ in range(_OWN_TOKENS))]
        for _ in range(count)
    ]


async def one_by_one(fleet: ProxiedFleet, count: int) -> tuple[list[Stream], list[Stream]]:
    """The same kind of request, by turns straight to a pod and through the proxy."""
    direct, proxied = [], []
    for place, prompt in enumerate(prompts(2 * count, 1)):
        asked = request(MODEL, prompt, 1)
        if place % 2:
            proxied.append(await ask(fleet.url, asked))
        else:
            direct.append(await ask(fleet.pods[place % len(fleet.pods)], asked))
    return direct, proxied


async def many(fleet: ProxiedFleet, count: int) -> tuple[list[Stream], list[Stream], float]:
    """So many streams at once, first straight to the pods; and the proxy's share of a core."""
    asked = [request(MODEL, prompt, _STREAM_TOKENS) for prompt in prompts(count, count)]
    loop = asyncio.get_running_loop()
    direct = await ask_many(fleet.pods, asked, apart_s=_APART_S)
    cpu_s, began_s = fleet.proxy_cpu_s(), loop.time()
    proxied = await ask_many([fleet.url], asked, apart_s=_APART_S)
    return direct, proxied, (fleet.proxy_cpu_s() - cpu_s) / (loop.time() - began_s)


def ms(values: Sequence[float]) -> float:
    return statistics.median(values) * 1e3


def compared(row: str, what: str, direct: list[float], proxied: list[float]) -> Result:
    return Result(
        row=row,
        what=what,
        unit="ms",
        median=ms(proxied),
        best=min(proxied) * 1e3,
        peer_median=ms(direct),
        peer_best=min(direct) * 1e3,
    )


def alone(direct: list[Stream], proxied: list[Stream]) -> list[Result]:
    firsts = [one.first_s for one in direct], [one.first_s for one in proxied]
    added = [first - statistics.median(firsts[0]) for first in firsts[1]]
    return [
        compared("proxy/first", "first part, one request at a time; peer: without proxy", *firsts),
        Result(row="proxy/added", what="added", unit="ms", median=ms(added), best=min(added) * 1e3),
    ]


def together(count: int, direct: list[Stream], proxied: list[Stream], share: float) -> list[Result]:
    """A stream that falls behind takes longer than its tokens do."""
    needs_s = _STREAM_TOKENS / _TOKENS_PER_S
    at = f"{count} streams of {_TOKENS_PER_S:g} tokens/s"
    firsts = [one.first_s for one in direct], [one.first_s for one in proxied]
    behind = [one.whole_s - needs_s for one in direct], [one.whole_s - needs_s for one in proxied]
    added = [first - statistics.median(firsts[0]) for first in firsts[1]]
    return [
        compared(f"proxy/{count}/first", f"first part, {at}; peer: without proxy", *firsts),
        Result(
            row=f"proxy/{count}/added",
            what=f"added, {at}",
            unit="ms",
            median=ms(added),
            best=min(added) * 1e3,
        ),
        compared(f"proxy/{count}/behind", f"a stream's end behind its time, {at}; peer: without", *behind),
        Result(
            row=f"proxy/{count}/core",
            what=f"the proxy's share of a core, {at}",
            unit="",
            median=share,
            best=share,
        ),
    ]


async def measure(quick: bool) -> list[Result]:
    with ProxiedFleet(_PODS, _TOKENS_PER_S) as fleet:
        await ask_many([fleet.url], [request(MODEL, one, 1) for one in prompts(50, 0)], apart_s=0.01)
        results = alone(*await one_by_one(fleet, 30 if quick else 300))
        for count in (50,) if quick else (200, 500):
            results += together(count, *await many(fleet, count))
    return results


def main() -> None:
    args = arguments(__doc__).parse_args()
    loop = event_loop_factory()()
    show(loop.run_until_complete(measure(args.quick)), args.json)


if __name__ == "__main__":
    main()
