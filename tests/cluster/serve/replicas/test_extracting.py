"""What a call asks for, found in its arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import BaseModel
from starlette.requests import Request

from kvatlas.cluster.serve.replicas.extracting import (
    ArgumentNames,
    Extracted,
    NamedArguments,
    load_extractor,
)
from kvatlas.index.errors import ConfigError

CHAT = [{"role": "user", "content": "hello"}]


class ChatBody(BaseModel):
    model: str
    messages: list[dict[str, str]]
    tools: list[dict[str, str]] | None = None
    max_tokens: int | None = None


class StructBody(msgspec.Struct):
    prompt: str
    cache_salt: str = "salt"


@dataclasses.dataclass
class DataBody:
    prompt_token_ids: list[int]


def extracted(*args: Any, **kwargs: Any) -> Extracted:
    return NamedArguments()(args, kwargs)


def test_token_ids_are_found_by_their_usual_names() -> None:
    for name in ("token_ids", "prompt_token_ids", "request_token_ids"):
        assert extracted(**{name: [1, 2, 3]}).token_ids == [1, 2, 3]
        assert extracted({name: [1, 2, 3]}).token_ids == [1, 2, 3]


def test_a_first_argument_may_be_the_prompt_itself() -> None:
    assert extracted([5, 6]).token_ids == [5, 6]
    assert extracted("a text").prompt == "a text"
    assert extracted(CHAT).messages == CHAT
    array = np.array([1, 2], np.uint32)
    assert extracted(array).token_ids is array
    assert extracted(array.tobytes()).token_ids == array.tobytes()


def test_of_a_body_all_that_matters_is_found() -> None:
    body = {
        "model": "m",
        "messages": CHAT,
        "tools": [{"name": "t"}],
        "cache_salt": "s",
        "session_id": "x",
        "max_tokens": 7,
    }
    found = extracted(body)
    assert found == Extracted(messages=body, model="m", cache_salt="s", session="x", output_tokens=7)


def test_a_chat_of_a_pydantic_body_keeps_its_tools_but_not_what_is_not_there() -> None:
    found = extracted(ChatBody(model="m", messages=CHAT, max_tokens=3))
    assert found.messages == {"model": "m", "messages": CHAT, "max_tokens": 3}
    assert (found.model, found.output_tokens) == ("m", 3)


def test_bodies_may_be_structs_and_dataclasses() -> None:
    assert extracted(StructBody(prompt="p")) == Extracted(prompt="p", cache_salt="salt")
    assert extracted(DataBody(prompt_token_ids=[4])).token_ids == [4]


def test_a_prompt_of_ints_is_token_ids_and_one_of_several_texts_is_nothing() -> None:
    assert extracted({"prompt": [1, 2]}).token_ids == [1, 2]
    several = extracted({"prompt": ["a", "b"]})
    assert several.prompt is None
    assert several.why


def test_keyword_arguments_go_before_bodies() -> None:
    assert extracted({"prompt": "body", "model": "m"}, prompt="keyword") == Extracted(
        prompt="keyword", model="m"
    )


def test_an_http_request_says_that_it_cannot_be_read() -> None:
    request = Request({"type": "http", "headers": [], "method": "POST", "path": "/"})
    assert "HTTP" in extracted(request).why


@pytest.mark.parametrize(
    "odd",
    [None, 7, 1.5, True, object(), [], "", b"", {}, [None], {"prompt": 3}, {"messages": "x" * 3, "a": 1}],
)
def test_odd_arguments_are_no_prompt_or_one_that_is_refused_later(odd: object) -> None:
    found = extracted(odd)
    assert found.token_ids is None
    assert found.prompt is None


def test_values_of_wrong_types_count_as_not_there() -> None:
    found = extracted(token_ids=[1], model=3, lora=b"x", cache_salt=1, session_id=9, max_tokens="many")
    assert found == Extracted(token_ids=[1])


def test_names_can_be_configured() -> None:
    extract = load_extractor("", ArgumentNames(token_ids=("ids",), model=("which",)))
    assert extract((), {"ids": [1], "which": "m"}) == Extracted(token_ids=[1], model="m")


def second_argument(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Extracted:
    return Extracted(token_ids=args[1])


def test_an_extractor_of_ones_own_is_loaded_by_its_path() -> None:
    extract = load_extractor(f"{__name__}:second_argument", ArgumentNames())
    assert extract((1, [2, 3]), {}).token_ids == [2, 3]


@pytest.mark.parametrize("path", ["nowhere:f", "kvatlas:nothing", "kvatlas", ":", "kvatlas:__version__"])
def test_an_extractor_that_is_not_there_is_refused_by_its_path(path: str) -> None:
    with pytest.raises(ConfigError, match="extractor"):
        load_extractor(path, ArgumentNames())
