"""The cases that a tokenizer is compared by, one after the other.

What a server refuses before it looks at its template (a part that is no mapping, say) has no ids to be
compared, and is not among them: here more may be allowed.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvatlas.tokenize.parity.case import Case
from kvatlas.tokenize.parity.chats import chat_cases
from kvatlas.tokenize.parity.texts import text_cases
from kvatlas.tokenize.parity.tools import tool_cases


def battery(special_tokens: Iterable[str] = ()) -> tuple[Case, ...]:
    """All cases, in a fixed order. `special_tokens` of the model come into some, beside well-known ones."""
    tokens = tuple(special_tokens)
    return (*text_cases(tokens), *chat_cases(tokens), *tool_cases())
