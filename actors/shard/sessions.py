"""The sessions that feed a shard: who owns which lane, who has loaded, who is over."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from kvatlas.index.errors import InputError

SESSIONS_MAX = 4096
RETIRED_MAX = 65_536


class Session:
    """One session's standing here. Its lock is held while its records are applied and its fields change."""

    __slots__ = ("have", "is_loaded", "is_loading", "is_over", "lanes", "lock", "named", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.RLock()
        self.have = 0
        """Number of the last message applied."""
        self.is_loaded = False
        """What it has here is all that it had to say when `have` was sent."""
        self.is_over = False
        self.is_loading = False
        """The first part of its content has come, the last has not."""
        self.named: set[int] = set()
        """Lanes that were named since."""
        self.lanes: set[int] = set()
        """All that it may have something of here."""

    def begin_load(self) -> None:
        self.is_loaded, self.is_loading, self.named = False, True, set()

    def end_load(self) -> None:
        self.is_loaded, self.is_loading, self.named = True, False, set()

    def lose(self) -> None:
        """A message is missing: only its content, from the first part on, helps."""
        self.is_loaded = self.is_loading = False


class LaneTakenError(InputError):
    """A lane belongs to a session that came later: this one must be over."""


class Sessions:
    """The sessions by number. Any thread may call any method; a session's lock is taken before ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[int, Session] = {}
        self._owners: dict[int, Session] = {}
        self._retired: set[int] = set()
        self._live: frozenset[int] | None = None

    def find(self, number: int) -> Session | None:
        """The session, new if need be; None: it is over. Raises InputError when there are too many."""
        with self._lock:
            if number in self._retired:
                return None
            if number not in self._sessions:
                if len(self._sessions) >= SESSIONS_MAX:
                    raise InputError(f"sessions: expected at most {SESSIONS_MAX}, got one more")
                self._sessions[number] = Session(number)
            return self._sessions[number]

    def claim(self, session: Session, lanes: Collection[int]) -> dict[Session, set[int]]:
        """Make it the owner of these lanes; those that it took from sessions before it, by session.

        Raises LaneTakenError, and changes nothing, when one belongs to a session after it.
        """
        taken: dict[Session, set[int]] = {}
        with self._lock:
            new = [lane for lane in lanes if self._owners.get(lane) is not session]
            for lane in new:
                owner = self._owners.get(lane)
                if owner is not None and owner.number > session.number:
                    raise LaneTakenError(
                        f"lane {lane}: expected one of this session, it is of session {owner.number}"
                    )
            for lane in new:
                owner = self._owners.get(lane)
                if owner is not None:
                    owner.lanes.discard(lane)
                    taken.setdefault(owner, set()).add(lane)
                self._owners[lane] = session
                session.lanes.add(lane)
        return taken

    def give_up(self, session: Session, lanes: Iterable[int]) -> None:
        """They are empty now."""
        with self._lock:
            for lane in lanes:
                if self._owners.get(lane) is session:
                    del self._owners[lane]
                session.lanes.discard(lane)

    def retire(self, numbers: Iterable[int]) -> list[Session]:
        """They are over; those that were known here, for their lanes to be emptied and given up."""
        with self._lock:
            self._retired.update(numbers)
            if (
                len(self._retired) > RETIRED_MAX
            ):  # the newest matter: nobody lives as long as the others are over
                self._retired = set(sorted(self._retired)[-RETIRED_MAX // 2 :])
            known = self._sessions.keys() & self._retired
            return [self._sessions.pop(number) for number in sorted(known)]

    def set_live(self, numbers: Iterable[int]) -> None:
        """Those whose content readers expect here."""
        with self._lock:
            self._live = frozenset(numbers)

    @property
    def are_whole(self) -> bool:
        """All live ones have loaded. Not before it was told which they are."""
        with self._lock:
            return self._live is not None and all(
                number in self._sessions and self._sessions[number].is_loaded for number in self._live
            )

    def all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())
