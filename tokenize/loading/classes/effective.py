"""From files to the tokenizer that a model server really uses.

A server loads through transformers, whose classes may replace parts of `tokenizer.json` and add tokens that
only `tokenizer_config.json` knows. What is certain is done here as well; the rest is told as a doubt.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.loading.classes.choice import class_of
from kvatlas.tokenize.loading.classes.class_tables import GENERIC
from kvatlas.tokenize.loading.classes.rebuilding import DEFAULT_SPECIAL_TOKENS, can_rebuild, rebuild
from kvatlas.tokenize.loading.classes.special_tokens import SpecialTokens, content_of
from kvatlas.tokenize.loading.files import TokenizerFiles, parse_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Effective(NamedTuple):
    """A tokenizer as transformers would have made it."""

    tokenizer: Tokenizer
    class_name: str
    """Of transformers, by which it was made."""
    special_tokens: dict[str, str]
    """Variables of chat templates, by name."""
    doubt: str
    """Why its ids might differ from the server's, a clause; empty where nothing is known to say so."""


def effective(files: TokenizerFiles) -> Effective:
    """The tokenizer of these files. Raises TokenizerError with the path of the file that is no good."""
    path = files.place.folder / files.place.definition
    definition = parse_object(path, files.definition)
    try:
        return _build(files, definition)
    except BaseException as error:
        # A panic of the library derives from BaseException; what comes from outside does not end here.
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise TokenizerError(f"{path}: expected a tokenizer's definition, got {_said(error)}") from error


def _build(files: TokenizerFiles, definition: Mapping[str, Any]) -> Effective:
    from tokenizers import AddedToken, Tokenizer

    config = files.tokenizer_config
    class_name, doubt = class_of(config, files.model_config)
    if class_name != GENERIC and not can_rebuild(definition):
        doubt = f"transformers' {class_name} expects a BPE vocabulary, and this is none"
        class_name = GENERIC
    _check_merges(definition)
    _check_charsmaps(definition.get("normalizer"))
    special = SpecialTokens(files, definition, DEFAULT_SPECIAL_TOKENS.get(class_name, {}))
    if class_name == GENERIC:
        tokenizer = Tokenizer.from_str(files.definition)
    else:
        unk_token = special.named.get("unk_token")
        tokenizer = rebuild(
            class_name, definition, config, None if unk_token is None else content_of(unk_token)
        )
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    special.add_to(tokenizer)
    if class_name == "Qwen2Tokenizer":
        tokenizer.add_tokens([AddedToken(content, special=True) for content in special.contents()])
    elif class_name == "CohereTokenizer":
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False) if isinstance(token, str) else token
                for token in (*special.named.values(), *special.extra)
            ]
        )
    return Effective(tokenizer, class_name, special.names(), doubt or _doubt(files, definition, class_name))


def _check_merges(definition: Mapping[str, Any]) -> None:
    """The library ends the whole process at a merge that its prefix does not fit."""
    model = definition.get("model")
    prefix = model.get("continuing_subword_prefix") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not prefix:
        return
    for merge in model.get("merges") or ():
        second = (merge.split(" ") if isinstance(merge, str) else merge)[-1]
        if not isinstance(second, str) or not second.startswith(prefix):
            raise ValueError(f"merges: expected second parts that begin with {prefix!r}, got {merge!r}")


def _check_charsmaps(normalizer: object) -> None:
    """The library makes room for what such a map promises before it looks, and without memory for that it
    ends the whole process."""
    if not isinstance(normalizer, Mapping):
        return
    charsmap = normalizer.get("precompiled_charsmap")
    if isinstance(charsmap, str):
        n_promised = int.from_bytes(binascii.a2b_base64(charsmap[:8])[:4], "little")
        if n_promised > len(charsmap):
            raise ValueError(
                f"precompiled_charsmap: expected a map of at most its own size, got one of {n_promised} bytes"
            )
    members = normalizer.get("normalizers")
    for member in members if isinstance(members, list) else ():
        _check_charsmaps(member)


def _doubt(files: TokenizerFiles, definition: Mapping[str, Any], class_name: str) -> str:
    if files.tokenizer_config.get("fast_tokenizer_files"):
        return "transformers may take another file, as fast_tokenizer_files says"
    if files.tokenizer_config.get("fix_mistral_regex"):
        return "transformers may replace the pre-tokenizer where fix_mistral_regex is set"
    if "tekken.json" in files.names:
        return "vLLM may take tekken.json, through mistral-common"
    if class_name == "LlamaTokenizer" and "ByteLevel" in str(definition.get("pre_tokenizer")):
        return (
            "the byte-level pre-tokenizer of tokenizer.json gives way to that of transformers' "
            "LlamaTokenizer; vLLM 0.32 does so too, other servers may not"
        )
    return ""


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
