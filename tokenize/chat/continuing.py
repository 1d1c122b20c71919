"""A chat whose last message is left open, for the model to go on with.

Source: transformers, `render_jinja_template` with `continue_final_message`.
"""

from __future__ import annotations

from typing import Any

from kvatlas.index.errors import InputError, TemplateError

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""The server's own mark: a template that measures or splits a content shall see the same text. It ends in a
space, so that a template which trims is noticed."""


def marked(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The messages with a mark after the last text, and that text without it.

    Raises InputError where the last message has no text to go on with.
    """
    last = messages[-1]
    content = last["content"]
    if isinstance(content, str):
        return [*messages[:-1], {**last, "content": content + _MARK}], content
    for index in reversed(range(len(content))):
        text = content[index].get("text")
        if text is not None:
            parts = [*content[:index], {**content[index], "text": text + _MARK}, *content[index + 1 :]]
            return [*messages[:-1], {**last, "content": parts}], text
    raise InputError(f"$.messages[{len(messages) - 1}].content: expected text to continue, got none")


def cut_at_mark(rendered: str, text: str) -> str:
    """The rendered chat up to the mark. Raises TemplateError where the template has left text or mark out."""
    place = rendered.rfind(_MARK.strip())
    if place < 0 or text.strip() not in rendered:
        raise TemplateError(
            "continue_final_message: expected the last message in the rendered chat, got a chat without it"
        )
    if rendered.startswith(_MARK, place):
        return rendered[:place]
    return rendered[:place].rstrip()
