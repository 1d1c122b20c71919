"""The documentation: links lead somewhere, code runs, and what it names is there."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvatlas
from kvatlas.index._native import History, LoadBook
from kvatlas.index.choosing.figures import ChoosingStatistics
from kvatlas.index.choosing.policies.policy import load_policy
from kvatlas.index.choosing.policies.shadow import ShadowStatistics
from kvatlas.index.choosing.sessions import Sessions
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.keys import keyspace
from kvatlas.ingest import atlas_report
from kvatlas.ingest._native import Mirror
from kvatlas.ingest.stream.truth import DOUBTS
from kvatlas.tokenize.config import SidecarConfig
from kvatlas.tokenize.loading.files import Place
from kvatlas.tokenize.local import LocalTokenizer
from kvatlas.tokenize.parity.battery import battery
from kvatlas.tokenize.pods import PodTokenizer
from kvatlas.tokenize.pool.bounded_work import WorkStatistics
from kvatlas.tokenize.segments import components
from kvatlas.tokenize.service.serving.calls import ServiceStatistics
from kvatlas.tokenize.service.sidecar_channel import SidecarChannel
from kvatlas.tokenize.tokenizers import TokenizersStatistics
from tests.e2e.chat_tokenizer import write_chat_tokenizer
from tests.test_layout import ROOT, project_files

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PAGES = sorted(path for path in project_files() if path.suffix == ".md")


def prose(page: Path) -> str:
    """Without blocks of code, in which brackets mean other things."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_list_of_pages_has_every_page() -> None:
    listed = set(LINK.findall(prose(ROOT / "docs" / "README.md")))
    assert {path.name for path in PAGES if path.parent == ROOT / "docs"} - {"README.md"} <= listed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/indexer.md", "docs/routing.md"])
def test_python_of_a_page_runs(name: str) -> None:
    blocks = python_blocks(ROOT / name)
    assert blocks
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    promised = [
        line.partition("  # ")[2] for block in blocks for line in block.splitlines() if "print(" in line
    ]
    assert finished.stdout.splitlines() == promised


def asked_of(tree: ast.AST, variable: str) -> set[str]:
    """Attributes of a variable that code uses."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == variable
    }


def test_what_the_readme_asks_of_a_cluster_is_there() -> None:
    """Its lines need a cluster; examples/cluster_clients.py runs the same ones."""
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    tree = ast.parse("\n".join(blocks))
    for variable, kind in (
        ("kvatlas", kvatlas),
        ("client", kvatlas.Client),
        ("scores", kvatlas.Scores),
        ("atlas", kvatlas.Atlas),
        ("choice", kvatlas.Choice),
    ):
        names = asked_of(tree, variable)
        assert names
        assert not [name for name in names if not hasattr(kind, name)]


def counted_in(module: str, *counters: str) -> set[str]:
    """Names that a module writes into these counters by subscript."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    return {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and (node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", ""))
        in counters
    }


def test_counters_of_the_table_are_those_that_the_code_can_produce() -> None:
    names = set(Mirror(keyspace("m", 16)).counts())
    names |= counted_in("ingest/intake.py", "counts") | counted_in("ingest/feed.py", "counts")
    names |= counted_in("ingest/conversation.py", "counts") | counted_in("ingest/atlas_report.py", "totals")
    applied = set(atlas_report._APPLIED) | set(atlas_report._STREAM)  # pyright: ignore[reportPrivateUsage]
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    table = text.partition("\n## Counters")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == names - applied


def first_column(page: str, heading: str) -> list[str]:
    """Names in code style that begin the rows of a section's table."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_reasons_of_the_table_are_the_doubts_there_are_in_their_order() -> None:
    text = (ROOT / "docs" / "ingest.md").read_text(encoding="utf-8")
    for doubt in DOUBTS.values():
        assert f"| `{doubt.name}` | {doubt.state} | {doubt.says} | {doubt.heals} |" in text
    assert first_column("ingest.md", "Reasons") == list(DOUBTS)


def test_counters_of_a_stream_are_those_of_the_table() -> None:
    counted = counted_in("ingest/stream/stream.py", "counts") | counted_in(
        "ingest/stream/history.py", "_counts"
    )
    listed = first_column("ingest.md", "Counters of a stream")
    assert len(listed) == len(set(listed))
    assert set(listed) == counted | {"buffer_dropped"}


def fields_of(module: str, name: str) -> list[tuple[str, str, str]]:
    """Field, default and docstring of a configuration struct, as its source has them."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    (struct,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = []
    for field, doc in itertools.pairwise(struct.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and field.value is not None
        ):
            text = (
                doc.value.value if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) else ""
            )
            found.append((field.target.id, ast.unparse(field.value), " ".join(str(text).split())))
    return found


@pytest.mark.parametrize(
    ("module", "struct"),
    [
        ("ingest/stream/limits.py", "StreamLimits"),
        ("ingest/stream/agreement.py", "AgreementLimits"),
        ("ingest/sockets/subscriber_config.py", "SubscriberConfig"),
    ],
)
def test_limits_and_timers_of_the_page_are_those_of_the_code(module: str, struct: str) -> None:
    text = (ROOT / "docs" / "ingest.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | {default} | {says} |" for name, default, says in fields_of(module, struct)]
    table = text.partition(f"**`{struct}`**")[2].partition("\n\n|")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == rows


def test_cases_of_the_battery_are_those_of_the_page_in_their_order() -> None:
    text = (ROOT / "docs" / "tokenization.md").read_text(encoding="utf-8")
    section = text.partition("\n### The battery\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (text|chat) \| [\w ]+ \| (.*) \|$", section, flags=re.MULTILINE)
    listed = [f"{kind}: {name}" for kind, names in rows for name in names.split("; ")]
    assert listed == [case.name for case in battery()]
    assert f"{len(listed)} cases, all equal" in text


def test_components_that_are_proven_are_named_on_the_page() -> None:
    text = (ROOT / "docs" / "tokenization.md").read_text(encoding="utf-8")
    section = text.partition("\n## Exact, and how that is known\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    tables = (components._NORMALIZERS, components._PRE_TOKENIZERS, components._MODELS)  # pyright: ignore[reportPrivateUsage]
    for table in tables:
        assert named >= table.keys()


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("Counters of all tokenizers", TokenizersStatistics),
        ("Counters of a service", ServiceStatistics),
        ("Counters of a queue", WorkStatistics),
    ],
)
def test_counters_of_tokenizing_are_the_fields_of_their_struct(
    heading: str, struct: type[msgspec.Struct]
) -> None:
    assert sorted(first_column("tokenization.md", heading)) == sorted(struct.__struct_fields__)


def test_counters_of_each_kind_of_tokenizer_are_those_of_the_page(tmp_path: Path) -> None:
    write_chat_tokenizer(tmp_path)
    with (
        contextlib.closing(LocalTokenizer("m", Place(tmp_path), kvatlas.TokenizeConfig())) as local,
        contextlib.closing(PodTokenizer("m", "http://127.0.0.1:9", timeout_s=1)) as pod,
        contextlib.closing(SidecarChannel(SidecarConfig(address="127.0.0.1:9"))) as sidecar,
    ):
        counted = {
            "one tokenizer": local.statistics().counts,
            "a pod": pod.statistics().counts,
            "a sidecar": sidecar.statistics(),
        }
    for kind, counts in counted.items():
        assert sorted(first_column("tokenization.md", f"Counters of {kind}")) == sorted(counts)


ROUTING = ROOT / "docs" / "routing.md"


def test_the_receipt_of_the_page_is_that_of_its_code() -> None:
    (told,) = re.findall(r"```json\n(.*?)```", ROUTING.read_text(encoding="utf-8"), flags=re.DOTALL)
    promised = json.loads(told)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(python_blocks(ROUTING)[0], names)  # the first is the worked choice
    made = json.loads(msgspec.json.encode(names["receipt"]))
    assert promised["stages"].keys() == made["stages"].keys()
    for receipt in (promised, made):
        del receipt["time_s"], receipt["stages"]  # of the moment
    assert promised == made


def test_the_costs_worked_by_hand_are_those_of_the_receipt() -> None:
    text = ROUTING.read_text(encoding="utf-8")
    (told,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    costs = {account["pod"]: account["cost"] for account in json.loads(told)["candidates"]}
    (row,) = re.findall(r"^\| \*\*cost\*\* \| (.*) \|$", text, flags=re.MULTILINE)
    worked = [float(re.sub(r"\D", "", cell)) for cell in row.split(" | ")]
    assert worked == [costs[pod] for pod in ("pod-a", "pod-b", "pod-c")]


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Counters of a chooser", ChoosingStatistics.__struct_fields__),
        ("Counters of the load book", LoadBook(1).statistics()),
        ("Counters of what was sent", History(1).statistics()),
        ("Counters of sessions", Sessions(ChoosingConfig()).statistics()),
        ("Counters of a shadow policy", ShadowStatistics.__struct_fields__),
    ],
)
def test_counters_of_choosing_are_those_of_the_page(heading: str, names: Iterable[str]) -> None:
    assert sorted(first_column("routing.md", heading)) == sorted(names)


def test_policies_of_the_page_are_those_there_are() -> None:
    listed = first_column("routing.md", "Policies")
    assert len(listed) == len(set(listed)) > 0
    assert [load_policy(name, {}, "here").name for name in listed] == listed
    with pytest.raises(kvatlas.ConfigError) as refused:
        load_policy("none", {}, "here")
    assert all(name in str(refused.value) for name in listed)
    assert str(refused.value).count(",") == len(listed)


def test_bounds_of_choosing_are_named_on_the_page_with_their_defaults() -> None:
    text = ROUTING.read_text(encoding="utf-8").partition("\n## Bounds\n")[2].partition("\n## ")[0]
    config = msgspec.to_builtins(ChoosingConfig())
    bounds = {name: value for name, value in config.items() if name.endswith("_max")}
    named = dict(re.findall(r"`(\w+_max)` \(([\d ]+(?:MiB)?)\)", text))
    assert named.keys() == bounds.keys()
    for name, said in named.items():
        digits = int(re.sub(r"\D", "", said))
        assert digits << (20 if "MiB" in said else 0) == bounds[name], name
