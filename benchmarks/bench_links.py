"""What it costs to ask a shard: over its socket, over a Ray call, beside an empty Ray call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import ray
import zmq
from results import Result, arguments, rated, show, timed
from timing import Contender, alternate
from workload import ADD, REMOVE, keys_of, random_tokens, record

from kvatlas.actors.link.client import SocketLinks
from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.link.messages import Address, Kind, content, decode_message, delta, fetch, hello
from kvatlas.actors.link.ray_link import RayLink
from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import LinkKeys, ShardAsks
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.index._native import SEGMENT_BLOCKS

SESSION = 1
BLOCKS_OF_A_DELTA = (64, 1024, 16_384)
FETCHED_KEYS = 512
TIMEOUT_S = 30.0


class Shard:
    """An actor that answers both ways, and an empty call."""

    def __init__(self, keys: LinkKeys) -> None:
        asks = ShardAsks(layout=1, shard=0, replica=0, actor="", node_id="")
        self._service = ShardService("bench", asks, 1, ShardSettings(shared_memory_folder=""))
        self._server = LinkServer(self._service.handle, keys)

    def endpoint(self) -> str:
        return self._server.endpoint

    def handle(self, frame: bytes) -> bytes:
        return self._service.handle(frame)

    def nothing(self, frame: bytes) -> bytes:
        return b""


class Ways(NamedTuple):
    """How the shard can be asked."""

    socket: Callable[[bytes], bytes]
    ray: Callable[[bytes], bytes]
    nothing: Callable[[bytes], bytes]


HERE = Address(1, 0, 1)
NUMBERS = itertools.count(2)


def new_keys() -> LinkKeys:
    server, client = (tuple(key.decode() for key in zmq.curve_keypair()) for _ in range(2))
    return LinkKeys(
        server_public=server[0], server_secret=server[1], client_public=client[0], client_secret=client[1]
    )


def over_link(link: ShardLink) -> Callable[[bytes], bytes]:
    return lambda frame: link.request(frame, TIMEOUT_S).result()


def asked(
    ask: Callable[[bytes], bytes], frames: Callable[[], bytes], calls: int, units: int = 1
) -> Contender:
    def run(prepared: list[bytes]) -> None:
        for frame in prepared:
            ask(frame)

    return Contender(lambda: [frames() for _ in range(calls)], run, calls * units)


def changes(blocks: int) -> Callable[[], bytes]:
    """Deltas that store sequences of so many blocks and drop them again."""
    keys = keys_of(random_tokens(np.random.default_rng(5), blocks))
    ops = itertools.cycle((ADD, REMOVE))

    def next_records() -> bytes:
        op, segments = next(ops), np.split(keys, range(SEGMENT_BLOCKS, blocks, SEGMENT_BLOCKS))
        return b"".join(record(op, 1, int(part[0]), part) for part in segments)

    return lambda: delta(HERE, SESSION, next(NUMBERS), next_records())


def measure(ways: Ways, rounds: int, calls: int) -> list[Result]:
    questions = {
        "hello": ("the smallest question", lambda: hello(HERE, SESSION)),
        "fetch": (
            f"a fetch of {FETCHED_KEYS} keys",
            lambda: fetch(HERE, keys_of(random_tokens(np.random.default_rng(6), FETCHED_KEYS))),
        ),
    }
    results = []
    for row, (what, frames) in questions.items():
        timings = alternate(
            {name: asked(way, frames, calls) for name, way in ways._asdict().items()}, rounds=rounds
        )
        for name, how in (("socket", "over the socket"), ("ray", "over a Ray call")):
            results.append(timed(f"links/{row}/{name}", f"{what}, {how}", timings[name], timings["nothing"]))
    for blocks in BLOCKS_OF_A_DELTA:
        frames = changes(blocks)
        timings = alternate(
            {name: asked(way, frames, calls, blocks) for name, way in list(ways._asdict().items())[:2]},
            rounds=rounds,
        )
        what = f"deltas of {blocks} blocks, one in flight, over the socket (peer: Ray calls)"
        results.append(rated(f"links/delta{blocks}", what, timings["socket"], timings["ray"]))
    return results


def checked(ask: Callable[[bytes], bytes]) -> None:
    """That what is measured is done, not refused."""
    assert decode_message(ask(content(HERE, SESSION, next(NUMBERS), [1], b""))).kind is Kind.APPLIED
    assert decode_message(ask(changes(64)())).kind is Kind.APPLIED


def main() -> None:
    args = arguments(__doc__).parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    keys = new_keys()
    kind: Any = ray.remote(Shard)
    actor = kind.options(num_cpus=0).remote(keys)
    links = SocketLinks(keys)
    ways = Ways(
        socket=over_link(links.open(ray.get(actor.endpoint.remote()))),
        ray=over_link(RayLink("bench", lambda: actor)),
        nothing=lambda frame: bytes(ray.get(actor.nothing.remote(frame))),
    )
    checked(ways.socket)
    checked(ways.ray)
    print("Beside it, as the peer: an empty call of the same actor with the same bytes.\n")
    results = measure(ways, 11 if args.quick else 51, 5 if args.quick else 20)
    links.close()
    ray.shutdown()
    show(results, args.json)


if __name__ == "__main__":
    main()
