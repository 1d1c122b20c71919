"""What a model's files say about its chats: templates, special tokens, kind of model.

Source: transformers 5, how a tokenizer reads `chat_template.jinja`, `additional_chat_templates/`,
`tokenizer_config.json` and `special_tokens_map.json`; vLLM 0.32, `resolve_chat_template`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from kvatlas.index.errors import InputError, TokenizerError
from kvatlas.tokenize.chat.media import placeholder_ids

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TemplateFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The chat templates of one model, and what they are given besides the chat."""

    templates: dict[str, str] = {}
    """By name; "default" is used where a request names none, "tool_use" before it where there are tools."""
    processor_template: str | None = None
    """Of a multimodal model's processor: goes before the others where a request has no tools."""
    special_tokens: dict[str, str] = {}
    """By name, such as `bos_token`: variables of the templates."""
    model_type: str = ""
    architectures: tuple[str, ...] = ()
    placeholder_ids: tuple[int, ...] = ()
    """Tokens that stand for one image, video or audio each."""
    file_names: tuple[str, ...] = ()
    """Of the model's folder."""

    def source(self, wanted: str | None, *, has_tools: bool) -> str | None:
        """The template for a request: the source or name that it brings, else the model's own, if any.

        Raises InputError where there are several templates, and none is for requests that name none.
        """
        if wanted is not None:
            return self.templates.get(wanted, wanted)
        if not has_tools and self.processor_template is not None:
            return self.processor_template
        if has_tools and "tool_use" in self.templates:
            return self.templates["tool_use"]
        if self.templates and "default" not in self.templates:
            names = ", ".join(map(repr, sorted(self.templates)))
            raise InputError(
                f"$.chat_template: expected one of {names}, for the model has no default; got none"
            )
        return self.templates.get("default", self.processor_template)


def template_files(
    tokenizer_config: Mapping[str, Any],
    jinja: str | None = None,
    named: Mapping[str, str] | None = None,
    *,
    special_tokens_map: Mapping[str, Any] | None = None,
    processor_json: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    file_names: Collection[str] = (),
) -> TemplateFiles:
    """From the parsed files of a model.

    `jinja` is the text of `chat_template.jinja`, `named` has `additional_chat_templates/*.jinja` by name,
    `processor_json` is `chat_template.json`, `config` is `config.json`. Raises TokenizerError for templates
    and special tokens that are of the wrong type, naming file and field.
    """
    templates = ({"default": jinja} if jinja is not None else {}) | dict(named or {})
    model = config or {}
    model_type = model.get("model_type")
    architectures = model.get("architectures")
    return TemplateFiles(
        templates=templates or _configured_templates(tokenizer_config.get("chat_template")),
        processor_template=_processor_template(processor_json),
        special_tokens=_special_tokens(tokenizer_config, special_tokens_map),
        model_type=model_type if isinstance(model_type, str) else "",
        architectures=tuple(map(str, architectures)) if isinstance(architectures, list) else (),
        placeholder_ids=placeholder_ids(model),
        file_names=tuple(file_names),
    )


def _configured_templates(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"default": given}
    if isinstance(given, list) and all(isinstance(entry, Mapping) for entry in given):
        named = {entry.get("name"): entry.get("template") for entry in given}
        if all(isinstance(text, str) for pair in named.items() for text in pair):
            return named
    raise TokenizerError(
        "tokenizer_config.json: chat_template: expected a string, or a list of objects with name and "
        f"template, got {type(given).__name__}"
    )


def _processor_template(given: Mapping[str, Any] | None) -> str | None:
    template = None if given is None else given.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(
            f"chat_template.json: chat_template: expected a string, got {type(template).__name__}"
        )
    return template


def _special_tokens(config: Mapping[str, Any], mapped: Mapping[str, Any] | None) -> dict[str, str]:
    """By name; the older file counts only where the newer one does not list the added tokens."""
    given = dict(config)
    if mapped is not None and "added_tokens_decoder" not in config:
        given.update(mapped)
    further = given.get("extra_special_tokens")
    if not isinstance(further, Mapping):
        further = {}
    given.update(further)
    named = {
        name
        for name, value in given.items()
        if name in _SPECIAL_TOKENS
        or name in further
        or (name.endswith("_token") and isinstance(value, (str, Mapping)))
    }
    tokens = {name: _token_text(given[name], name) for name in sorted(named)}
    return {name: text for name, text in tokens.items() if text is not None}


def _token_text(given: Any, name: str) -> str | None:
    text = given.get("content") if isinstance(given, Mapping) else given
    if text is not None and not isinstance(text, str):
        raise TokenizerError(f"tokenizer_config.json: {name}: expected a token, got {type(text).__name__}")
    return text
