"""The demo's result as a picture: what the same traffic cost, routed by score and in another way."""

from __future__ import annotations

import numpy as np

from kvatlas.cluster.demo.run_report import RunReport
from kvatlas.cluster.demo.svg import Svg
from kvatlas.cluster.quantities import shown_count, shown_duration, shown_share

WIDTH, HEIGHT = 1000, 660
_MARGIN = 36
_INK, _QUIET, _RULE, _PAPER, _PANEL = "#0f172a", "#64748b", "#e2e8f0", "#ffffff", "#f8fafc"
_SCORE, _OTHER, _COMPUTED = "#0d9488", "#94a3b8", "#f59e0b"


def draw_chart(by_score: RunReport, other: RunReport, caption: str) -> str:
    """The picture as SVG text.

    Both runs saw the same traffic and have at least one request. `caption` says what was run.
    """
    svg = Svg(
        WIDTH,
        HEIGHT,
        title="Routing by score, beside " + other.policy,
        description=(
            f"Prefix hit rate {shown_share(by_score.hit_rate)} by score, "
            f"{shown_share(other.hit_rate)} {other.policy}."
        ),
    )
    svg.rect(0, 0, WIDTH, HEIGHT, fill=_PAPER, radius=14)
    svg.frame(0.5, 0.5, WIDTH - 1, HEIGHT - 1, stroke=_RULE, radius=14)
    svg.text(_MARGIN, 52, "Send each request where its prefix already is", size=24, weight=700, fill=_INK)
    svg.text(_MARGIN, 78, caption, size=13.5, fill=_QUIET)
    _draw_headlines(svg, by_score, other, top=100)
    _draw_hit_rates(svg, by_score, other, left=_MARGIN, top=222, width=560, height=402)
    _draw_prefill(svg, by_score, other, left=620, top=222, width=344, height=186)
    _draw_decisions(svg, by_score, left=620, top=424, width=344, height=200)
    return svg.render()


def _draw_headlines(svg: Svg, by_score: RunReport, other: RunReport, top: float) -> None:
    p50, p99 = by_score.decision_quantiles_s((0.5, 0.99))
    tiles = (
        (
            shown_share(by_score.hit_rate),
            "of prompt tokens reused",
            f"{other.policy}: {shown_share(other.hit_rate)}",
        ),
        (
            f"{_ratio(other.prefill_tokens, by_score.prefill_tokens)} less",
            "prefill to compute",
            f"{shown_count(by_score.prefill_tokens)} tokens instead of {shown_count(other.prefill_tokens)}",
        ),
        (shown_duration(p50), "to decide, at the median", f"99 of 100 within {shown_duration(p99)}"),
    )
    width, gap = 298.67, 16
    for number, (figure, what, beside) in enumerate(tiles):
        x = _MARGIN + number * (width + gap)
        svg.rect(x, top, width, 100, fill=_PANEL, radius=10)
        svg.rect(x, top, 4, 100, fill=_SCORE, radius=2)
        svg.text(x + 20, top + 40, figure, size=28, weight=700, fill=_SCORE)
        svg.text(x + 20, top + 63, what, size=13.5, weight=600, fill=_INK)
        svg.text(x + 20, top + 83, beside, size=12.5, fill=_QUIET)


def _ratio(larger: float, smaller: float) -> str:
    return f"{larger / max(smaller, 1):.1f}×"


def _panel(svg: Svg, title: str, left: float, top: float, width: float, height: float) -> None:
    svg.frame(left, top, width, height, stroke=_RULE, radius=10)
    svg.text(left + 18, top + 28, title, size=14, weight=600, fill=_INK)


def _draw_hit_rates(
    svg: Svg, by_score: RunReport, other: RunReport, left: float, top: float, width: float, height: float
) -> None:
    window = max(by_score.requests // 40, 1)
    _panel(svg, f"Prefix hit rate, over the last {window} requests", left, top, width, height)
    x0, x1, y0, y1 = left + 62, left + width - 24, top + height - 48, top + 76
    for percent in range(0, 101, 25):
        y = y0 + (y1 - y0) * percent / 100
        svg.line(x0, y, x1, y, stroke=_RULE)
        svg.text(x0 - 10, y + 4, f"{percent} %", size=12, fill=_QUIET, anchor="end")
    requests = max(by_score.requests, other.requests)
    for quarter in range(5):
        x = x0 + (x1 - x0) * quarter / 4
        anchor = "start" if quarter == 0 else "end" if quarter == 4 else "middle"
        svg.text(x, y0 + 20, f"{requests * quarter // 4:,}", size=12, fill=_QUIET, anchor=anchor)
    svg.text((x0 + x1) / 2, y0 + 38, "requests", size=12, fill=_QUIET, anchor="middle")
    for report, colour, legend_x in ((other, _OTHER, left + 120), (by_score, _SCORE, left + 18)):
        rates = report.moving_hit_rate(window)
        chosen = np.unique(np.linspace(0, len(rates) - 1, 400).astype(int))
        points = [
            (x0 + (x1 - x0) * (i + 1) / requests, y0 + (y1 - y0) * float(rates[i])) for i in chosen.tolist()
        ]
        if report is by_score:
            svg.area([(points[0][0], y0), *points, (points[-1][0], y0)], fill=colour, opacity=0.08)
        svg.path(points, stroke=colour, width=2.5)
        svg.rect(legend_x, top + 44, 14, 4, fill=colour, radius=2)
        svg.text(legend_x + 20, top + 50, report.policy, size=12.5, weight=600, fill=_INK)


def _draw_prefill(
    svg: Svg, by_score: RunReport, other: RunReport, left: float, top: float, width: float, height: float
) -> None:
    _panel(svg, "Prompt tokens", left, top, width, height)
    svg.rect(left + 150, top + 19, 10, 10, fill=_COMPUTED, radius=2)
    svg.text(left + 165, top + 28, "computed", size=12, fill=_QUIET)
    svg.rect(left + 238, top + 19, 10, 10, fill=_SCORE, radius=2)
    svg.text(left + 253, top + 28, "reused", size=12, fill=_QUIET)
    x0, x1 = left + 18, left + width - 18
    most = max(by_score.prompt_tokens, other.prompt_tokens, 1)
    for number, report in enumerate((by_score, other)):
        y = top + 52 + number * 64
        computed = (x1 - x0) * report.prefill_tokens / most
        reused = (x1 - x0) * report.cached_tokens / most
        svg.text(x0, y + 10, report.policy, size=12.5, weight=600, fill=_INK)
        said = f"{shown_count(report.prefill_tokens)} computed, {shown_count(report.cached_tokens)} reused"
        svg.text(x1, y + 10, said, size=12, fill=_QUIET, anchor="end")
        svg.rect(x0, y + 20, computed - 1, 22, fill=_COMPUTED, radius=3)
        svg.rect(x0 + computed + 1, y + 20, reused - 1, 22, fill=_SCORE, radius=3)


def _draw_decisions(
    svg: Svg, by_score: RunReport, left: float, top: float, width: float, height: float
) -> None:
    _panel(svg, "Time per decision", left, top, width, height)
    decisions_s = by_score.decisions_s()
    p50, p99 = by_score.decision_quantiles_s((0.5, 0.99))
    said = f"p50 {shown_duration(p50)}, p99 {shown_duration(p99)}"
    svg.text(left + width - 18, top + 28, said, size=12, fill=_QUIET, anchor="end")
    # The longest hundredth would squeeze all the others into the first bars; the last one gathers it.
    limit = max(p99 * 1.15, 1e-9)
    counts, _ = np.histogram(np.minimum(decisions_s, limit), bins=48, range=(0.0, limit))
    x0, x1, y0, y1 = left + 18, left + width - 18, top + height - 34, top + 74
    bar = (x1 - x0) / len(counts)
    for number, count in enumerate(counts.tolist()):
        tall = (y0 - y1) * count / max(int(counts.max()), 1)
        svg.rect(x0 + number * bar + 0.5, y0 - tall, bar - 1, tall, fill=_SCORE, radius=1)
    svg.line(x0, y0, x1, y0, stroke=_RULE)
    for name, seconds in (("p50", p50), ("p99", p99)):
        x = x0 + (x1 - x0) * seconds / limit
        left_of_line = name == "p50" and x > x0 + 36
        svg.line(x, y0, x, y1 - 20, stroke=_INK, dash="3 3")
        anchor, shift = ("end", -6) if left_of_line else ("start", 6)
        svg.text(x + shift, y1 - 11, name, size=12, weight=600, fill=_INK, anchor=anchor)
    svg.text(x0, y0 + 20, "0", size=12, fill=_QUIET)
    svg.text(x1, y0 + 20, shown_duration(limit), size=12, fill=_QUIET, anchor="end")
