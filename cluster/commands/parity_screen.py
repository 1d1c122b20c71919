"""How a comparison with a model server looks to a person."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvatlas.cluster.quantities import shown_count, shown_number_of
from kvatlas.tokenize.parity.check import CaseResult, Difference, ParityReport

_ROWS_MAX = 20


def parity_view(report: ParityReport) -> RenderableType:
    """A line where all is equal; else the cases that are not, and the first difference."""
    different = report.different
    heading = Text(f"{report.model}: {_counts(report)}", "green" if report.is_equal else "red")
    parts: list[RenderableType] = [heading]
    left_out = next((case for case in report.cases if case.outcome == "not supported here"), None)
    if left_out is not None:
        count = report.count("not supported here")
        parts.append(Text(f"{count} cases not supported here: {left_out.here_error}", "yellow"))
    if not different:
        return Group(*parts)
    table = Table("case", "outcome", "here", "pod", box=None, pad_edge=False)
    for case in different[:_ROWS_MAX]:
        table.add_row(*map(Text, (case.name, case.outcome, _said(case, here=True), _said(case, here=False))))
    if len(different) > _ROWS_MAX:
        table.caption = f"and {len(different) - _ROWS_MAX} more: --json shows all"
    first = next((case for case in different if case.difference is not None), None)
    shown = [] if first is None or first.difference is None else [_first(first.name, first.difference)]
    return Group(*parts, table, *shown)


def _counts(report: ParityReport) -> str:
    tokens = shown_count(sum(case.tokens for case in report.cases if case.outcome == "equal"))
    cases = shown_number_of(len(report.cases), "case")
    n_refused = report.count("both refuse")
    n_equal = report.count("equal") + n_refused
    equal = f"{n_equal} of {cases} equal" if n_equal < len(report.cases) else f"{cases}, all equal"
    refused = f", {n_refused} of them refused by both" if n_refused else ""
    return f"{equal}{refused}; {tokens} tokens; here by {report.served_by}, pod {report.pod_url}"


def _said(case: CaseResult, *, here: bool) -> str:
    difference = case.difference
    if difference is None:
        return (case.here_error if here else case.pod_error) or "ids"
    token = difference.here if here else difference.pod
    return f"at {difference.index}: {'the end' if token is None else token}"


def _first(name: str, difference: Difference) -> Text:
    return Text(
        f"\n{name}, from token {difference.index} on:\n"
        f"  both {difference.text_before!r}\n"
        f"  here {difference.here_text!r}\n"
        f"  pod  {difference.pod_text!r}"
    )
