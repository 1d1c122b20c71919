"""What processes that share an index say to each other through its server: sessions, numbers, parts.

    {<namespace>:fleet}:common     HASH    format, algorithm, seed, fingerprint: what all have in common
    {<namespace>:fleet}:next       number  the last session's
    {<namespace>:fleet}:sessions   HASH    session -> its token; a session that is not in it is over
    {<namespace>:fleet}:leases     ZSET    session, by when its lease ends (ms of the server's clock)
    {<namespace>:fleet}:beat       number  when anybody was heard last
    {<namespace>:fleet}:parts      HASH    session -> SessionPart
    {<namespace>:fleet}:over       SET     sessions that are over and whose lanes are not empty yet
    {<namespace>:fleet}:version    number  rises when parts, sessions or the lane map change
    {<namespace>:fleet}:held.<k>   HASH    chunk of numbers -> session;  k: lanes, workers
    {<namespace>:fleet}:rest.<k>   ZSET    chunk, by when it is free
    {<namespace>:fleet}:chunks.<k> number  chunks ever lent

All lie in one slot of a cluster; each script (scripts/) is one step of all of them. Times are the server's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from kvatlas.index.errors import RemoteIndexError, quoted
from kvatlas.index.remote.fleet.settings import CHUNKS_MAX, LANES_IN_CHUNK
from kvatlas.index.remote.resync import SessionOver

FORMAT = "1"
Kind = Literal["lanes", "workers"]
_Said = TypeVar("_Said")


class ScriptServer(Protocol):
    """A server that runs scripts: a `RemoteConnection`."""

    def run(self, commands: Sequence[Any], *, timeout_s: float | None = None) -> list[Any]: ...
    def script(self, source: str) -> Any: ...


class Meta(NamedTuple):
    """What all who share an index have in common; empty where nobody has said."""

    format: str
    algorithm: str
    seed: str
    """Empty where it is not kept here."""
    fingerprint: str


class Heard(NamedTuple):
    """What a session is told when it is heard."""

    version: int
    expired: tuple[int, ...]
    """Sessions whose lease ran out."""


class Reading(NamedTuple):
    """What readers are told."""

    version: int
    lost: frozenset[int]
    """Sessions whose lease ran out, and that nobody has ended yet."""
    sessions: frozenset[int] | None
    """None: nothing has changed since the version that was known."""
    parts: dict[int, bytes]
    fingerprint: str = ""
    """Of what all key with; empty where nobody has said, or nothing has changed."""


class Board:
    """One namespace's board. Any thread may call any method.

    Each call is one round trip, and raises RemoteIndexError when the server cannot be asked, or has
    something else in the place of a key. Fields and members that are not ours are passed over.
    """

    def __init__(self, connection: ScriptServer, namespace: str, *, timeout_s: float | None = None) -> None:
        self._connection = connection
        self._prefix = f"{{{namespace}:fleet}}:"
        self._timeout_s = timeout_s

    def agree(self, algorithm: str, seed: str, fingerprint: str) -> Meta:
        """Say what is to be common, where nobody has; what is. Without a fingerprint it only asks."""
        arguments = [FORMAT, algorithm, seed, fingerprint]
        return self._call("agree", ["common"], arguments, lambda said: Meta(*map(_text, said)))

    def begin(self, token: str, lease_s: float) -> int:
        """A new session's number."""
        keys = ["next", "sessions", "leases", "beat", "version"]
        return self._call("begin", keys, [token, _ms(lease_s)], int)

    def beat(
        self,
        session: int,
        token: str,
        lease_s: float,
        part: bytes,
        lanes: Sequence[int],
        workers: Sequence[int],
    ) -> Heard:
        """The session is alive, and holds these chunks; `part` may be empty: as before.

        Raises SessionOver.
        """
        keys = ["sessions", "leases", "beat", "parts", "version", "held.lanes", "held.workers"]
        held = [",".join(map(str, chunks)) for chunks in (lanes, workers)]
        heard = self._call("beat", keys, [session, token, _ms(lease_s), part, *held], _heard)
        if heard is None:
            raise _over(session)
        return heard

    def lease(self, session: int, token: str, kind: Kind) -> range | None:
        """More numbers for a session; None: there are none left. Raises SessionOver."""
        keys = ["sessions", f"held.{kind}", f"rest.{kind}", f"chunks.{kind}"]
        chunk = self._call("lease", keys, [session, token, CHUNKS_MAX], _chunk)
        if chunk == -1:
            raise _over(session)
        return None if chunk < 0 else numbers_of(chunk)

    def end(self, session: int, token: str = "") -> bool:
        """End a session: one's own, or, without its token, one whose lease ran out; whether it is over."""
        keys = ["sessions", "leases", "parts", "version", "over"]
        return self._call("end", keys, [session, token], bool)

    def over(self) -> tuple[int, list[int]] | None:
        """A session that is over and whose lanes are still held, with those."""
        return self._call("over", ["over", "held.lanes"], [], _burden)

    def free(self, session: int, rest_s: float) -> None:
        """The lanes of a session that is over are empty: its numbers rest, then they are anybody's."""
        keys = ["over", "held.lanes", "rest.lanes", "held.workers", "rest.workers"]
        self._call("free", keys, [session, _ms(rest_s)], int)

    def read(self, known: int | None) -> Reading:
        """For readers; all parts where the version is another one than `known`."""
        keys = ["sessions", "leases", "parts", "version", "common"]
        return self._call("read", keys, ["" if known is None else known], _reading)

    def _call(
        self,
        name: str,
        keys: Sequence[str],
        arguments: Sequence[str | int | bytes],
        read: Callable[[Any], _Said],
    ) -> _Said:
        """`read`: what the answer says; may raise anything for what the script does not answer."""
        script = self._connection.script(_source(name))
        command = script.command([self._prefix + key for key in keys], arguments)
        (answer,) = self._connection.run([command], timeout_s=self._timeout_s)
        if not isinstance(answer, Exception):
            try:
                return read(answer)
            except (LookupError, TypeError, ValueError):
                pass  # somebody else has written in the place of a key
        raise RemoteIndexError(f"index server: expected an answer to {name}, got {quoted(answer)}")


def _heard(answer: Any) -> Heard | None:
    """None: the session is over."""
    return None if answer == 0 else Heard(int(answer[0]), tuple(_numbers(answer[1:])))


def _chunk(answer: Any) -> int:
    chunk = int(answer)
    if not -2 <= chunk < CHUNKS_MAX:
        raise ValueError(chunk)
    return chunk


def _burden(answer: Any) -> tuple[int, list[int]] | None:
    """A session, and the lanes that it holds."""
    if not answer or not _is_number(answer[0]):
        return None
    chunks = (chunk for chunk in _numbers(answer[1:]) if chunk < CHUNKS_MAX)
    return int(answer[0]), [lane for chunk in chunks for lane in numbers_of(chunk)]


def _reading(answer: Any) -> Reading:
    version, lost = int(answer[0]), frozenset(_numbers(answer[1]))
    if len(answer) == 2:
        return Reading(version, lost, None, {})
    told = zip(answer[3][::2], answer[3][1::2], strict=True)
    parts = {int(number): bytes(part) for number, part in told if _is_number(number)}
    return Reading(version, lost, frozenset(_numbers(answer[2])), parts, _text(answer[4]))


def _numbers(words: Iterable[bytes]) -> list[int]:
    """Those of the words that are a session's or a chunk's number."""
    return [int(word) for word in words if _is_number(word)]


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) < 20


def _over(session: int) -> SessionOver:
    return SessionOver(f"session {session}: expected a lease in the index server, got none: it is over")


def numbers_of(chunk: int) -> range:
    """The numbers of a chunk."""
    return range(chunk * LANES_IN_CHUNK, (chunk + 1) * LANES_IN_CHUNK)


@functools.cache
def _source(name: str) -> str:
    return (Path(__file__).parent / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
