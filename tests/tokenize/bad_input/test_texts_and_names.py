"""Texts that are none or too long, and names that lead elsewhere: refused, counted, not remembered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import InputError, TokenizerError
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.bad_input.victims import CHARACTERS_MAX, refusal, victims
from tests.tokenize.loading.model_files import write_model

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * (100 << 20), "text_bytes_max"),
        ("é" * (5 << 20), "text_bytes_max"),
        ("ab\ud83d", r"\[2\].*U\+D83D"),
        ("\udcff" * 1000, r"\[0\].*U\+DCFF"),
        (b"\xff\xfe", "expected a string, got a bytes"),
        (None, "NoneType"),
        (["a"], "expected a string, got a list"),
    ],
    ids=["100 MB", "10 MB of two bytes each", "a half", "bytes of a file name", "bytes", "none", "a list"],
)
def test_hostile_text_is_one_clear_error(tokenizers: Tokenizers, text: Any, words: str) -> None:
    error = refusal(tokenizers, lambda: tokenizers.encode("good", text))
    assert re.search(words, str(error))
    error = refusal(tokenizers, lambda: tokenizers.encode_many("good", ["fine", text]))
    assert isinstance(error, InputError)


def outside(folder: Path) -> list[str]:
    """Names that would lead to a real tokenizer outside of the folder, were they taken for paths."""
    write_model(folder.parent / "outside")
    return [
        "../outside",
        "good/../../outside",
        "./good",
        "good/",
        "good/.",
        "//outside",
        str(folder.parent / "outside"),
        f"file://{folder.parent / 'outside'}",
        "good\0",
        "good\n",
        "..",
        ".",
        "",
        "~",
        "\ud800",
        "a" * (10 << 20),
        "../" * 170,
        "models--org--name",
        "..\\outside",
        "%2e%2e/outside",
        "\u202egood",
    ]


def test_no_name_leads_out_of_the_folders(folder: Path, tokenizers: Tokenizers) -> None:
    for name in outside(folder):
        error = refusal(tokenizers, lambda: tokenizers.encode(name, "x"))  # noqa: B023
        assert "\n" not in str(error) and len(str(error)) < CHARACTERS_MAX
        assert not tokenizers.is_at_hand(name)


@pytest.mark.parametrize("name", [None, 5, b"good", ["good"], {"good": 1}, object()])
def test_what_is_no_name_is_refused(tokenizers: Tokenizers, name: Any) -> None:
    error = refusal(tokenizers, lambda: tokenizers.encode(name, "x"))
    assert "model: expected a name, got a" in str(error)


@pytest.mark.slow
def test_flood_of_names_is_forgotten_and_costs_no_tokenizer_its_place(folder: Path) -> None:
    tokenizers = victims(folder, order=("folders",), look_s=1000.0)
    good = tokenizers.get("good")
    for number in range(3000):
        with pytest.raises(TokenizerError):
            tokenizers.encode(f"nobody/{number}", "x")
    statistics = tokenizers.statistics()
    assert (statistics.failed, statistics.load_failures, statistics.evicted) == (3000, 3000, 0)
    assert statistics.failures_forgotten >= 3000 - 1024
    assert tokenizers.get("good") is good
    tokenizers.close()
