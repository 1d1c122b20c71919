"""The other way to token ids, beside which kvatlas is measured: jinja's sandbox, the tokenizers library."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import jinja2.ext
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from timing import Timing, quiet
from tokenizers import Tokenizer

T = TypeVar("T")
WARM_UP = 2
"""Rounds that do not count."""


class PlainTokenizing:
    """The whole chat rendered, the whole text encoded, each time. The template is compiled once."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string(config.get("chat_template", ""))

    def render(self, messages: list[dict[str, Any]]) -> str:
        return self._template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_fast(self, text: str) -> list[int]:
        """Without offsets: the library's fastest, which few use."""
        ids: list[int] = self.tokenizer.encode_batch_fast([text], add_special_tokens=True)[0].ids
        return ids

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        return self.encode(self.render(messages), add_special_tokens=False)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def beside(
    ways: Mapping[str, Callable[[T], Any]], inputs: Iterator[T], *, rounds: int, calls: int = 1
) -> dict[str, Timing]:
    """Times ways to do the same. In each round each of them gets the same new inputs, `calls` of them, one
    after the other; the order of the ways alternates.

    All results are compared, the first way's with those of the others: ids, or what compares equal.
    """
    samples: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    with quiet():
        for i in range(WARM_UP + rounds):
            given = list(itertools.islice(inputs, calls))
            assert len(given) == calls, "the inputs have ended"
            found = {}
            for name in names[:: 1 if i % 2 == 0 else -1]:
                way = ways[name]
                begin = time.perf_counter()
                found[name] = [way(one) for one in given]
                seconds = time.perf_counter() - begin
                if i >= WARM_UP:
                    samples[name].append(seconds / calls)
            _check_same(found)
    return {name: Timing(statistics.median(all_of), min(all_of)) for name, all_of in samples.items()}


def _check_same(found: Mapping[str, list[Any]]) -> None:
    (first, ones), *others = found.items()
    for name, results in others:
        for one, other in zip(ones, results, strict=True):
            is_array = isinstance(one, np.ndarray) or isinstance(other, np.ndarray)
            assert np.array_equal(one, other) if is_array else one == other, f"{first} and {name} differ"
