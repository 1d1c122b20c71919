"""What is read of a request's body, which anybody may have written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.cluster.serve.llm.routed_request import RoutedRequest, read_request
from kvatlas.index.choosing.ask import Ask


def pending(body: dict[str, Any] | None, token_ids: list[int] | None = None, **metadata: Any) -> Any:
    return SimpleNamespace(
        args=[] if body is None else [SimpleNamespace(**body)],
        kwargs={} if token_ids is None else {"request_token_ids": token_ids},
        metadata=SimpleNamespace(**{"request_id": "id", "multiplexed_model_id": "", **metadata}),
    )


def test_a_whole_request_is_read() -> None:
    body = {"prompt": "text", "cache_salt": "s", "max_tokens": 7}
    request = pending(body, [1, 2], multiplexed_model_id="tiny:poet", session_id="chat")
    assert read_request(request) == RoutedRequest(
        request_id="id", token_ids=[1, 2], lora="tiny:poet", cache_salt="s", session="chat", output_tokens=7
    )


@pytest.mark.parametrize(
    ("prompt", "token_ids"),
    [
        ([3, 4], [3, 4]),
        ([[3, 4], [5]], [3, 4]),
        ("text", None),
        (["one", "two"], [8, 9]),
        ([3, "4"], None),
        ([3, True], None),
        ([[]], None),
        ([-1], None),
        ([1 << 32], None),
        ({}, None),
        (None, None),
    ],
)
def test_token_ids_of_prompts_that_ray_does_not_tokenize(prompt: Any, token_ids: list[int] | None) -> None:
    body = {"prompt": prompt, "kvatlas_token_ids": [8, 9]}
    assert read_request(pending(body)).token_ids == token_ids


def test_the_newer_name_of_the_output_limit_counts() -> None:
    body = {"max_tokens": 7, "max_completion_tokens": 5}
    assert read_request(pending(body)).output_tokens == 5


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["prompt", "cache_salt", "max_tokens", "max_completion_tokens", "kvatlas_token_ids", "messages"]
)


@given(st.dictionaries(fields, anything))
def test_whatever_the_body_is_it_can_be_asked_for(body: dict[str, Any]) -> None:
    asked = read_request(pending(body))
    Ask(
        model="tiny",
        request_id=asked.request_id,
        session=asked.session,
        lora=asked.lora,
        cache_salt=asked.cache_salt,
        output_tokens=asked.output_tokens,
    )


def test_no_request_is_a_request_that_says_nothing() -> None:
    assert read_request(None) == RoutedRequest()
    assert read_request(pending(None, request_id=None)) == RoutedRequest()
