"""What `add_special_tokens` adds, read from post-processors of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import processors

from kvatlas.tokenize.segments.additions import Additions, additions_of
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.exactness import prove
from tests.models.tokenizer_kinds import byte_level_bpe, with_tokens

BEGIN, END = ("<|a|>", 600), ("</s>", 603)
BYTES = processors.ByteLevel(trim_offsets=True)
TEMPLATE = processors.TemplateProcessing("<|a|> $A </s> </s>", "$A </s> $B", [BEGIN, END])
TWO_IDS = {"id": "<|ab|>", "ids": [601, 602], "tokens": ["<|a|>", "<|b|>"]}

KNOWN: dict[str, tuple[Any, Additions]] = {
    "none": (None, Additions()),
    "byte level": (BYTES, Additions()),
    "begin and end": (TEMPLATE, Additions((600,), (603, 603))),
    "a template that adds nothing": (processors.TemplateProcessing("$A", "$A $B", []), Additions()),
    "an end that is two ids": (
        processors.TemplateProcessing("$A <|ab|>", "$A $B", [TWO_IDS]),
        Additions((), (601, 602)),
    ),
    "BERT": (processors.BertProcessing(END, BEGIN), Additions((600,), (603,))),
    "RoBERTa": (processors.RobertaProcessing(END, BEGIN), Additions((600,), (603,))),
    "Llama 3": (processors.Sequence([BYTES, TEMPLATE]), Additions((600,), (603, 603))),
    "in a row of rows": (
        processors.Sequence([processors.Sequence([TEMPLATE]), BYTES]),
        Additions((600,), (603, 603)),
    ),
}
UNKNOWN: dict[str, Any] = {
    "text twice": {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A"}}] * 2,
        "special_tokens": {},
    },
    "text nowhere": {"type": "TemplateProcessing", "single": [], "special_tokens": {}},
    "of a later release": {"type": "ByteLevel", "add_prefix_space": True, "reverses": True},
    "of another type": {"type": "Shuffle"},
    "adds twice": {
        "type": "Sequence",
        "processors": [{"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}] * 2,
    },
}


def component(post_processor: Any) -> Any:
    return post_processor and json.loads(post_processor.__getstate__())


@pytest.mark.parametrize("name", KNOWN)
def test_known_post_processors_add_what_is_said(name: str) -> None:
    post_processor, additions = KNOWN[name]
    assert additions_of(component(post_processor)) == additions
    tokenizer = with_tokens(byte_level_bpe())
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    for text in ("", "one two", "<|b|>\n"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        expected = [*additions.before, *ids, *additions.behind]
        assert tokenizer.encode(text, add_special_tokens=True).ids == expected


@pytest.mark.parametrize("name", UNKNOWN)
def test_of_unknown_post_processors_nothing_is_said(name: str) -> None:
    assert additions_of(UNKNOWN[name]) is None
    exactness = prove({**definition_of(with_tokens(byte_level_bpe())), "post_processor": UNKNOWN[name]})
    assert not exactness.is_proven
    assert UNKNOWN[name]["type"] in exactness.reason


def test_a_text_that_a_template_repeats_is_really_repeated() -> None:
    tokenizer = with_tokens(byte_level_bpe())
    ids = tokenizer.encode("one").ids
    tokenizer.post_processor = processors.TemplateProcessing("$A $A", "$A $B", [])
    assert tokenizer.encode("one", add_special_tokens=False).ids == ids * 2
    assert not prove(definition_of(tokenizer)).is_proven
