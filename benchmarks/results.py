"""What the benchmarks print: an aligned table, the machine, and JSON lines for report.py."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from pathlib import Path

import msgspec
from timing import Timing

PEER = "ai-dynamo-runtime"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One measured line."""

    row: str
    """The name by which report.py finds it."""
    what: str
    unit: str
    """A rate ends in /s: more is better. Of all others less is."""
    median: float
    best: float
    peer_median: float | None = None
    peer_best: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer, by medians."""
        if not self.peer_median or not self.median:
            return None
        faster = self.peer_median / self.median
        return 1 / faster if self.unit.endswith("/s") else faster


def timed(row: str, what: str, ours: Timing, peer: Timing | None = None) -> Result:
    """A duration, in microseconds."""
    return Result(
        row=row,
        what=what,
        unit="us",
        median=ours.median * 1e6,
        best=ours.best * 1e6,
        peer_median=peer and peer.median * 1e6,
        peer_best=peer and peer.best * 1e6,
    )


def rated(row: str, what: str, ours: Timing, peer: Timing | None = None) -> Result:
    """A rate, in millions of blocks a second, from the seconds for a block."""
    return Result(
        row=row,
        what=what,
        unit="M blocks/s",
        median=1e-6 / ours.median,
        best=1e-6 / ours.best,
        peer_median=peer and 1e-6 / peer.median,
        peer_best=peer and 1e-6 / peer.best,
    )


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all benchmarks have."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples, less work: for a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results as JSON lines")
    return parser


def machine() -> str:
    """The processor and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def versions() -> str:
    """Of what is measured, in one line."""
    named = [f"Python {platform.python_version()}"]
    for package in ("kvatlas", "numpy", "tokenizers", "jinja2", PEER):
        try:
            named.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            named.append(f"{package} not installed")
    return ", ".join(named)


def show(results: list[Result], json: Path | None = None) -> None:
    """Print results as a table, and append them to `json`."""
    rows: list[tuple[str, ...]] = [("", "unit", "median", "best", "peer median", "peer best", "times better")]
    for r in results:
        numbers = [number(n) for n in (r.median, r.best, r.peer_median, r.peer_best)]
        rows.append((r.what, r.unit, *numbers, "" if r.ratio is None else f"{r.ratio:.2f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(f"\n{machine()}\n{versions()}", flush=True)
    if json is not None:
        with json.open("ab") as file:
            file.writelines(msgspec.json.encode(r) + b"\n" for r in results)


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
