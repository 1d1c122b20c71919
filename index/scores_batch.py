"""Scores of many prompts, in few Python objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from kvatlas.index.scores import KnownTruth, Scores, Truth, Worker
from kvatlas.index.shards import Matches


class _Rows(NamedTuple):
    """The matches of all prompts, one after the other."""

    ends: npt.NDArray[np.int64]
    """[n_prompts] where each prompt's rows end."""
    workers: npt.NDArray[np.uint32]
    """[n_rows]"""
    blocks: npt.NDArray[np.uint32]
    """[n_rows]"""
    tier_blocks: npt.NDArray[np.uint32]
    """[n_rows, 5]"""
    prompt_blocks: npt.NDArray[np.uint32]
    """[n_prompts]"""
    slots_probed: npt.NDArray[np.uint32]
    """[n_prompts]"""
    is_whole: npt.NDArray[np.bool_]
    """[n_prompts]"""
    partial_rows: dict[int, tuple[int, ...]]
    """By prompt; most have none."""


class ScoresBatch(Sequence[Scores]):
    """The scores of many prompts, in the order asked; each is made when it is looked at."""

    def __init__(
        self,
        rows: _Rows,
        names: Mapping[int, Worker],
        weights: npt.NDArray[np.float64],
        block_size_tokens: int,
        truths: Mapping[int, Truth],
    ) -> None:
        self._rows = rows
        self._names = names
        self._weights = weights
        self._truths = truths
        self.block_size_tokens = block_size_tokens
        """0 while the model's block size is not known: nothing can match then."""

    @classmethod
    def of(
        cls,
        matches: Sequence[Matches],
        names: Mapping[int, Worker],
        weights: npt.NDArray[np.float64],
        *,
        prompt_blocks: Sequence[int],
        block_size_tokens: int,
        truths: Mapping[int, Truth],
    ) -> ScoresBatch:
        """`matches` and `prompt_blocks` [n_prompts]; the others as `Scores` takes them."""
        rows = _Rows(
            ends=np.cumsum([len(match.workers) for match in matches], dtype=np.int64),
            workers=_joined([match.workers for match in matches]),
            blocks=_joined([match.blocks for match in matches]),
            tier_blocks=_joined([match.tier_blocks for match in matches]).reshape(-1, 5),
            prompt_blocks=np.asarray(prompt_blocks, np.uint32),
            slots_probed=np.array([match.slots_probed for match in matches], np.uint32),
            is_whole=np.array([match.is_whole for match in matches], np.bool_),
            partial_rows={i: match.partial_rows for i, match in enumerate(matches) if match.partial_rows},
        )
        return cls(rows, names, weights, block_size_tokens, truths)

    @property
    def is_whole(self) -> bool:
        """Whether every prompt's answer is (`Scores.is_whole`)."""
        return bool(self._rows.is_whole.all())

    def __len__(self) -> int:
        return len(self._rows.ends)

    @overload
    def __getitem__(self, index: int) -> Scores: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scores]: ...
    def __getitem__(self, index: int | slice) -> Scores | list[Scores]:
        if isinstance(index, slice):
            return [self._scores(i) for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"prompt {index} of {len(self)}")
        return self._scores(at)

    def __iter__(self) -> Iterator[Scores]:
        return (self._scores(i) for i in range(len(self)))

    def _scores(self, i: int) -> Scores:
        rows = self._rows
        own = slice(int(rows.ends[i - 1]) if i else 0, int(rows.ends[i]))
        matches = Matches(
            rows.workers[own],
            rows.blocks[own],
            rows.tier_blocks[own],
            int(rows.slots_probed[i]),
            rows.partial_rows.get(i, ()),
            bool(rows.is_whole[i]),
        )
        return Scores(
            matches,
            self._names,
            self._weights,
            prompt_blocks=int(rows.prompt_blocks[i]),
            block_size_tokens=self.block_size_tokens,
            truths=self._truths,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Of names and truths only those that some prompt has matched."""
        numbers = np.unique(self._rows.workers).tolist()
        names = {number: self._names[number] for number in numbers if number in self._names}
        states = ((number, self._truths.get(number)) for number in numbers)
        truths = {number: KnownTruth(truth.state) for number, truth in states if truth is not None}
        return ScoresBatch, (self._rows, names, self._weights, self.block_size_tokens, truths)

    def __repr__(self) -> str:
        return f"ScoresBatch({len(self)} prompts, is_whole={self.is_whole})"


def _joined(arrays: list[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    return np.concatenate(arrays) if arrays else np.empty(0, np.uint32)
