"""The connection to a Redis or Valkey: one server or a cluster behind one face, never waited for longer than
allowed."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.failures import ServerError, raise_first
from kvatlas.index.remote.connection.links.deadline import Deadline
from kvatlas.index.remote.connection.links.node import Node
from kvatlas.index.remote.connection.routes.dispatch import Dispatch
from kvatlas.index.remote.connection.routes.routing import Routing
from kvatlas.index.remote.connection.scripts import Script
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.connection.status import RemoteCounts, RemoteStatus
from kvatlas.index.remote.connection.url import RemoteUrl

_Answer = TypeVar("_Answer")

_all: weakref.WeakSet[RemoteConnection] = weakref.WeakSet()


class RemoteConnection:
    """Any thread. Connects when first asked, and again by itself.

    A request is one round trip to each node that it concerns. It takes at most its timeout; where a
    connection is made first, connect_timeout_ms besides. After a failure further requests fail at once,
    without a wait, until a backoff is over; then one of them tries. A fork inherits no connection. Looking up
    a host's name has the system's limits.
    """

    def __init__(self, settings: RemoteSettings, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Asks nobody yet. Raises ConfigError where redis-py is not installed, the password's variable is not
        set, or a file of TLS is not there."""
        self.settings = settings
        self.url = settings.parsed_url()
        self.is_cluster = self.url.is_cluster
        self._clock_s = clock_s
        self._counts = RemoteCounts()
        self._scripts: dict[bytes, Script] = {}
        _require_client()
        _require_files(self.url)
        self._routing = Routing(self.url, settings, self._counts, clock_s)
        self._answered_s: float | None = None
        self._down_since_s: float | None = None
        self._words = f"{self.url}: not asked yet"
        _all.add(self)

    # --- asking ---------------------------------------------------------------------------------------------

    def run(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, is_repeatable: bool = False
    ) -> list[Any]:
        """The answers in order, from a pipeline without transaction; errors of single commands are ErrorReply
        values.

        `timeout_s`: timeout_ms of the settings unless given. `is_repeatable`: executing all of it twice does
        no harm; then it is sent once more where a connection that had served breaks. Scripts that were given
        to `script` are loaded where they are not known, and then run after the others.
        Raises ServerError when a server cannot be asked or answers that it cannot be used. Where a request
        concerns several nodes of a cluster the others may have executed their part.
        """
        return self._ask(lambda dispatch: dispatch.run(commands), timeout_s, is_repeatable)

    def run_or_raise(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, is_repeatable: bool = False
    ) -> list[Any]:
        """`run` where an error of a single command is raised, too, as ServerError."""
        answers = self.run(commands, timeout_s=timeout_s, is_repeatable=is_repeatable)
        return raise_first(answers, str(self.url))

    def nodes(self, *, timeout_s: float | None = None) -> list[str]:
        """Names of all nodes that hold keys; of one server its own. Raises ServerError."""
        deadline = self._deadline(timeout_s)
        return [
            str(node.address)
            for node in self._noted(lambda: self._routing.masters(deadline), is_answer=False)
        ]

    def run_on(
        self,
        node: str,
        commands: Sequence[Command],
        *,
        timeout_s: float | None = None,
        is_repeatable: bool = False,
    ) -> list[Any]:
        """`run`, all by one of `nodes`. Raises ServerError, also where it is none any more."""
        return self._ask(lambda dispatch: dispatch.run(commands, self._named(node)), timeout_s, is_repeatable)

    def scan(
        self, match: str | bytes, *, count: int = 1000, timeout_s: float | None = None
    ) -> Iterator[list[bytes]]:
        """Pages of keys that match a pattern, over all nodes; a key may come twice. One round trip a page."""
        for node in self.nodes(timeout_s=timeout_s):
            cursor = b"0"
            while True:
                command = Command(None, ("SCAN", cursor, "MATCH", match, "COUNT", count))
                answers = self.run_on(node, [command], timeout_s=timeout_s, is_repeatable=True)
                cursor, keys = raise_first(answers, node)[0]
                if keys:
                    yield keys
                if int(cursor) == 0:
                    break

    def script(self, source: str) -> Script:
        """Makes a script known, so that it is loaded where it is missing; the same for the same source."""
        script = Script.of(source)
        return self._scripts.setdefault(script.sha, script)

    # --- how it is ------------------------------------------------------------------------------------------

    def status(self) -> RemoteStatus:
        """Asks nobody."""
        nodes = self._routing.nodes()
        now_s = self._clock_s()
        down_since_s, answered_s = self._down_since_s, self._answered_s
        is_up = answered_s is not None and down_since_s is None
        failing = [node.words for node in nodes if node.is_failing]
        return RemoteStatus(
            is_up=is_up and not failing,
            says=failing[0] if failing else f"{self.url}: answers" if is_up else self._words,
            age_s=None if answered_s is None else now_s - answered_s,
            down_s=0.0 if down_since_s is None else now_s - down_since_s,
            counts=msgspec.structs.replace(self._counts),
            nodes=tuple(str(node.address) for node in nodes),
            links=sum(node.n_links for node in nodes),
        )

    def close(self) -> None:
        """Ends all connections; requests that are under way end with an error or their answer."""
        self._routing.close()

    def __enter__(self) -> RemoteConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteConnection({str(self.url)!r})"

    # --- inside ---------------------------------------------------------------------------------------------

    def _ask(
        self, ask: Callable[[Dispatch], list[Any]], timeout_s: float | None, is_repeatable: bool
    ) -> list[Any]:
        dispatch = Dispatch(
            self._routing, self._scripts, self._counts, self._deadline(timeout_s), is_repeatable=is_repeatable
        )
        return self._noted(lambda: ask(dispatch))

    def _noted(self, ask: Callable[[], _Answer], *, is_answer: bool = True) -> _Answer:
        """Keeps for `status` what came of it. `is_answer`: false where perhaps nobody was asked."""
        try:
            answer = ask()
        except ServerError as error:
            self._routing.suspect()
            if error.reason not in ("backoff", "closed"):
                self._words = str(error)
                if self._down_since_s is None:
                    self._down_since_s = self._clock_s()
            raise
        if is_answer and answer:
            self._answered_s = self._clock_s()
            self._down_since_s = None
        return answer

    def _deadline(self, timeout_s: float | None) -> Deadline:
        settings = self.settings
        return Deadline(
            settings.timeout_ms / 1000 if timeout_s is None else timeout_s, settings.connect_timeout_ms / 1000
        )

    def _named(self, name: str) -> Node:
        for node in self._routing.nodes():
            if str(node.address) == name:
                return node
        raise ServerError(
            f"{self.url}: expected one of its nodes, got {name}: the cluster is another now", "cluster"
        )


def _require_client() -> None:
    try:
        import redis  # noqa: F401
    except ImportError:
        raise ConfigError(
            "an index in Redis or Valkey: expected the package redis, got none: "
            "pip install 'kvatlas[redis]' brings it"
        ) from None


def _require_files(url: RemoteUrl) -> None:
    for name, path in (("ca", url.tls_ca), ("certificate", url.tls_certificate), ("key", url.tls_key)):
        if path is not None and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise ConfigError(f"url: {name}: expected a file that can be read, got {path!r}")


def _after_fork() -> None:
    for connection in list(_all):
        connection._routing.after_fork()


os.register_at_fork(after_in_child=_after_fork)
