"""Contents become what vLLM shows a template of them."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.messages.content import ContentFormat, content_of


def _as_string(content: Any, role: str = "user") -> Any:
    return content_of(content, role, "string", "$.content").value


def _as_list(content: Any, role: str = "user") -> Any:
    return content_of(content, role, "openai", "$.content").value


def _part(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **fields}


def test_no_content_is_an_empty_one() -> None:
    assert _as_string(None) == "" and _as_list(None) == []
    assert _as_string([]) == "" and _as_list([]) == []


def test_a_string_is_one_part_where_the_template_wants_parts() -> None:
    assert _as_list("a") == [_part("a")]
    assert _as_list("") == [_part("")]
    assert _as_string("a") == "a"


def test_text_parts_are_joined_by_line_ends_and_empty_ones_left_out() -> None:
    parts = [
        _part("a"),
        _part(""),
        {"type": "refusal", "refusal": "b"},
        {"type": "thinking", "thinking": "c", "closed": True},
        {"type": "input_text", "text": "d"},
        {"type": "output_text", "text": "e"},
        "f",
        {"type": "tool_reference", "name": "g"},
        {"type": "text", "text": None},
    ]
    assert _as_string(parts) == "a\nb\nc\nd\ne\nf\ng"


def test_parts_of_text_all_look_alike_to_the_template_and_keep_unknown_fields() -> None:
    parts = [
        {"cache_control": {"type": "ephemeral"}, "text": "a", "type": "text", "uuid": None},
        {"type": "refusal", "refusal": "b"},
        {"type": "thinking", "thinking": "c", "closed": True},
    ]
    assert _as_list(parts) == [_part("a", cache_control={"type": "ephemeral"}), _part("b"), _part("c")]


def test_results_of_tools_are_joined_even_where_the_template_wants_parts() -> None:
    assert _as_list([_part("a", foo=1), _part("b")], "tool") == "a\nb"
    assert _as_list("a", "tool") == "a" and _as_list(None, "tool") == ""
    reference = {"type": "tool_reference", "name": "f"}
    assert _as_list([_part("a"), reference], "tool") == [_part("a"), reference]


def test_media_are_counted_and_shown_by_their_kind() -> None:
    parts = [
        _part("look"),
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}, "foo": 1},
        {"image_url": "https://example.com/a.png"},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "v"}, "uuid": "7"},
    ]
    shown = content_of(parts, "user", "openai", "$.content")
    assert shown.n_media == 4
    assert shown.value == [
        _part("look"),
        {"type": "image", "foo": 1},
        {"type": "image"},
        {"type": "audio"},
        {"type": "video"},
    ]
    assert content_of(parts, "user", "string", "$.content") == ("look", 4)


def test_a_billing_header_goes_from_system_messages_alone() -> None:
    header = "x-anthropic-billing-header: cch=1"
    assert _as_string(f"{header}\nYou help.", "system") == "You help."
    assert _as_string([_part(header), _part(f"{header}\nYou help.", foo=1)], "system") == "You help."
    assert _as_list([_part(f"{header}\nYou help.", foo=1)], "system") == [_part("You help.", foo=1)]
    assert _as_list(header, "system") == [] and _as_string([_part("a"), header], "system") == "a"
    assert _as_string(header, "user") == header


def test_an_error_does_not_repeat_what_is_long() -> None:
    for part in ({"type": "x" * 10_000}, {"x" * 10_000: 1}):
        with pytest.raises(InputError) as caught:
            content_of([part], "user", "string", "$.content")
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("content_format", ["string", "openai"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (5, "$.content: expected a string, a list of parts or null, got int"),
        ({"type": "text"}, "$.content: expected a string, a list of parts or null, got dict"),
        ([_part("a"), 5], "$.content[1]: expected a string or an object, got int"),
        ([{"type": "text", "text": 5}], "$.content[0].text: expected a string, got int"),
        ([None], "$.content[0]: expected a string or an object, got NoneType"),
        ([{"text": "a"}], "$.content[0]: expected a part with a type, got 'text'"),
        ([{}], "$.content[0]: expected a part with a type, got nothing"),
        ([{"type": 5}], "$.content[0].type: expected a string, got int"),
        ([{"type": "nonsense"}], "$.content[0].type: expected a known type of content part, got 'nonsense'"),
        ([{"type": "tool_reference", "name": 5}], "$.content[0].name: expected a string, got int"),
        ([_part("a", uuid="1")], "$.content[0]: expected a part with a type, got 'type', 'text', 'uuid'"),
        (
            [{"type": "prompt_embeds", "data": ""}],
            "$.content[0]: expected text or media, got embeddings in place of tokens: they have no token ids",
        ),
    ],
)
def test_what_no_server_takes_is_refused_with_its_place(
    content: Any, message: str, content_format: ContentFormat
) -> None:
    with pytest.raises(InputError) as caught:
        content_of(content, "user", content_format, "$.content")
    assert str(caught.value) == message
