"""The shape of the project: folders, links, who imports whom, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvatlas

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("actors", "cluster", "index", "ingest", "offload", "tokenize")

# Top-level names, or kvatlas modules, that a folder's modules must not import.
FORBIDDEN = {
    "index": ("ray", "zmq", *(f"kvatlas.{f}" for f in FOLDERS if f != "index")),
    "ingest": ("ray", "kvatlas.actors", "kvatlas.cluster", "kvatlas.tokenize", "kvatlas.offload"),
    "tokenize": ("ray", "kvatlas.actors", "kvatlas.cluster"),
    "offload": ("ray", "kvatlas.actors", "kvatlas.cluster", "kvatlas.index"),
    "actors": ("kvatlas.cluster",),
    "cluster": (),
}
ALLOWED = {"offload": ("kvatlas.index.keys", "kvatlas.index.errors")}


def imported_modules(path: Path) -> set[str]:
    """Every module that a source file imports, wherever in it the import stands."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} line {node.lineno}: a relative import"
            module = node.module or ""
            modules.add(module)
            # `from kvatlas import cluster` and `from kvatlas.index import keys` name modules too.
            if module.split(".")[0] == "kvatlas":
                modules.update(f"{module}.{alias.name}" for alias in node.names)
    return modules


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def forbidden_imports(path: Path, folder: str) -> set[str]:
    allowed = ALLOWED.get(folder, ())
    # A parent of an allowed module is named by the statement that imports the module itself.
    parents = {name.rpartition(".")[0] for name in allowed}
    return {
        module
        for module in imported_modules(path)
        if is_within(module, FORBIDDEN[folder]) and not is_within(module, allowed) and module not in parents
    }


def is_made(parts: tuple[str, ...]) -> bool:
    """Whether a path lies in what builds, environments and tools leave behind."""
    hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
    return hidden or bool({"build", "dist", "__pycache__"} & set(parts))


def project_files() -> list[Path]:
    """Files that git tracks or would track; without git, everything but builds and environments."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = listing.stdout.decode().split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not is_made(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_root_folder_has_no_init_module(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_link_in_the_package_is_relative_and_reaches_its_root_folder(folder: str) -> None:
    link = ROOT / "src" / "kvatlas" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert link.resolve() == ROOT / folder


def test_the_package_holds_nothing_but_its_init_the_marker_and_the_links() -> None:
    names = {path.name for path in (ROOT / "src" / "kvatlas").iterdir()} - {"__pycache__"}
    assert names == {"__init__.py", "py.typed", *FOLDERS}


def test_all_is_sorted_and_every_name_in_it_exists() -> None:
    assert list(kvatlas.__all__) == sorted(kvatlas.__all__)
    for name in kvatlas.__all__:
        assert hasattr(kvatlas, name), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_imports_only_what_it_may(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for module in forbidden_imports(path, folder)
    }
    assert not found


def test_forbidden_import_is_found_in_every_form(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    for line in (
        "import zmq",
        "import zmq.asyncio as z",
        "from zmq import Context",
        "from kvatlas import ingest",
        "def late():\n    from kvatlas.ingest.wire.topic import parse",
    ):
        source.write_text(line + "\n", encoding="utf-8")
        assert forbidden_imports(source, "index"), line
    source.write_text("from kvatlas.index.keys import block_keys\nimport numpy\n", encoding="utf-8")
    assert not forbidden_imports(source, "index")
    assert not forbidden_imports(source, "offload")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_is_named_like_one_of_the_standard_library_or_like_a_drawer(folder: str) -> None:
    avoided = sys.stdlib_module_names | {"utils", "util", "common", "helpers", "helper", "base"}
    assert not {path.stem for path in (ROOT / folder).rglob("*.py")} & avoided


@pytest.mark.slow
def test_no_file_holds_a_path_of_one_machine() -> None:
    # Put together here, so that this file does not hold what it looks for.
    homes = "|".join(("work", "farm", "root", "home/[a-z]", "Users/[A-Za-z]"))
    machine_path = re.compile(rf"(^|[^A-Za-z0-9_.\-/}}])/({homes})/")
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(text.splitlines(), 1)
            if machine_path.search(line)
        ]
    assert not found


def test_no_source_file_is_longer_than_400_lines() -> None:
    sources = [p for p in project_files() if p.suffix in {".py", ".cpp", ".hpp"}]
    assert sources
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
