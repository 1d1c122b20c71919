"""What a process that tokenizes says of itself."""

from __future__ import annotations

import msgspec

from kvatlas.tokenize.pool.bounded_work import WorkStatistics
from kvatlas.tokenize.tokenizers import TokenizersStatistics


class TokenizerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Its queue and its tokenizers."""

    work: WorkStatistics
    tokenizers: TokenizersStatistics
