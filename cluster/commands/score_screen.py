"""How scores of a prompt look to a person, and as JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.commands.names import name_cell
from kvatlas.cluster.commands.status_screen import STATE_STYLES
from kvatlas.cluster.quantities import shown_number_of, shown_share
from kvatlas.index.scores import Explanation, Match, Scores

_ROWS_MAX = 40


class ScoredPrompt(NamedTuple):
    """What is known of a prompt."""

    model: str
    scores: Scores
    explanation: Explanation
    served_by: str
    """Who made the token ids; empty where they were given."""


def score_view(scored: ScoredPrompt) -> RenderableType:
    """A heading and a row for each worker that holds a block of it, best first."""
    parts: list[RenderableType] = [Text(_heading(scored))]
    if scored.served_by:
        parts.append(Text(f"tokens by {scored.served_by}", no_wrap=True, overflow="ellipsis"))
    note = scored.explanation.note or (
        "" if scored.scores.is_whole else "a shard is missing: workers may hold more"
    )
    if note:
        parts.append(Text(note, "yellow"))
    matches = scored.scores.matches
    if matches:
        parts.append(_table(matches, scored))
    elif not note:
        parts.append(Text("no worker holds its first block"))
    return Group(*parts)


def plain_score(scored: ScoredPrompt) -> dict[str, Any]:
    """For JSON."""
    told = scored.explanation
    reasons = {(worker.pod, worker.rank): worker.reason for worker in told.workers}
    return {
        "model": scored.model,
        "prompt_tokens": told.prompt_tokens,
        "prompt_blocks": scored.scores.prompt_blocks,
        "block_size_tokens": scored.scores.block_size_tokens,
        "tokens_by": scored.served_by,
        "is_whole": scored.scores.is_whole,
        "note": told.note,
        "scores": dict(scored.scores),
        "workers": [
            {**match._asdict(), "reason": reasons.get((match.pod, match.rank), "")}
            for match in scored.scores.matches
        ],
    }


def _heading(scored: ScoredPrompt) -> str:
    scores = scored.scores
    blocks = shown_number_of(scores.prompt_blocks, "full block")
    size = f" of {scores.block_size_tokens}" if scores.block_size_tokens else ""
    return f"{scored.model}: {shown_number_of(scored.explanation.prompt_tokens, 'token')}, {blocks}{size}"


def _table(matches: list[Match], scored: ScoredPrompt) -> Table:
    reasons = {(worker.pod, worker.rank): worker.reason for worker in scored.explanation.workers}
    has_ranks = any(match.rank for match in matches)
    table = Table("pod", box=None, pad_edge=False)
    if has_ranks:
        table.add_column("rank", justify="right")
    for name in ("score", "tokens reused", "share"):
        table.add_column(name, justify="right")
    for name in ("blocks by tier", "truth", "why it ends there"):
        table.add_column(name)
    for match in matches[:_ROWS_MAX]:
        share = match.cached_tokens / max(scored.explanation.prompt_tokens, 1)
        table.add_row(
            name_cell(match.pod),
            *([str(match.rank)] if has_ranks else ()),
            f"{match.score:.1f}",
            str(match.cached_tokens),
            shown_share(share),
            ", ".join(f"{tier} {count}" for tier, count in match.tier_blocks.items()),
            Text(match.truth, STATE_STYLES.get(match.truth, "")),
            name_cell(reasons.get((match.pod, match.rank), "")),
        )
    if len(matches) > _ROWS_MAX:
        table.caption = f"and {len(matches) - _ROWS_MAX} more: --json shows all"
    return table
