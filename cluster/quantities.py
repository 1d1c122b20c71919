"""How numbers are written for people: `1.25 M`, `87.2 %`, `41 µs`."""

from __future__ import annotations

_COUNT_UNITS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))
_DURATION_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def shown_count(count: float) -> str:
    """Three figures with a unit from ten thousand on, whole numbers below."""
    for size, unit in _COUNT_UNITS:
        if count >= size:
            divisor = 1e3 if unit == "k" else size
            return f"{_three_figures(count / divisor)} {unit}"
    return f"{count:.0f}"


def shown_share(share: float) -> str:
    """A share of one in percent; only all of it is shown as 100 %, and only nothing as 0 %."""
    percent = share * 100
    if percent in (0, 100):
        return f"{percent:.0f} %"
    return f"{min(max(percent, 0.1), 99.9):.1f} %"


def shown_duration(seconds: float) -> str:
    """Two or three figures in the unit that fits."""
    for size, unit in _DURATION_UNITS:
        if seconds >= size:
            return f"{_three_figures(seconds / size)} {unit}"
    return f"{seconds * 1e6:.1f} µs"


def shown_bytes(count: int) -> str:
    """In binary units, three figures."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{_three_figures(count / (1 << shift))} {unit}"
    return f"{count} B"


def shown_number_of(count: int, noun: str) -> str:
    """1 pod, 2 pods."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _three_figures(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
