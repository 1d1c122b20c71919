"""What is claimed of workers for a prompt with a salt or multimodal items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol


class Claim(Protocol):
    """What can be claimed of a worker's content in the index."""

    @property
    def state(self) -> str: ...
    @property
    def lacks_extras(self) -> bool: ...


class ExtrasClaim(NamedTuple):
    """What is claimed of one worker for such a prompt."""

    state: str


class ExtrasClaims(Mapping[int, ExtrasClaim]):
    """Claims by worker number, made when looked up: a prompt asks for those of the workers it matches.

    A worker whose events do not say which blocks are salted or multimodal holds them as plain ones:
    sound for such a prompt, but not complete.
    """

    def __init__(self, claims: Mapping[int, Claim]) -> None:
        self._claims = claims

    def __getitem__(self, number: int) -> ExtrasClaim:
        claim = self._claims[number]
        lacks = claim.state == "EXACT" and claim.lacks_extras
        return ExtrasClaim("PARTIAL" if lacks else claim.state)

    def __iter__(self) -> Iterator[int]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)
