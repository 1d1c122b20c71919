"""A router's process: reserves what it is told on standard input, and says what it knows."""

from __future__ import annotations

import sys

import msgspec

from kvatlas.actors.orders import LinkKeys, RouterAt
from tests.actors.loads.books import loads, reserve
from tests.actors.loads.routers import Fleet, Router


def main() -> None:
    number, keys, peers, words = msgspec.json.decode(
        sys.argv[1], type=tuple[int, LinkKeys, tuple[RouterAt, ...], tuple[str, ...]]
    )
    fleet = Fleet()
    fleet.routers = peers
    router = Router(number, keys, fleet)
    for word in words:
        _do(router, word)
    print(router.sharing.endpoint, flush=True)
    for line in sys.stdin:
        print(_do(router, line.strip()), flush=True)
    router.sharing.close()


def _do(router: Router, word: str) -> object:
    """`+POD` reserves 100 tokens there, `-POD` ends it, `?` asks for all loads as JSON."""
    if word == "?":
        return msgspec.json.encode(loads(router.book)).decode()
    if word[0] == "+":
        return reserve(router.book, word[1:], word[1:])
    return router.book.completed(word[1:], 1.0) is not None


if __name__ == "__main__":
    main()
