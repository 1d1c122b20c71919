"""What a stream asks its replay socket for: from which batch on, and when once more.

Thread safety: none; it belongs to a stream.
"""

from __future__ import annotations

from kvatlas.ingest.stream.history import History
from kvatlas.ingest.stream.incarnations import Incarnations
from kvatlas.ingest.stream.replay_talk import ReplayTalk
from kvatlas.ingest.stream.truth import Truth

_HEALED_BY_ANSWER = (
    "gap",
    "suspect",
    "reconnected",
    "replaying",
    "unconfirmed",
    "silent",
    "lost_contact",
    "joining",
)
_MIXED_S = 60.0
_LONG_AGO = float("-inf")


class Inquiry:
    """Chooses the questions of a conversation."""

    def __init__(self, history: History, truth: Truth, talk: ReplayTalk, incarnations: Incarnations) -> None:
        self._history = history
        self._truth = truth
        self._talk = talk
        self._incarnations = incarnations
        self.contradictions = 0
        """Batches that an answer did without though it was asked for after them, since one fitted."""
        self.is_joining = False
        """On a connection so new that its subscription may not have stood when the question was put."""
        self._wants_all = False  # what is lost or missed has not been asked for
        self._opened_s = self._joining_since_s = _LONG_AGO

    def opened(self, now_s: float) -> None:
        """Another connection, or another publisher: for a while a question begins further back."""
        self._opened_s = now_s
        self.joins(now_s)

    def joins(self, now_s: float) -> None:
        """The connection is so new that its subscription may not stand yet."""
        self.is_joining = True
        self._joining_since_s = now_s

    def answered(self, now_s: float) -> None:
        """All that was asked for has come: what that heals."""
        joining = {"joining": ""} if self.is_joining else {}
        self._truth.change(now_s, doubts=joining, settled={*_HEALED_BY_ANSWER} - joining.keys())

    def joined(self, join_s: float) -> None:
        """All has been answered; once more a moment later, for what was published in between."""
        self.is_joining = False
        self._talk.ask_at(self._joining_since_s + join_s)

    def ask(self, now_s: float, *, whole: bool = False) -> None:
        whole = whole or self._history.last is None or (self._wants_all and self._lacks())
        self._talk.ask(0 if whole else self._last_known(now_s), now_s, whole=whole)

    def ask_again(self, now_s: float) -> None:
        """At once, unless that has led nowhere lately."""
        tries = max(self.contradictions, self._incarnations.n_beyond)
        self.ask(now_s)
        if tries > 0:
            self._talk.ask_later(now_s, tries)

    # What is asked for as a whole as soon as somebody answers.

    def begin_unasked(self, seq: int, now_s: float) -> None:
        """The batch `seq` is the first that is known; what was before has not been asked for."""
        self._history.begin(seq, now_s)
        self._wants_all = True

    def lose_unasked(self, now_s: float, what: str) -> None:
        """Batches are lost, without having been asked for."""
        if self._history.last is not None:
            self._history.lose(now_s, what)
            self._wants_all = True

    def all_comes(self) -> None:
        """The whole history is being answered."""
        self._wants_all = False

    def _lacks(self) -> bool:
        return self._truth.stands("lost") or self._truth.stands("missed")

    def _last_known(self, now_s: float) -> int:
        """Where an answer should begin: at the last batch applied. Shortly after a reconnect further
        back: what was left of the old connection may have been read behind it, and a new engine's
        number may have fitted behind that; the last batch alone would confirm such a mixture."""
        assert self._history.last is not None
        return self._history.oldest if now_s < self._opened_s + _MIXED_S else self._history.last
