"""A last message that is left open."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import InputError, TemplateError
from kvatlas.tokenize.chat.continuing import cut_at_mark, marked


def _render(messages: list[dict[str, Any]], *, is_trimming: bool = False) -> str:
    texts = [message["content"] for message in messages]
    return "".join(f"<m>{text.strip() if is_trimming else text}</m>" for text in texts)


@pytest.mark.parametrize(
    ("content", "is_trimming", "left"),
    [
        ("Sure, ", False, "<m>a</m><m>Sure, "),
        ("Sure, ", True, "<m>a</m><m>Sure,"),
        ("", False, "<m>a</m><m>"),
        ("\n", True, "<m>a</m><m>"),
    ],
)
def test_the_chat_ends_where_the_last_text_does(content: str, is_trimming: bool, left: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    open_ended, text = marked(messages)
    assert text == content
    assert cut_at_mark(_render(open_ended, is_trimming=is_trimming), text) == left
    assert messages[-1]["content"] == content


def test_the_last_part_with_text_is_the_one_to_continue() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "image"},
    ]
    open_ended, text = marked([{"role": "assistant", "content": parts}])
    assert text == "b"
    shown = open_ended[0]["content"]
    assert shown[0] is parts[0] and shown[2] is parts[2] and shown[1]["text"].startswith("b")
    assert parts[1] == {"type": "text", "text": "b"}


def test_no_text_cannot_be_continued() -> None:
    with pytest.raises(InputError, match=r"^\$\.messages\[0\]\.content: expected text to continue, got none"):
        marked([{"role": "assistant", "content": [{"type": "image"}]}])


@pytest.mark.parametrize("rendered", ["", "CONTINUE_FINAL_MESSAGE_TAG", "some text"])
def test_a_template_that_leaves_the_text_out_is_told(rendered: str) -> None:
    with pytest.raises(TemplateError, match=r"^continue_final_message: expected the last message"):
        cut_at_mark(rendered, "some text")


def test_only_the_last_mark_counts() -> None:
    _, text = marked([{"content": "x"}])
    mark = marked([{"content": ""}])[0][0]["content"]
    assert cut_at_mark(f"{mark}x{mark}</m>", text) == f"{mark}x"
