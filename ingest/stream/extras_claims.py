"""What is claimed of workers for a prompt with a salt or multimodal items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kvatlas.ingest.stream.truth import State, Truth


class ExtrasClaim(NamedTuple):
    """What is claimed of one worker for such a prompt."""

    state: State


class ExtrasClaims(Mapping[int, ExtrasClaim]):
    """Claims by worker number, made when looked up: a prompt asks for those of the workers it matches.

    A worker whose events do not say which blocks are salted or multimodal holds them as plain ones:
    sound for such a prompt, but not complete.
    """

    def __init__(self, truths: Mapping[int, Truth]) -> None:
        self._truths = truths

    def __getitem__(self, number: int) -> ExtrasClaim:
        truth = self._truths[number]
        lacks = truth.state == "EXACT" and truth.lacks_extras
        return ExtrasClaim("PARTIAL" if lacks else truth.state)

    def __iter__(self) -> Iterator[int]:
        return iter(self._truths)

    def __len__(self) -> int:
        return len(self._truths)
