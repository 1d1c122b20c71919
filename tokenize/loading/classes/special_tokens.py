"""Special and added tokens beside `tokenizer.json`: what transformers reads of them, in its order.

Source: `PreTrainedTokenizerBase._from_pretrained` and the constructors below it, transformers 5.19.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvatlas.tokenize.loading.files import TokenizerFiles

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class SpecialTokens:
    """The tokens that transformers adds to a tokenizer once it is made, and those that templates see.

    Raises ValueError or TypeError where a file holds something that transformers refuses as well.
    """

    def __init__(
        self, files: TokenizerFiles, definition: Mapping[str, Any], defaults: Mapping[str, str]
    ) -> None:
        config = dict(files.tokenizer_config)
        if config.get("additional_special_tokens") and not config.get("extra_special_tokens"):
            config["extra_special_tokens"] = config["additional_special_tokens"]
        specific = _specific(config)
        self.by_id: dict[int, AddedToken] = {}
        """By the id that a file gives it; the tokenizer may give another."""
        if "added_tokens_decoder" in config:
            for index, token in _mapping(config["added_tokens_decoder"], "added_tokens_decoder").items():
                self.by_id[int(index)] = added_token(token)
        else:
            _merge_legacy_map(config, specific, files.special_tokens_map or {})
            self._read_legacy(config, files.added_tokens or {}, definition)
        by_content = {token.content: token for token in self.by_id.values()}
        self.named: dict[str, str | AddedToken] = {}
        """By the name of the template's variable, in the order in which they are added."""
        for name in NAMED:
            value = config[name] if name in config else defaults.get(name)
            if value is not None:
                token = token_of(value)
                self.named[name] = by_content.get(content_of(token), token)
        self.named.update({name: token_of(value) for name, value in specific.items()})
        extra = config.get("extra_special_tokens")
        self.extra = [token_of(value) for value in extra] if isinstance(extra, list) else []

    def _read_legacy(
        self, config: Mapping[str, Any], added_tokens: Mapping[str, Any], definition: Mapping[str, Any]
    ) -> None:
        from tokenizers import AddedToken

        special = {content_of(token_of(config[name])) for name in NAMED if config.get(name)}
        if isinstance(config.get("extra_special_tokens"), list):
            special |= {content_of(token_of(value)) for value in config["extra_special_tokens"]}
        for content, index in added_tokens.items():
            is_special = content in special
            self.by_id[int(index)] = AddedToken(content, normalized=not is_special, special=is_special)
        for token in definition.get("added_tokens") or ():
            self.by_id[int(token["id"])] = added_token(token)

    def names(self) -> dict[str, str]:
        """Variables of chat templates: `bos_token` and the like."""
        return {name: content_of(token) for name, token in self.named.items()}

    def contents(self) -> list[str]:
        """All special tokens, each once, the named ones first."""
        return list(dict.fromkeys(content_of(token) for token in (*self.named.values(), *self.extra)))

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Adds what the tokenizer does not have yet, or has otherwise."""
        from tokenizers import AddedToken

        present = {token.content: repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
        have = set(present.values())
        adding: list[str | AddedToken] = [
            token for _, token in sorted(self.by_id.items()) if repr(token) not in have
        ]
        known = {*present, *(content_of(token) for token in adding)}
        for token in (*self.named.values(), *self.extra):
            if content_of(token) not in known and token not in adding:
                adding.append(token)
        named = set(self.names().values())
        ready = []
        for token in adding:
            if isinstance(token, str):
                token = AddedToken(token, special=True)
            elif not token.special and token.content in named:
                token.special = True
            ready.append(token)
        if ready:
            tokenizer.add_tokens(ready)


def token_of(value: object) -> str | AddedToken:
    """A token as a configuration writes it: its content, or the mapping of an added token."""
    return value if isinstance(value, str) else added_token(value)


def added_token(value: object) -> AddedToken:
    """An added token from its mapping; fields of other names are left out. Raises TypeError for others."""
    from tokenizers import AddedToken

    given = _mapping(value, "a token")
    if not isinstance(given.get("content"), str):
        raise TypeError(f"a token's content: expected a string, got {given.get('content')!r}")
    return AddedToken(given["content"], **{flag: given[flag] for flag in _FLAGS if flag in given})


def content_of(token: str | AddedToken) -> str:
    """Its text."""
    return token if isinstance(token, str) else token.content


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what}: expected a JSON object, got a {type(value).__name__}")
    return value


def _specific(config: dict[str, Any]) -> dict[str, Any]:
    """Takes the tokens of names of the model's own (`image_token` and the like) out of the configuration."""
    specific = {
        key: config[key]
        for key in config
        if key.endswith("_token") and key not in NAMED and isinstance(config[key], (str, Mapping))
    }
    if isinstance(config.get("extra_special_tokens"), Mapping):
        specific.update(config.pop("extra_special_tokens"))
    saved = config.get("model_specific_special_tokens")
    return specific or (dict(saved) if isinstance(saved, Mapping) else {})


def _merge_legacy_map(config: dict[str, Any], specific: dict[str, Any], legacy: Mapping[str, Any]) -> None:
    """`special_tokens_map.json` counts where the configuration lists no added tokens."""
    for key, value in legacy.items():
        if isinstance(value, Mapping) and key != "extra_special_tokens":
            value = {**value, "special": True}
        elif key == "extra_special_tokens" and isinstance(value, list):
            before = config.get(key) or []
            value = [*before, *(token for token in value if token not in before)]
        config[key] = value
    if isinstance(config.get("extra_special_tokens"), Mapping):
        specific.update(config.pop("extra_special_tokens"))
