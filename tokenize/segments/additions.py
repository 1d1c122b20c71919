"""The token ids that a post-processor puts before and behind those of a text."""

from __future__ import annotations

from typing import Any

import msgspec

from kvatlas.tokenize.segments.components import Component, stages


class Additions(msgspec.Struct, frozen=True):
    """What `add_special_tokens` adds; without it nothing is added."""

    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()


def additions_of(post_processor: Component | None) -> Additions | None:
    """None: the post-processor does something else to the ids, or nothing is known of it.

    What it does to offsets does not matter.
    """
    additions = Additions()
    for stage in stages(post_processor, "processors"):
        found = _of_stage(stage)
        # A second one would see the first's additions as texts of their own.
        if found is None or (found != Additions() and additions != Additions()):
            return None
        if found != Additions():
            additions = found
    return additions


def _of_stage(stage: Component) -> Additions | None:
    kind, fields = stage.get("type"), stage.keys() - {"type"}
    if kind == "ByteLevel" and fields <= {"add_prefix_space", "trim_offsets", "use_regex"}:
        return Additions()
    if kind in ("BertProcessing", "RobertaProcessing") and fields <= {
        "sep",
        "cls",
        "trim_offsets",
        "add_prefix_space",
    }:
        return Additions((stage["cls"][1],), (stage["sep"][1],))
    if kind == "TemplateProcessing" and fields <= {"single", "pair", "special_tokens"}:
        return _of_template(stage["single"], stage["special_tokens"])
    return None


def _of_template(single: list[dict[str, Any]], special_tokens: dict[str, Any]) -> Additions | None:
    places = [place for place, piece in enumerate(single) if "Sequence" in piece]
    if len(places) != 1 or single[places[0]]["Sequence"].get("id") != "A":
        return None

    def ids(pieces: list[dict[str, Any]]) -> tuple[int, ...]:
        return tuple(n for piece in pieces for n in special_tokens[piece["SpecialToken"]["id"]]["ids"])

    return Additions(ids(single[: places[0]]), ids(single[places[0] + 1 :]))
