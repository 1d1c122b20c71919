"""One round trip to some nodes at once: all are sent to before the first is waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvatlas.index.errors import quoted
from kvatlas.index.remote.connection.commands import Command, pack
from kvatlas.index.remote.connection.failures import ErrorReply, ServerError
from kvatlas.index.remote.connection.links.deadline import Deadline
from kvatlas.index.remote.connection.links.node import Node
from kvatlas.index.remote.connection.status import RemoteCounts

if TYPE_CHECKING:
    from kvatlas.index.remote.connection.links.link import Link


class Group:
    """What one node is asked in one round trip."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.commands: list[Command] = []
        self.places: list[int] = []
        """Where each one's answer belongs; -1: nowhere, unless it is an error of the server."""
        self.answers: list[Any] = []
        self.link: Link | None = None
        self.packed = b""

    def add(self, command: Command, place: int = -1) -> None:
        self.commands.append(command)
        self.places.append(place)


class Exchange:
    """Sends groups and receives their answers. One thread, once."""

    def __init__(
        self, groups: list[Group], deadline: Deadline, counts: RemoteCounts, *, is_repeatable: bool
    ) -> None:
        self._groups = groups
        self._deadline = deadline
        self._counts = counts
        self._is_repeatable = is_repeatable
        self._failure: ServerError | None = None

    def run(self) -> None:
        """Raises the first failure, after the last group; no link is left in use."""
        try:
            for group in self._groups:
                self._attempt(group, self._send)
            for group in self._groups:
                if group.link is not None:
                    self._attempt(group, self._receive)
        finally:
            for group in self._groups:  # where something else was raised, between a question and its answer
                if group.link is not None:
                    group.link.close()
                    group.node.drop()
        if self._failure is not None:
            raise self._failure

    def _attempt(self, group: Group, step: Callable[[Group], None]) -> None:
        try:
            step(group)
        except ServerError as error:
            self._counts.failures += error.reason != "backoff"
            self._counts.timeouts += error.reason == "timeout"
            self._counts.refused += error.reason == "refused"
            self._failure = self._failure or error

    def _send(self, group: Group) -> None:
        group.packed = pack(group.commands)
        group.link = link = group.node.take(self._deadline)
        try:
            self._send_by(link, group)
        except ServerError as error:
            group.link = None
            group.link = self._send_again(group, link, error)

    def _receive(self, group: Group) -> None:
        while (link := group.link) is not None:
            try:
                group.answers = link.receive(len(group.commands))
            except ServerError as error:
                group.link = None
                group.link = self._send_again(group, link, error)
            else:
                group.link = None
                self._finish(group, link)

    def _finish(self, group: Group, link: Link) -> None:
        """Gives the link back, unless one of the answers says that the server cannot be used."""
        self._counts.round_trips += 1
        self._counts.commands += len(group.commands)
        for answer in group.answers:
            if isinstance(answer, ErrorReply) and (reason := answer.reason_of_server) is not None:
                words = f"{link.address}: expected a server that can be used, got {quoted(answer, 200)}"
                error = ServerError(words, reason, is_sent=True)
                group.node.fail(link, error)
                raise error
        group.node.give_back(link)

    def _send_again(self, group: Group, link: Link, error: ServerError) -> Link:
        """By a new link, where that is allowed and the old one broke after it had served; else raises the
        error."""
        if not (self._is_repeatable and link.is_used and error.reason == "down"):
            group.node.fail(link, error)
            raise error
        self._counts.repeats += 1
        new = group.node.replace(link, self._deadline)
        try:
            self._send_by(new, group)
        except ServerError as second:
            group.node.fail(new, second)
            raise
        return new

    def _send_by(self, link: Link, group: Group) -> None:
        deadline = self._deadline
        link.send(group.packed, deadline.until_s if link.is_used else deadline.after_connecting())
