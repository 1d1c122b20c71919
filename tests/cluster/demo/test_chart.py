"""The picture at the demo's end."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from kvatlas.cluster.demo.chart import HEIGHT, WIDTH, draw_chart
from kvatlas.cluster.demo.run_report import RequestOutcome, RunReport

SVG = "{http://www.w3.org/2000/svg}"


def report_of(policy: str, cached_tokens: int, requests: int = 200) -> RunReport:
    report = RunReport(policy, pods=4)
    for number in range(requests):
        report.add(
            RequestOutcome(
                pod=number % 4,
                prompt_tokens=1000,
                predicted_tokens=cached_tokens,
                cached_tokens=cached_tokens,
                decision_s=(number + 1) * 2e-6,
            )
        )
    return report


def drawn(by_score: RunReport, other: RunReport, caption: str = "caption") -> ElementTree.Element:
    return ElementTree.fromstring(draw_chart(by_score, other, caption))


def texts(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def test_the_picture_says_the_numbers_of_both_runs() -> None:
    said = texts(drawn(report_of("by score", 800), report_of("round robin", 200)))
    assert "80.0 %" in said
    assert "round robin: 20.0 %" in said
    assert "4.0× less" in said
    assert "40.0 k computed, 160 k reused" in said
    assert "160 k computed, 40.0 k reused" in said
    assert "p50 201 µs, p99 396 µs" in said


def test_lines_lie_as_high_as_the_hit_rate_they_show() -> None:
    picture = drawn(report_of("by score", 750), report_of("round robin", 250))
    lines = list(picture.iter(f"{SVG}polyline"))
    assert len(lines) == 2
    label_y = {element.text: float(element.attrib["y"]) - 4 for element in picture.iter(f"{SVG}text")}
    for line, label in zip(lines, ("25 %", "75 %"), strict=True):
        heights = {float(point.split(",")[1]) for point in line.attrib["points"].split()}
        assert heights == {label_y[label]}


def test_everything_lies_inside_the_picture() -> None:
    picture = drawn(report_of("by score", 1000), report_of("round robin", 0))
    for rect in picture.iter(f"{SVG}rect"):
        x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + height <= HEIGHT


def test_a_caption_with_markup_in_it_is_only_text() -> None:
    said = texts(drawn(report_of("by score", 1), report_of("round robin", 1), "<b> & 'model'"))
    assert "<b> & 'model'" in said


def test_one_request_is_enough_for_a_picture() -> None:
    assert texts(drawn(report_of("by score", 500, requests=1), report_of("round robin", 500, requests=1)))
