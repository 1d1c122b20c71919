"""Between messages of gRPC and the structs that the desk takes and gives."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from kvatlas.cluster.gateway.rpc.schemas import GATEWAY
from kvatlas.cluster.gateway.web.bodies import has_more_containers
from kvatlas.cluster.gateway.web.questions import ChooseQuestion, Given, ScoreQuestion
from kvatlas.index.errors import InputError

T = TypeVar("T", bound=Given)


def score_question(request: Any, containers_max: int) -> ScoreQuestion:
    """`containers_max`: objects and lists in a chat. Raises InputError, msgspec.MsgspecError for what is
    no question."""
    asked = {"strategy": request.strategy or "reusable"}
    return _question(request.prompt, ScoreQuestion, asked, containers_max)


def choose_question(request: Any, containers_max: int) -> ChooseQuestion:
    """Raises as `score_question`."""
    asked: dict[str, Any] = {
        "request_id": request.request_id,
        "session": request.session,
        "labels": dict(request.labels),
        "near": dict(request.near),
        "role": request.role or None,
    }
    for name in ("output_tokens", "reserve"):
        if request.HasField(name):
            asked[name] = getattr(request, name)
    return _question(request.prompt, ChooseQuestion, asked, containers_max)


def message_of(name: str, struct: msgspec.Struct) -> Any:
    """A message with the fields of a struct that it has, too."""
    message = GATEWAY.message_class(name)()
    _fill(message, struct)
    return message


def _question(prompt: Any, kind: type[T], asked: dict[str, Any], containers_max: int) -> T:
    given: dict[str, Any] = {}
    if prompt.HasField("chat_json"):
        given = _chat(prompt.chat_json, containers_max)
    given.update(asked, model=prompt.model)
    # A message cannot say whether a list is there: an empty one means token ids only where nothing else is.
    others = any(prompt.HasField(name) for name in ("token_bytes", "text", "chat_json"))
    if prompt.token_ids or not others:
        given["token_ids"] = prompt.token_ids[:]
    for field, name in _OPTIONAL.items():
        if prompt.HasField(field):
            given[name] = getattr(prompt, field)
    if prompt.features:
        given["features"] = [(one.identifier, one.offset, one.length) for one in prompt.features]
    if prompt.pods:
        given["pods"] = list(prompt.pods)
    return msgspec.convert(given, kind)


_OPTIONAL = {"token_bytes": "token_bytes", "text": "prompt", "lora": "lora", "cache_salt": "cache_salt"}


def _chat(text: str, containers_max: int) -> dict[str, Any]:
    """Of the body of a chat completion request, what is of the chat."""
    if has_more_containers(text.encode(), containers_max):
        raise InputError(f"chat_json: expected at most {containers_max} objects and lists, got more")
    try:
        body = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"chat_json: expected a JSON object, {error}") from None
    if "messages" not in body:
        raise InputError("chat_json: expected messages, got none")
    return {name: value for name, value in body.items() if name not in _NOT_OF_CHATS}


_NOT_OF_CHATS = {"prompt", "token_ids", "token_bytes", "features"}


def _fill(message: Any, struct: msgspec.Struct) -> None:
    for field in message.DESCRIPTOR.fields:
        value = getattr(struct, field.name)
        if value is None:
            continue
        if isinstance(value, msgspec.Struct):
            _fill(getattr(message, field.name), value)
        elif isinstance(value, dict):
            getattr(message, field.name).update(value)
        elif isinstance(value, (list, tuple)):
            _extend(getattr(message, field.name), value)
        else:
            setattr(message, field.name, value)


def _extend(repeated: Any, values: Any) -> None:
    for value in values:
        if isinstance(value, msgspec.Struct):
            _fill(repeated.add(), value)
        else:
            repeated.append(value)
