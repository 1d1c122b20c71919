"""All that the shards of a cluster hold at one moment, taken while it serves.

    view ──> every session held ──> every shard copies its table ──> released ──> the same sessions?
                                                                          └──> sections, fetched at leisure

Matches go on all the time. What model servers tell waits in the subscribers from the first hold to
the release, some milliseconds for most tables; a hold ends by itself when whoever asked dies.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.link.messages import Address
from kvatlas.actors.moving.shard_export import ShardExport, end_exports
from kvatlas.actors.orders import ClusterView, Replica, is_guest
from kvatlas.actors.subscriber.holding import HoldAsks, HoldReport
from kvatlas.index.errors import ClusterError, KvatlasError
from kvatlas.index.fleet_view import degraded_part
from kvatlas.index.view import FleetPart

_LOST = "its subscriber was gone when this was taken"
_ATTEMPTS = 3
_ASK_EVERY_S = 0.002
_HOLDING_SHARE = 0.8
"""Of the time of a hold, until all stand; the rest is for copying."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


class CutSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long a cut may take."""

    hold_s_max: float = 5.0
    """From the first hold on; then subscribers go on by themselves and the cut is tried again."""
    request_s_max: float = 30.0
    """For a shard's answer."""


class CutDesk(Protocol):
    """The cluster, as far as a cut must know it. Methods raise ClusterError where nobody answers."""

    def view(self) -> ClusterView:
        """The newest one, with all parts."""
        ...

    def hold(self, subscriber: str, asks: HoldAsks) -> Future[HoldReport]: ...
    def release(self, subscriber: str, token: int) -> Future[bool]: ...
    def link(self, replica: Replica) -> ShardLink: ...


class SessionPart(NamedTuple):
    """What one session said of its workers at the moment of the cut."""

    session: int
    subscriber: str
    part: FleetPart


class ClusterCut(NamedTuple):
    """A cluster at one moment."""

    view: ClusterView
    parts: tuple[SessionPart, ...]
    exports: tuple[ShardExport, ...]
    """One a shard."""
    held_s: float
    """Time from the first hold to the release."""

    @property
    def pairs(self) -> int:
        """Of a block and a lane, in all shards."""
        return sum(export.pairs for export in self.exports)

    def end(self) -> None:
        """Let go of what the shards keep for it. Twice is fine."""
        end_exports(self.exports)


class TornError(ClusterError):
    """Something changed while a cut was taken."""


def take_cut(
    desk: CutDesk,
    settings: CutSettings | None = None,
    *,
    said: Callable[[str], object] = lambda _: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> ClusterCut:
    """The cluster at one moment; `said` is told what is going on.

    Guests, which write without a subscriber, are not held: of what they write while it is taken each
    shard may have another half. Raises ClusterError when shards or subscribers are missing, being filled,
    do not answer, or change again and again meanwhile; nothing is held then.
    """
    settings = settings or CutSettings()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _Taking(desk, settings, said, clock_s).take()
        except TornError as error:
            if attempt == _ATTEMPTS:
                raise
            _log.info("the cut is taken once more: %s", error)
    raise AssertionError("the last attempt returns or raises")


class _Taking:
    """One attempt."""

    def __init__(
        self,
        desk: CutDesk,
        settings: CutSettings,
        said: Callable[[str], object],
        clock_s: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._said = said
        self._clock_s = clock_s
        self._token = secrets.randbits(62) + 1

    def take(self) -> ClusterCut:
        view = self._desk.view()
        replicas = _one_a_shard(view)
        exports = self._exports(view.serving.number, replicas)
        writers = {
            one.session: one.subscriber
            for one in view.parts
            if one.session not in view.lost and not one.lost and not is_guest(one.subscriber)
        }
        asks = HoldAsks(
            token=self._token,
            incarnations=tuple(replica.incarnation for replica in replicas),
            limit_s=self._settings.hold_s_max,
        )
        began_s = self._clock_s()
        try:
            held, stood = self._while_held(writers, asks, exports)
            held_s = self._clock_s() - began_s
            self._check(view, stood)
        except BaseException:
            end_exports(exports)
            raise
        return ClusterCut(view, _parts(view, held), exports, held_s)

    def _exports(self, layout: int, replicas: Iterable[Replica]) -> tuple[ShardExport, ...]:
        return tuple(
            ShardExport(
                self._desk.link(replica),
                Address(layout, replica.shard, replica.incarnation),
                self._token,
                self._settings.request_s_max,
            )
            for replica in replicas
        )

    def _while_held(
        self, writers: Mapping[int, str], asks: HoldAsks, exports: Iterable[ShardExport]
    ) -> tuple[dict[int, FleetPart], bool]:
        """Copies all shards; the parts of the sessions, and whether all stood still until the end."""
        try:
            self._said(f"holding {len(writers)} subscribers")
            held = self._hold(writers, asks)
            self._said("copying the shards")
            # A copy that is begun when they go on again is of another moment.
            for export, answer in [(export, export.begin(asks.limit_s)) for export in exports]:
                export.begun(answer)
        finally:
            stood = self._release(writers.values())
        return held, stood

    def _hold(self, writers: Mapping[int, str], asks: HoldAsks) -> dict[int, FleetPart]:
        """The parts of all sessions, when all are held."""
        held: dict[int, FleetPart] = {}
        wait_s, never = _HOLDING_SHARE * asks.limit_s, threading.Event()
        until_s = self._clock_s() + wait_s
        while missing := {session: name for session, name in writers.items() if session not in held}:
            asked = {session: self._desk.hold(name, asks) for session, name in missing.items()}
            for session, answer in asked.items():
                who = f"subscriber {missing[session]}"
                report = _result(answer, who, asks.limit_s)
                if report.is_over or report.session not in (0, session):
                    raise TornError(f"{who}: expected session {session} to be held, it is over")
                if report.is_held and report.part is not None:
                    held[session] = report.part
                elif self._clock_s() > until_s:
                    raise ClusterError(
                        f"{who}: expected a hold within {wait_s:g} s, it waits for {report.waits_for}"
                    )
            if len(held) < len(writers):
                never.wait(_ASK_EVERY_S)
        return held

    def _release(self, subscribers: Iterable[str]) -> bool:
        """Whether all stood until now. Who does not answer goes on by itself."""
        stood, released = True, []
        for name in subscribers:
            try:
                released.append((name, self._desk.release(name, self._token)))
            except KvatlasError:
                stood = False
        for name, answer in released:
            try:
                stood &= _result(answer, f"subscriber {name}", self._settings.hold_s_max)
            except KvatlasError:
                stood = False
        return stood

    def _check(self, view: ClusterView, stood: bool) -> None:
        """Nobody went on, came or left in between."""
        if not stood:
            raise TornError(
                f"expected all subscribers to hold until the end, some went on (at the latest after "
                f"{self._settings.hold_s_max:g} s)"
            )
        now = self._desk.view()
        if (now.sessions, now.lost) != (view.sessions, view.lost):
            raise TornError(f"expected sessions {view.sessions} throughout, got {now.sessions}")


def _one_a_shard(view: ClusterView) -> list[Replica]:
    """A whole replica of each shard that serves. Raises ClusterError where there is none."""
    found = {replica.shard: replica for replica in view.serving.replicas if replica.whole}
    missing = [str(shard) for shard in range(view.serving.n_shards) if shard not in found]
    if missing:
        raise ClusterError(
            f"cluster {view.cluster!r}: expected all {view.serving.n_shards} shards whole, "
            f"{', '.join(missing)} is missing or being filled: try again later"
        )
    return [found[shard] for shard in range(view.serving.n_shards)]


def _parts(view: ClusterView, held: Mapping[int, FleetPart]) -> tuple[SessionPart, ...]:
    """As held; of lost sessions what they said last."""
    parts = []
    for one in view.parts:
        is_lost = one.lost or one.session in view.lost
        part = held.get(one.session, degraded_part(one.part, _LOST) if is_lost else one.part)
        parts.append(SessionPart(one.session, one.subscriber, part))
    return tuple(parts)


def _result(answer: Future[T], who: str, timeout_s: float) -> T:
    try:
        return answer.result(timeout_s)
    except (TimeoutError, FutureTimeoutError) as error:
        raise ClusterError(f"{who}: expected an answer within {timeout_s:g} s, got none") from error
    except Exception as error:  # of Ray, which has many kinds
        cause = getattr(error, "cause", error)
        if isinstance(cause, KvatlasError):
            raise ClusterError(f"{who}: {cause}") from error
        said = str(error).strip().partition("\n")[0]
        raise ClusterError(f"{who}: expected an answer, got {type(error).__name__}: {said}") from error
