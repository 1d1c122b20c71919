"""One request: each command to its node, and those that are sent on or lack their script again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.failures import ErrorReply, ServerError
from kvatlas.index.remote.connection.links.deadline import Deadline
from kvatlas.index.remote.connection.links.exchange import Exchange, Group
from kvatlas.index.remote.connection.links.node import Node
from kvatlas.index.remote.connection.routes.cluster_layout import redirection
from kvatlas.index.remote.connection.routes.routing import Routing
from kvatlas.index.remote.connection.scripts import Script
from kvatlas.index.remote.connection.status import RemoteCounts

_ROUNDS_MAX = 16
_TRY_AGAIN_S = 0.004
_ASKING = Command(None, (b"ASKING",))
_NOT_DONE = frozenset(("MOVED", "ASK", "TRYAGAIN", "NOSCRIPT"))


class _Open(NamedTuple):
    """A command without an answer yet."""

    place: int
    node: Node | None = None
    """None: that of its key."""
    is_asking: bool = False
    script: Script | None = None
    """To be loaded first."""


class Dispatch:
    """One request. What a node answers MOVED, ASK, TRYAGAIN or NOSCRIPT to was not executed: it is sent
    again."""

    def __init__(
        self,
        routing: Routing,
        scripts: Mapping[bytes, Script],
        counts: RemoteCounts,
        deadline: Deadline,
        *,
        is_repeatable: bool,
    ) -> None:
        self._routing = routing
        self._scripts = scripts
        self._counts = counts
        self._deadline = deadline
        self._is_repeatable = is_repeatable

    def run(self, commands: Sequence[Command], node: Node | None = None) -> list[Any]:
        """The answers in the order of the commands, all from `node` where it is given. Raises ServerError."""
        self._routing.refresh(self._deadline)
        answers: list[Any] = [None] * len(commands)
        is_open = [_Open(place, node) for place in range(len(commands))]
        for _ in range(_ROUNDS_MAX):
            groups = self._grouped(commands, is_open)
            Exchange(groups, self._deadline, self._counts, is_repeatable=self._is_repeatable).run()
            is_open = self._sorted(groups, commands, answers)
            if not is_open:
                return answers
            if time.monotonic() > self._deadline.hard_until_s:
                break
        last = answers[is_open[0].place]
        words = (
            f"{self._routing.name}: expected an answer within {_ROUNDS_MAX} rounds and in time, got {last}"
        )
        raise ServerError(words, "cluster")

    def _grouped(self, commands: Sequence[Command], is_open: list[_Open]) -> list[Group]:
        groups: dict[int, Group] = {}
        loaded: set[tuple[int, bytes]] = set()
        for one in is_open:
            command = commands[one.place]
            node = one.node or self._routing.node_for(command)
            group = groups.setdefault(id(node), Group(node))
            if one.script is not None and (id(node), one.script.sha) not in loaded:
                loaded.add((id(node), one.script.sha))
                group.add(one.script.loading())
                self._counts.script_loads += 1
            if one.is_asking:
                group.add(_ASKING)
            group.add(command, one.place)
        return list(groups.values())

    def _sorted(self, groups: list[Group], commands: Sequence[Command], answers: list[Any]) -> list[_Open]:
        """Puts answers in their places, and says what must be sent again."""
        again: list[_Open] = []
        for group in groups:
            for place, answer in zip(group.places, group.answers, strict=True):
                if place < 0:
                    continue
                answers[place] = answer
                if isinstance(answer, ErrorReply):
                    one = self._reopened(place, answer, commands[place], group.node)
                    if one is not None:
                        again.append(one)
        if any(
            isinstance(answers[one.place], ErrorReply) and answers[one.place].code == "TRYAGAIN"
            for one in again
        ):
            time.sleep(_TRY_AGAIN_S)  # a slot's keys are on their way
        again.sort()
        return again

    def _reopened(self, place: int, error: ErrorReply, command: Command, node: Node) -> _Open | None:
        if error.code not in _NOT_DONE:
            self._counts.oom += error.code == "OOM"
            self._counts.errors += error.code != "OOM"
            return None
        if error.code == "NOSCRIPT":
            script = self._scripts.get(_sha(command))
            return None if script is None else _Open(place, node, script=script)
        if not self._routing.is_cluster:
            raise ServerError(
                f"{node.address}: expected one server, got a node of a cluster: cluster=true", "cluster"
            )
        self._counts.asked += error.code != "MOVED"
        self._counts.moved += error.code == "MOVED"
        if error.code == "TRYAGAIN":
            return _Open(place, node, is_asking=True)
        target = redirection(str(error), node.address)
        if target is None:
            raise ServerError(f"{node.address}: expected a slot and a node, got {error}", "garbled")
        if error.code == "MOVED":
            self._routing.moved(*target)
            return _Open(place)
        return _Open(place, self._routing.node(target[1]), is_asking=True)


def _sha(command: Command) -> bytes:
    sha = command.args[1] if len(command.args) > 1 else b""
    return sha.encode() if isinstance(sha, str) else sha if isinstance(sha, bytes) else b""
