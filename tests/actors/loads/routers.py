"""Routers on real sockets: in this process, and in others that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from kvatlas.actors.loads.sharing import LoadSharing, SharingSettings
from kvatlas.actors.orders import LinkKeys, RouterAt
from kvatlas.index._native import LoadBook
from tests.actors.loads.books import PODS

QUICK = SharingSettings(share_s=0.002, idle_s=0.005, whole_s=0.05, silent_s_max=0.5)


class Fleet:
    """What the directory would tell: set by tests, read by the sharing threads."""

    def __init__(self) -> None:
        self.routers: tuple[RouterAt, ...] = ()
        self.known_pods: tuple[str, ...] = PODS


class Router:
    """A book and its sharing."""

    def __init__(self, number: int, keys: LinkKeys, fleet: Fleet, settings: SharingSettings = QUICK) -> None:
        self.book = LoadBook(10_000)
        self.sharing = LoadSharing(self.book, number, keys, fleet, settings=settings)

    @property
    def at(self) -> RouterAt:
        return RouterAt(number=self.sharing.number, endpoint=self.sharing.endpoint)


@contextmanager
def routers(
    count: int, keys: LinkKeys, fleet: Fleet, settings: SharingSettings = QUICK
) -> Iterator[list[Router]]:
    """So many that know of each other."""
    with ExitStack() as stack:
        made = []
        for number in range(1, count + 1):
            router = Router(number, keys, fleet, settings)
            stack.callback(router.sharing.close)
            made.append(router)
        fleet.routers = tuple(router.at for router in made)
        yield made


class RouterProcess:
    """A router in a process of its own that has reserved something; see router_program.py."""

    def __init__(self, number: int, keys: LinkKeys, peers: tuple[RouterAt, ...], *words: str) -> None:
        told = msgspec.json.encode((number, keys, peers, words)).decode()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.actors.loads.router_program", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.at = RouterAt(number=number, endpoint=self.process.stdout.readline().strip())

    def say(self, word: str) -> str:
        """Has it do something; its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
