"""Prompts matched in a server's index: one round trip for all of a call, within its time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Excerpt, Index, Roster, Source
from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.reading import Question
from kvatlas.index.shards import Matches, Strategy, lookup, match

Keys = npt.NDArray[np.uint64]
NOTHING: Source = Excerpt([], [])


class FetchedIndex(Protocol):
    """An index that tells what it knows of keys: `RemoteIndex`, `LlmdIndex`."""

    def fetch(self, parts: Sequence[Keys]) -> Excerpt:
        """What is known of these chains. Raises RemoteIndexError."""
        ...


class Seen(NamedTuple):
    """What one round trip has brought."""

    source: Source
    is_reached: bool
    is_whole: bool
    """As far as the server knows: it has lost nothing."""


class Fetching:
    """Fetches, and remembers whether the server was reached. Any thread may call it."""

    def __init__(self, index: FetchedIndex, noticed: Callable[[RemoteIndexError | None], object]) -> None:
        """`noticed`: after each fetch; why it failed, or None."""
        self._index = index
        self._noticed = noticed

    def fetch(self, parts: Sequence[Keys]) -> Seen:
        """What the server has of these chains; nothing where it cannot be asked."""
        asked = [keys for keys in parts if len(keys)]
        if not asked:
            return Seen(NOTHING, True, True)
        try:
            source = self._index.fetch(asked)
        except RemoteIndexError as error:
            self._noticed(error)
            return Seen(NOTHING, False, False)
        self._noticed(None)
        return Seen(source, True, source.whole)


class RemoteMatcher:
    """One fleet's matches in a server (`kvatlas.index.reading.Matcher`). Any thread may call it."""

    def __init__(self, fetching: Fetching, roster: Roster, *, is_whole: bool) -> None:
        """`is_whole`: every writer has told all that it holds."""
        self._fetching = fetching
        self._roster = roster
        self._is_whole = is_whole

    def match(
        self,
        keys: Keys,
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """As `ShardedIndex.match`; a server that is not reached has nothing, and the match is not whole."""
        question = Question(keys, prompt_tokens, block_size_tokens, None, strategy, False)
        seen = self._fetching.fetch([keys])
        return self._match(seen, question._replace(allowed=allowed))  # type: ignore[arg-type]

    def match_all(self, questions: Sequence[Question]) -> tuple[list[Matches], bool]:
        """All in one round trip; and whether the server was reached."""
        seen = self._fetching.fetch([question.keys for question in questions])
        return [self._match(seen, question) for question in questions], seen.is_reached

    def lookup(self, keys: Keys) -> list[list[tuple[int, int]]]:
        """For each key of a chain from its start, the lanes that hold it and their tier bits."""
        return lookup([self._fetching.fetch([keys]).source], keys)

    def _match(self, seen: Seen, question: Question) -> Matches:
        return match(
            Index([seen.source], self._roster),
            question.keys,
            question.allowed,
            question.prompt_tokens,
            question.block_size_tokens,
            question.strategy,
            self._is_whole and seen.is_whole,
        )
