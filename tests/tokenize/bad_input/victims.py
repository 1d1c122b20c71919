"""What is attacked: tokenizers of several models, and what must hold after every attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import InputError, KvatlasError, TokenizerError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeConfig, TokenizeLimits
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.loading.model_files import CONFIG, small_tokenizer, write_model

CHARACTERS_MAX = 2200
"""Of a message, whatever the input was."""
TEXT = "The quick brown fox <|a|>jumps\nover the lazy dog."
USER: dict[str, Any] = {"role": "user", "content": "hello"}
CURIOUS = (
    "{% for m in messages %}<|a|>{{ m.role }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}"
    "{% if c.function.arguments.refuse %}{{ raise_exception(c.function.arguments.refuse) }}{% endif %}"
    "{% endfor %}{% if m.role == 'bad' %}{{ raise_exception(m.content) }}{% endif %}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}"
    "{% for t in tools %}{{ t.function.parameters.items }}{% endfor %}{% endif %}"
    "{{ x }}{{ documents }}{{ reasoning_effort }}{{ loop }}{{ self }}{{ namespace }}{{ range }}"
)
"""A template that looks at everything, functions of its environment included."""


def write_victims(folder: Path) -> Path:
    """The models good, curious (its template looks everywhere) and bare (it has none)."""
    write_model(folder / "good")
    write_model(folder / "curious", tokenizer_config={**CONFIG, "chat_template": CURIOUS})
    write_model(folder / "bare", tokenizer_config=None)
    return folder


def victims(folder: Path, **settings: Any) -> Tokenizers:
    """Reads no other folders than this one."""
    given: dict[str, Any] = {
        "order": ("folders", "sidecar", "pods"),
        "limits": TokenizeLimits(render_s_max=1.0),
        **settings,
    }
    return Tokenizers(TokenizeConfig(folders=(str(folder),), request_templates=True, **given))


def check_message(error: BaseException) -> None:
    """It is ours, on one line, of a bounded length, and can be logged, printed and sent."""
    assert isinstance(error, KvatlasError), repr(error)[:500]
    message = str(error)
    assert 0 < len(message) <= CHARACTERS_MAX
    assert message.isprintable()
    message.encode()


def refusal(tokenizers: Tokenizers, call: Callable[[], object]) -> KvatlasError:
    """The one clear error that the call ends with; it is counted, and the others are served."""
    before = tokenizers.statistics()
    with pytest.raises(KvatlasError) as caught:
        call()
    check_message(caught.value)
    after = tokenizers.statistics()
    assert after.requests == before.requests + 1
    kind = "refused" if isinstance(caught.value, InputError) else "failed"
    assert isinstance(caught.value, (InputError, TokenizerError))
    assert getattr(after, kind) == getattr(before, kind) + 1
    check_served(tokenizers)
    return caught.value


def check_served(tokenizers: Tokenizers) -> None:
    """The model good gives the library's own ids, of a text and of a chat."""
    assert tokenizers.encode("good", TEXT).token_ids.tolist() == plain_ids(TEXT, True)
    chat = Chat(messages=[USER])
    text = "<|ab|><|a|>user\nhello<|b|><|a|>assistant\n"
    assert tokenizers.encode_chat("good", chat).token_ids.tolist() == plain_ids(text, False)


def plain_ids(text: str, add_special_tokens: bool) -> list[int]:
    """Those of the library's own tokenizer, of the whole text."""
    ids: list[int] = _PLAIN.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


_PLAIN = small_tokenizer()
