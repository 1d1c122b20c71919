"""Compares a tokenizer with a model server: case by case, and where the first ids differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError, KvatlasError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.backend import ModelTokenizer
from kvatlas.tokenize.parity.battery import battery
from kvatlas.tokenize.parity.case import Case
from kvatlas.tokenize.pods import PodTokenizer

Outcome = Literal[
    "equal", "both refuse", "differs", "only the pod refuses", "only here refused", "not supported here"
]
_AGREEING = frozenset({"equal", "both refuse", "not supported here"})

_TIMEOUT_S = 10.0
_AROUND_TOKENS = 8
_TOKENS_MAX = 24
"""Some models have hundreds of added tokens; the first are those that templates write."""

_Ids = npt.NDArray[np.uint32]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where two lists of ids part."""

    index: int
    """In tokens."""
    here: int | None
    """None: the list has ended."""
    pod: int | None
    text_before: str
    """What both have before it, its last tokens."""
    here_text: str
    """Of the next tokens, as computed here."""
    pod_text: str


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one case went."""

    name: str
    outcome: Outcome
    tokens: int = 0
    """As the pod counts them."""
    here_error: str = ""
    pod_error: str = ""
    difference: Difference | None = None

    @property
    def is_equal(self) -> bool:
        """Also where both refuse, for such a request has no ids, and where nothing is claimed here."""
        return self.outcome in _AGREEING


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a tokenizer compares with a model server."""

    model: str
    pod_url: str
    served_by: str
    """Who computed the ids here."""
    cases: tuple[CaseResult, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all cases are, and some have ids."""
        return self.count("equal") > 0 and all(case.is_equal for case in self.cases)

    @property
    def different(self) -> tuple[CaseResult, ...]:
        """Cases that are not equal, in order."""
        return tuple(case for case in self.cases if not case.is_equal)

    def count(self, outcome: Outcome) -> int:
        """Cases that went so."""
        return sum(case.outcome == outcome for case in self.cases)


def check(
    tokenizer: ModelTokenizer,
    pod_url: str,
    *,
    cases: Iterable[Case] | None = None,
    timeout_s: float = _TIMEOUT_S,
    seen: Callable[[CaseResult], None] | None = None,
) -> ParityReport:
    """Asks both for every case, of the whole battery unless `cases` are given; `seen` hears of each at once.

    `timeout_s` is for one question. Raises TokenizerError when one of them cannot answer at all;
    a case that one refuses is a result.
    """
    with contextlib.closing(PodTokenizer(tokenizer.model, pod_url, timeout_s=timeout_s)) as pod:
        results = []
        for case in battery() if cases is None else cases:
            results.append(_compare(case, tokenizer, pod))
            if seen is not None:
                seen(results[-1])
    return ParityReport(
        model=tokenizer.model, pod_url=pod_url, served_by=tokenizer.served_by, cases=tuple(results)
    )


def special_tokens_of(tokenizer: ModelTokenizer) -> tuple[str, ...]:
    """Contents of some added tokens of a tokenizer that is here; none of one that is elsewhere."""
    encoder = getattr(tokenizer, "encoder", None)
    return () if encoder is None else tuple(content for content, _ in encoder.exactness.cuts[:_TOKENS_MAX])


def _compare(case: Case, tokenizer: ModelTokenizer, pod: PodTokenizer) -> CaseResult:
    try:
        here, here_error = _ask(case, tokenizer)
    except UnsupportedModelError as error:
        return CaseResult(name=case.name, outcome="not supported here", here_error=str(error))
    there, pod_error = _ask(case, pod)
    difference = None
    if here is None or there is None:
        outcome: Outcome = (
            "both refuse"
            if here is there
            else "only here refused"
            if here is None
            else "only the pod refuses"
        )
    elif np.array_equal(here, there):
        outcome = "equal"
    else:
        outcome, difference = "differs", _difference(here, there, pod)
    return CaseResult(
        name=case.name,
        outcome=outcome,
        tokens=0 if there is None else len(there),
        here_error=here_error,
        pod_error=pod_error,
        difference=difference,
    )


def _ask(case: Case, tokenizer: ModelTokenizer) -> tuple[_Ids | None, str]:
    """The ids, or None and why the case was refused."""
    try:
        return case.ask(tokenizer).token_ids, ""
    except InputError as error:
        return None, str(error)
    except UnsupportedModelError:
        raise
    except TokenizerError as error:
        raise TokenizerError(f"{case.name}: {error}") from error


def _difference(here: _Ids, there: _Ids, pod: PodTokenizer) -> Difference:
    shared = min(len(here), len(there))
    apart = np.flatnonzero(here[:shared] != there[:shared])
    index = int(apart[0]) if len(apart) else shared
    after = slice(index, index + _AROUND_TOKENS)
    return Difference(
        index=index,
        here=int(here[index]) if index < len(here) else None,
        pod=int(there[index]) if index < len(there) else None,
        text_before=_decoded(pod, there[max(0, index - _AROUND_TOKENS) : index]),
        here_text=_decoded(pod, here[after]),
        pod_text=_decoded(pod, there[after]),
    )


def _decoded(pod: PodTokenizer, ids: _Ids) -> str:
    """By the pod, which both are compared by. It may not know an id."""
    if len(ids) == 0:
        return ""
    try:
        return pod.decode(ids)
    except KvatlasError as error:
        return f"(the pod cannot say: {error})"
