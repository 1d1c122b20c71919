"""Runs all benchmarks and writes their results, judged against the goals, into the documents."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from goals import GOALS, Results, verdict
from paper_model import growth_lines, model_lines
from results import Result, arguments, machine, number, versions

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
SCALING = HERE.parent / "docs" / "scaling.md"
BEGIN, END = "<!-- results: written by benchmarks/report.py -->", "<!-- end of results -->"
GROWTH, GROWTH_END = "<!-- growth: written by benchmarks/report.py -->", "<!-- end of growth -->"
MODEL, MODEL_END = "<!-- model: written by benchmarks/report.py -->", "<!-- end of model -->"
ROWS_OF = {
    "bench_block_keys.py": ("keys",),
    "bench_match.py": ("match", "score", "lanes"),
    "bench_ingest.py": ("ingest",),
    "bench_memory.py": ("memory",),
    "bench_shared_reader.py": ("reader",),
    "bench_churn.py": ("churn",),
    "bench_subscriber.py": ("subscriber",),
    "bench_recovery.py": ("recovery",),
    "bench_checkpoint.py": ("checkpoint",),
    "bench_links.py": ("links",),
    "bench_outbox.py": ("outbox",),
    "bench_reading.py": ("read",),
    "bench_cluster_visible.py": ("visible",),
    "bench_cluster_recovery.py": ("heal",),
    "bench_cluster_memory.py": ("actors",),
    "bench_cluster_growth.py": ("growth",),
    "bench_tokenize_turns.py": ("turn",),
    "bench_tokenize_first.py": ("first",),
    "bench_tokenize_memory.py": ("memo",),
    "bench_tokenize_calls.py": ("ask",),
    "bench_choose.py": ("choose",),
    "bench_serve_router.py": ("serve",),
    "bench_routing.py": ("routing",),
    "bench_proxy.py": ("proxy",),
    "bench_copies.py": ("copies",),
    "bench_offload_files.py": ("files",),
    "bench_offload_lookup.py": ("lookup",),
    "bench_offload_checksum.py": ("checksum",),
    "bench_offload_step.py": ("step",),
    "bench_offload_eviction.py": ("evict",),
    "bench_remote.py": ("remote",),
    "bench_dump.py": ("dump",),
    "bench_moving.py": ("moving",),
    "bench_budget.py": ("budget",),
}
"""Which script measures which rows, by what their names begin with."""


def run_all(json: Path, quick: bool) -> list[str]:
    """Those that failed; what they measure is missing."""
    failed = []
    for script in ROWS_OF:
        print(f"\n==> {script}", flush=True)
        command = [sys.executable, str(HERE / script), "--json", str(json), *(["--quick"] if quick else [])]
        begin = time.monotonic()
        if subprocess.run(command).returncode:
            failed.append(script)
        print(f"took {time.monotonic() - begin:.0f} s", flush=True)
    return failed


def read(json: Path) -> Results:
    lines = json.read_bytes().splitlines()
    results = [msgspec.json.decode(line, type=Result) for line in lines]
    return {result.row: result for result in results}


def goal_lines(results: Results) -> Iterator[str]:
    yield "| what | must | aim | measured, median (best) | peer, median (best) | verdict |"
    yield "|---|---|---|---|---|---|"
    for goal in GOALS:
        try:
            outcome = goal.judge(results)
        except KeyError:
            yield f"| {goal.what} | {goal.must} | {goal.aim} | not measured | | |"
            continue
        cells = (goal.what, goal.must, goal.aim, outcome.measured, outcome.peer, verdict(outcome))
        yield "| " + " | ".join(cells) + " |"


def all_lines(results: Results) -> Iterator[str]:
    for script, beginnings in ROWS_OF.items():
        question = (HERE / script).read_text().splitlines()[0].strip('".')
        yield f"\n### {question}\n\n`python benchmarks/{script}`\n"
        yield "| | unit | median | best | peer's median | peer's best | times better |"
        yield "|---|---|--:|--:|--:|--:|--:|"
        for row, r in results.items():
            if row.partition("/")[0] in beginnings:
                numbers = [number(n) for n in (r.median, r.best, r.peer_median, r.peer_best)]
                ratio = "" if r.ratio is None else f"{r.ratio:.1f}"
                yield "| " + " | ".join((r.what, r.unit, *numbers, ratio)) + " |"


def write(results: Results, note: str) -> None:
    """Both documents."""
    made_on = f"{note} {machine()}; {versions()}.\n".lstrip()
    goals = [made_on, *goal_lines(results), "\n## All measurements", *all_lines(results)]
    replace(DOCUMENT, BEGIN, END, goals)
    replace(SCALING, GROWTH, GROWTH_END, [made_on, *measured(growth_lines, results)])
    replace(SCALING, MODEL, MODEL_END, list(measured(model_lines, results)))


def measured(lines: Callable[[Results], Iterator[str]], results: Results) -> list[str]:
    try:
        return list(lines(results))
    except KeyError as error:
        return [f"Not measured: {error.args[0]}."]


def replace(document: Path, begin: str, end: str, lines: Iterable[str]) -> None:
    """What is between the two markers."""
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(before + "\n".join([begin, *lines, end]) + after)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--render", type=Path, metavar="FILE", help="run nothing: take the results from FILE")
    parser.add_argument("--note", default="", help="a sentence to put before the machine's name")
    args = parser.parse_args()
    failed: list[str] = []
    if args.render:
        results = read(args.render)
    else:
        with tempfile.TemporaryDirectory() as folder:
            json = args.json or Path(folder) / "results.jsonl"
            failed = run_all(json, args.quick)
            results = read(json)
    quick = "From a quick run: not final." if args.quick else ""
    write(results, args.note or quick)
    print()
    print("\n".join(goal_lines(results)))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
