"""The parts of a tokenizer that see one piece of a text at a time, and so cannot look across a cut.

The `tokenizers` library takes a text apart at its added tokens before anything else. Every normalizer,
pre-tokenizer and model then gets one piece after the other, without its neighbours; of a piece's place in
the text only Metaspace with `prepend_scheme: first` asks. So a piece encoded alone gives what it gives in
place, whatever the part does with it: a prefix space, for one, is put before every piece in both cases.

What is listed here was read in the library's source (releases 0.20 to 0.23). A type or an option that is
not listed is not proven: a later release may have given it a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NORMALIZERS: dict[str, frozenset[str]] = {
    "BertNormalizer": frozenset({"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}),
    "ByteLevel": frozenset(),
    "Lowercase": frozenset(),
    "NFC": frozenset(),
    "NFD": frozenset(),
    "NFKC": frozenset(),
    "NFKD": frozenset(),
    "Nmt": frozenset(),
    "Precompiled": frozenset({"precompiled_charsmap"}),
    "Prepend": frozenset({"prepend"}),
    "Replace": frozenset({"pattern", "content"}),
    "Strip": frozenset({"strip_left", "strip_right"}),
    "StripAccents": frozenset(),
}
_PRE_TOKENIZERS: dict[str, frozenset[str]] = {
    "BertPreTokenizer": frozenset(),
    "ByteLevel": frozenset({"add_prefix_space", "trim_offsets", "use_regex"}),
    "CharDelimiterSplit": frozenset({"delimiter"}),
    "Digits": frozenset({"individual_digits"}),
    "FixedLength": frozenset({"length"}),
    "Metaspace": frozenset({"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"}),
    "Punctuation": frozenset({"behavior"}),
    "Split": frozenset({"pattern", "behavior", "invert"}),
    "UnicodeScripts": frozenset(),
    "Whitespace": frozenset(),
    "WhitespaceSplit": frozenset(),
}
_MODELS: dict[str, frozenset[str]] = {
    "BPE": frozenset(
        {
            "dropout",
            "unk_token",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "fuse_unk",
            "byte_fallback",
            "ignore_merges",
            "vocab",
            "merges",
        }
    ),
    "Unigram": frozenset({"unk_id", "vocab", "byte_fallback", "alpha", "nbest_size"}),
    "WordLevel": frozenset({"vocab", "unk_token"}),
    "WordPiece": frozenset({"unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"}),
}
_RANDOM_OPTIONS = ("dropout", "alpha", "nbest_size")

Component = Mapping[str, Any]


def stages(component: Component | None, inner: str) -> Iterator[Component]:
    """What a component does, step by step: itself, or the members of a Sequence, of sequences too.

    `inner` is the field that holds a Sequence's members.
    """
    if component is None:
        return
    if component.get("type") != "Sequence":
        yield component
        return
    for member in component[inner]:
        yield from stages(member, inner)


def doubt_of(definition: Mapping[str, Any]) -> str | None:
    """Why a piece encoded alone might differ from the same piece in place; None: it cannot.

    One sentence that names the component.
    """
    for setting in ("truncation", "padding"):
        if definition.get(setting) is not None:
            return f"It has {setting}, which depends on the whole text."
    return (
        _doubt_of_normalizer(definition.get("normalizer"))
        or _doubt_of_pre_tokenizer(definition.get("pre_tokenizer"))
        or _doubt_of_model(definition.get("model") or {})
    )


def _doubt_of_normalizer(normalizer: Component | None) -> str | None:
    return next(
        filter(None, (_unknown("normalizer", n, _NORMALIZERS) for n in stages(normalizer, "normalizers"))),
        None,
    )


def _doubt_of_pre_tokenizer(pre_tokenizer: Component | None) -> str | None:
    for stage in stages(pre_tokenizer, "pretokenizers"):
        if doubt := _unknown("pre-tokenizer", stage, _PRE_TOKENIZERS):
            return doubt
        # Older files have add_prefix_space instead, where true means always.
        if stage["type"] == "Metaspace" and stage.get("prepend_scheme", "always") not in ("always", "never"):
            scheme = stage["prepend_scheme"]
            return (
                f"Pre-tokenizer Metaspace with prepend_scheme {scheme!r} asks where in the text a piece lies."
            )
    return None


def _doubt_of_model(model: Component) -> str | None:
    if doubt := _unknown("model", model, _MODELS):
        return doubt
    for option in _RANDOM_OPTIONS:
        if model.get(option):
            return f"Model {model['type']} with {option} {model[option]!r} encodes at random."
    return None


def _unknown(kind: str, component: Component, known: Mapping[str, frozenset[str]]) -> str | None:
    name = component.get("type")
    if not isinstance(name, str) or name not in known:
        return f"Nothing is known of a {kind} of type {name!r}."
    strange = component.keys() - known[name] - {"type"}
    if strange:
        return f"Nothing is known of {', '.join(sorted(strange))} of {kind} {name}."
    return None
