"""What can go wrong with a server: as values of single commands, and as one exception for all else."""

from __future__ import annotations

from typing import Any, Literal

from kvatlas.index.errors import RemoteIndexError, quoted

Reason = Literal[
    "down",  # nobody there, or the connection broke
    "timeout",  # no whole answer in time
    "backoff",  # not asked: it failed a moment ago
    "busy",  # all connections are in use, or a script holds the server
    "refused",  # password, user, permission, too many clients
    "tls",  # no handshake: certificate, or no TLS there
    "loading",  # it reads its data after a start
    "readonly",  # a replica
    "cluster",  # the cluster does not serve the slot
    "garbled",  # no answer of the protocol, or one of too many bytes
    "full",  # its memory limit is reached
    "wrong type",  # a key of ours holds something else
    "command",  # any other error of one command
    "closed",  # by us
]

# By the first word of what the server says. These hold for the server, not for one command.
_OF_SERVER: dict[str, Reason] = {
    "LOADING": "loading",
    "READONLY": "readonly",
    "MASTERDOWN": "loading",
    "CLUSTERDOWN": "cluster",
    "NOAUTH": "refused",
    "NOPERM": "refused",
    "WRONGPASS": "refused",
    "BUSY": "busy",
    "MISCONF": "readonly",
    "NOREPLICAS": "readonly",
}
_OF_COMMAND: dict[str, Reason] = {"OOM": "full", "WRONGTYPE": "wrong type"}


class ServerError(RemoteIndexError):
    """A server that cannot be asked, or one of its errors. Its text never holds a password."""

    def __init__(self, message: str, reason: Reason = "down", *, is_sent: bool = False) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.is_sent = is_sent
        """Whether the server may have executed some of what was asked."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _server_error, (str(self), self.reason, self.is_sent)


def _server_error(message: str, reason: Reason, is_sent: bool) -> ServerError:
    return ServerError(message, reason, is_sent=is_sent)


class ErrorReply(Exception):  # noqa: N818  (a value, which nobody raises)
    """What a server answers to a command that it does not execute: a value in the answers of `run`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.split(" ", 1)[0]
        """Its first word: WRONGTYPE, OOM, NOSCRIPT, ERR, ... or of a script's own."""

    @property
    def reason_of_server(self) -> Reason | None:
        """Why the server as a whole cannot be used; None: this concerns the one command."""
        if self.args[0].startswith("ERR max number of clients"):
            return "refused"
        return _OF_SERVER.get(self.code)


def raise_first(answers: list[Any], where: str) -> list[Any]:
    """The answers, where none is an error; else raises ServerError with the first."""
    for number, answer in enumerate(answers):
        if isinstance(answer, ErrorReply):
            reason = answer.reason_of_server or _OF_COMMAND.get(answer.code, "command")
            place = f"{where}: command {number + 1} of {len(answers)}"
            raise ServerError(f"{place}: expected an answer, got {quoted(answer, 200)}", reason, is_sent=True)
    return answers
