"""The content of a message: strings, parts, and what a template sees of them.

Source: vLLM 0.32, `vllm/renderers/chat_utils.py` (content parts) and the request models in front of it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from kvatlas.index.errors import InputError

ContentFormat = Literal["string", "openai"]

_TEXT_TYPES = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Part types that are text, and the field that holds it."""

_MODALITIES = {
    "image_url": "image",
    "input_image": "image",
    "image_pil": "image",
    "image_embeds": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "video_embeds": "video",
}
"""Part types that are media, and what the template is told of them."""

_NAMED_BY_FIELD = (
    "image_url",
    "image_pil",
    "image_embeds",
    "audio_embeds",
    "video_embeds",
    "prompt_embeds",
    "audio_url",
    "input_audio",
    "video_url",
    "tool_reference",
)
"""Fields that say what a part is where it has no type, or a uuid; in order of precedence."""

_OWN_FIELDS = frozenset(
    {
        *("type", "text", "refusal", "thinking", "closed", "name", "uuid", "file", "data"),
        *("image_url", "image_pil", "image_embeds", "input_audio", "audio_url", "audio_embeds"),
        *("video_url", "video_embeds", "prompt_cache_breakpoint"),
    }
)
"""Fields that a template does not see on a part; any other goes through to it."""

_BILLING_HEADER = "x-anthropic-billing-header"
"""First line that some clients put before a system prompt; servers drop it, since it changes each time."""


class Content(NamedTuple):
    """The content of one message as the template shall see it."""

    value: str | list[dict[str, Any]]
    n_media: int


def content_of(content: Any, role: str, content_format: ContentFormat, path: str) -> Content:
    """The content of a message of this role.

    A string, a list of parts, or None. Raises InputError for other types and parts that no server takes.
    """
    parts: list[Any]
    if content is None or isinstance(content, str):
        parts = [] if content is None else [content]
    elif isinstance(content, list):
        parts = content
    else:
        raise InputError(f"{path}: expected a string, a list of parts or null, got {type(content).__name__}")
    as_list = content_format == "openai"
    seen: list[Any] = []
    n_media = 0
    for index, part in enumerate(parts):
        if role == "system" and _is_billing_header(part):
            part = _after_first_line(part)
            if not part:
                continue
        shown, is_media = _shown(part, as_list, f"{path}[{index}]")
        n_media += is_media
        if shown:
            seen.append(shown)
    if as_list and not (role == "tool" and _is_all_text(seen)):
        return Content(seen, n_media)
    return Content("\n".join([part["text"] for part in seen] if as_list else seen), n_media)


def _is_billing_header(part: Any) -> bool:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    return isinstance(text, str) and text.startswith(_BILLING_HEADER)


def _after_first_line(part: str | dict[str, Any]) -> str | dict[str, Any] | None:
    if isinstance(part, str):
        return part.partition("\n")[2]
    rest = part["text"].partition("\n")[2]
    return {**part, "text": rest} if rest else None


def _is_all_text(seen: list[dict[str, Any]]) -> bool:
    return all(part["type"] == "text" for part in seen)


def _shown(part: Any, as_list: bool, path: str) -> tuple[Any, bool]:
    """What the template sees of a part (nothing where it is empty), and whether it is media."""
    if isinstance(part, str):
        return ({"type": "text", "text": part} if as_list else part), False
    if not isinstance(part, dict):
        raise InputError(f"{path}: expected a string or an object, got {type(part).__name__}")
    kind = _kind(part, path)
    if kind in _TEXT_TYPES:
        return _shown_text(part, kind, as_list, path), False
    if kind == "tool_reference":
        return _shown_reference(part, as_list, path), False
    if kind == "prompt_embeds":
        raise InputError(
            f"{path}: expected text or media, got embeddings in place of tokens: they have no token ids"
        )
    if kind not in _MODALITIES:
        raise InputError(f"{path}.type: expected a known type of content part, got {kind!r:.80}")
    if as_list:
        return {"type": _MODALITIES[kind], **_further_fields(part)}, True
    return None, True


def _kind(part: dict[str, Any], path: str) -> str:
    kind = part.get("type")
    if kind is None or part.get("uuid") is not None:
        kind = next((field for field in _NAMED_BY_FIELD if field in part), None)
        if kind is None:
            fields = ", ".join(map(repr, part)) or "nothing"
            raise InputError(f"{path}: expected a part with a type, got {fields:.80}")
    if not isinstance(kind, str):
        raise InputError(f"{path}.type: expected a string, got {type(kind).__name__}")
    return kind


def _shown_text(part: dict[str, Any], kind: str, as_list: bool, path: str) -> Any:
    field = _TEXT_TYPES[kind]
    text = part.get(field)
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputError(f"{path}.{field}: expected a string, got {type(text).__name__}")
    return {"type": "text", "text": text, **_further_fields(part)} if as_list else text


def _shown_reference(part: dict[str, Any], as_list: bool, path: str) -> Any:
    name = part.get("name")
    if name is not None and not isinstance(name, str):
        raise InputError(f"{path}.name: expected a string, got {type(name).__name__}")
    return {"type": "tool_reference", "name": name} if as_list else name


def _further_fields(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in _OWN_FIELDS}
