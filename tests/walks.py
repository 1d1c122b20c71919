"""The walks that docs/architecture.md lists, as steps in files and functions, and which were called."""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

from tests.test_layout import ROOT

STEP = re.compile(r"`([\w/]+\.(?:py|cpp|hpp)):([\w.]+)`")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

Step = tuple[str, str]


def walks() -> dict[str, list[Step]]:
    """(file, dotted name) of the numbered steps of each walk, by its first word."""
    found = re.findall(r"\n\*\*(\w+): .*?\n\n(1\. .*?)(?=\n\n)", ARCHITECTURE, flags=re.DOTALL)
    return {name.lower(): STEP.findall(steps) for name, steps in found}


def defines(path: Path, name: str) -> bool:
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return re.search(rf"\b{re.escape(name.replace('.', '::'))}\(", source) is not None
    body: list[ast.stmt] = ast.parse(source).body
    for part in name.split("."):
        nodes = [
            node
            for node in body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == part
        ]
        if not nodes:
            return False
        body = nodes[0].body
    return True


@cache
def file_of(code_filename: str) -> str:
    """Relative to the root; through the links of src/kvatlas."""
    path = Path(code_filename).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""


class Calls:
    """Which steps were called, in their order, in whatever thread."""

    def __init__(self) -> None:
        self.wanted = {(file, name.rpartition(".")[2]) for steps in walks().values() for file, name in steps}
        self.called: list[Step] = []

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            name = frame.f_code.co_name
            if any(name == wanted for _, wanted in self.wanted):
                step = file_of(frame.f_code.co_filename), name
                if step in self.wanted:
                    self.called.append(step)

    @contextmanager
    def of_this_thread(self) -> Iterator[None]:
        sys.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(None)

    @contextmanager
    def of_threads_to_come(self) -> Iterator[None]:
        threading.setprofile(self.note)
        try:
            yield
        finally:
            threading.setprofile(None)

    def missed(self, walk: str, *, but: tuple[str, ...] = ()) -> Step | None:
        """The first Python step of a walk that was not called after the one before it; None: all were.

        `but`: files whose steps do not count.
        """
        left = iter(list(self.called))
        for file, name in walks()[walk]:
            if file.endswith(".py") and file not in but and (file, name.rpartition(".")[2]) not in left:
                return file, name
        return None

    def has(self, file: str) -> bool:
        return any(called == file for called, _ in self.called)
