"""Chats without tools: roles, contents of all forms, generation prompts, reasoning, template arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvatlas.tokenize.parity.case import Case, Message, chatting, said, text_part, user
from kvatlas.tokenize.parity.texts import CHARACTERS, SPACES, everything, with_tokens

_SYSTEM = said("system", "You are a helpful assistant.")
_HELLO = user("Hello, who are you?")
_REPLY = said("assistant", "I am a model. What would you like to know?")
_MORE = user("Tell me about caches.")
_PARTS = [text_part("First part."), text_part("Second part.\n"), text_part("")]
_DOCUMENTS = [
    {"title": "Caches", "text": "A cache keeps what was computed."},
    {"title": "Über Blöcke", "text": "Ein Block hat 16 Token.", "doc_id": "7"},
]


def chat_cases(special_tokens: Sequence[str]) -> Iterator[Case]:
    """`special_tokens` are those of the model at hand."""
    yield from _conversations()
    yield from _roles()
    yield from _contents(special_tokens)
    yield from _endings()
    yield from _reasoning()
    yield from _arguments()


def _conversations() -> Iterator[Case]:
    yield chatting("a question", [_HELLO])
    yield chatting("a system prompt and a question", [_SYSTEM, _HELLO])
    yield chatting("a second turn", [_SYSTEM, _HELLO, _REPLY, _MORE])
    yield chatting("forty turns", [_SYSTEM, *_turns(40), _MORE])
    yield chatting("several questions in a row", [_HELLO, _MORE, _HELLO])
    yield chatting("only a system prompt", [_SYSTEM])
    yield chatting("an answer first", [_REPLY, _HELLO])
    yield chatting("no messages", [])


def _turns(count: int) -> Iterator[Message]:
    for number in range(count):
        yield user(f"Question {number}: what is {number} times {number + 1}?")
        yield said("assistant", f"It is {number * (number + 1)}.\n\nAnything else?")


def _roles() -> Iterator[Case]:
    developer = said("developer", "Answer briefly.")
    yield chatting("a developer", [developer, _HELLO])
    yield chatting("a developer after a system prompt", [_SYSTEM, developer, _HELLO])
    yield chatting("developers between turns", [_HELLO, developer, _REPLY, developer, _MORE])
    yield chatting("a system prompt that is not first", [_HELLO, _REPLY, _SYSTEM, _MORE])
    yield chatting("two system prompts", [_SYSTEM, said("system", "Be kind."), _HELLO])
    yield chatting(
        "names", [_SYSTEM, said("user", "Hi", name="Ada"), said("assistant", "Hi!", name="bot"), _MORE]
    )
    yield chatting("an unknown role", [said("critic", "Hm."), _HELLO])
    yield chatting(
        "fields that no template knows", [said("user", "Hi", mood="good", weight=1.5), _REPLY, _MORE]
    )


def _contents(special_tokens: Sequence[str]) -> Iterator[Case]:
    yield chatting("parts of a question", [_SYSTEM, user(_PARTS)])
    yield chatting(
        "parts everywhere", [said("system", _PARTS), user(_PARTS), said("assistant", _PARTS), user(_PARTS)]
    )
    yield chatting("one part", [user([text_part("Only this.")])])
    yield chatting("no parts", [user([]), _REPLY, _MORE])
    yield chatting("parts of input_text", [user([text_part("Hello", "input_text"), text_part("there")])])
    yield chatting("a refusal", [_HELLO, said("assistant", [{"type": "refusal", "refusal": "No."}]), _MORE])
    yield chatting("empty contents", [said("system"), user(""), said("assistant"), user("")])
    yield chatting("no content", [_HELLO, said("assistant", None), _MORE])
    yield chatting("content left out", [_HELLO, {"role": "assistant"}, {"role": "user"}])
    yield chatting("special tokens within", [_SYSTEM, user(with_tokens(special_tokens)), _REPLY, _MORE])
    for name, text in {**CHARACTERS, **SPACES, "everything": everything()}.items():
        yield chatting(name, [said("system", text), user(text), said("assistant", text), user(text)])


def _endings() -> Iterator[Case]:
    chat = [_SYSTEM, _HELLO, _REPLY]
    yield chatting("no generation prompt", [_SYSTEM, _HELLO], add_generation_prompt=False)
    yield chatting("no generation prompt after an answer", chat, add_generation_prompt=False)
    yield chatting("a generation prompt after an answer", chat)
    yield chatting("special tokens on top", [_SYSTEM, _HELLO], add_special_tokens=True)
    yield chatting("generation prompt and continued", chat, continue_final_message=True)
    begun = {
        "an answer": said("assistant", "The answer is"),
        "an answer with spaces": said("assistant", "  The answer is \n"),
        "an answer of spaces": said("assistant", "  \n "),
        "an empty answer": said("assistant", ""),
        "an answer that repeats the question": said("assistant", "Hello, who are you?"),
        "parts of an answer": said("assistant", _PARTS),
        "one part of an answer": said("assistant", [text_part("The answer is ")]),
        "no content": said("assistant", None),
        "a question": user("And what about"),
        "thoughts": said("assistant", "<think>\nLet me see.\n</think>\n\nThe answer"),
        "unfinished thoughts": said("assistant", "<think>\nLet me"),
    }
    for name, message in begun.items():
        fields = {"continue_final_message": True, "add_generation_prompt": False}
        yield chatting(f"continued: {name}", [_SYSTEM, _HELLO, message], **fields)


def _reasoning() -> Iterator[Case]:
    thoughts = "The user asks who I am.\nI should say."
    tagged = said("assistant", f"<think>\n{thoughts}\n</think>\n\nI am a model.")
    apart = said("assistant", "I am a model.", reasoning_content=thoughts)
    named = said("assistant", "I am a model.", reasoning=thoughts)
    yield chatting("thoughts in an answer", [_HELLO, tagged, _MORE])
    yield chatting("thoughts in every answer", [_HELLO, tagged, _MORE, tagged, _HELLO, tagged, _MORE])
    yield chatting("thoughts, never closed", [_HELLO, said("assistant", "<think>\nHm"), _MORE])
    for name, message in {"reasoning_content": apart, "reasoning": named}.items():
        yield chatting(f"{name} in an answer", [_HELLO, message, _MORE])
        yield chatting(f"{name} at the end", [_HELLO, message], add_generation_prompt=False)
    both = said("assistant", "I am.", reasoning="One.", reasoning_content="Other.")
    yield chatting("reasoning, twice", [_HELLO, both], add_generation_prompt=False)
    for thinks in (True, False):
        yield chatting(
            f"enable_thinking={thinks}", [_HELLO], chat_template_kwargs={"enable_thinking": thinks}
        )
        yield chatting(
            f"enable_thinking={thinks} on a second turn",
            [_SYSTEM, _HELLO, tagged, _MORE],
            chat_template_kwargs={"enable_thinking": thinks},
        )


def _arguments() -> Iterator[Case]:
    chat = [_SYSTEM, _HELLO]
    for effort in ("none", "low", "high"):
        yield chatting(f"reasoning effort {effort}", chat, reasoning_effort=effort)
    against = {"enable_thinking": False}
    yield chatting(
        "reasoning effort against arguments", chat, reasoning_effort="high", chat_template_kwargs=against
    )
    yield chatting("documents", chat, documents=_DOCUMENTS)
    yield chatting("no documents", chat, documents=[])
    unknown = {"nobody_reads_this": [1, {"a": None}], "temperature": 0.5}
    yield chatting("arguments that no template knows", chat, chat_template_kwargs=unknown)
    contrary = {"add_generation_prompt": False, "continue_final_message": True}
    yield chatting("arguments that contradict the request", chat, chat_template_kwargs=contrary)
    yield chatting(
        "arguments named like tokens", chat, chat_template_kwargs={"bos_token": "?", "eos_token": "!"}
    )
    yield chatting("arguments named like the chat", chat, chat_template_kwargs={"messages": [_MORE]})
