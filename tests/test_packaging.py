"""What is shipped: the wheel holds the modules and no sources, the sdist keeps the links."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run_python(*arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree as it is, built in the build folder of the editable install: only what changed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    run_python(*build)
    (path,) = folder.glob("kvatlas-*.whl")
    return path


def test_wheel_holds_the_native_modules_their_stubs_and_the_typing_marker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for folder in ("index", "ingest", "tokenize"):
        assert f"kvatlas/{folder}/_native{suffix}" in names
        assert f"kvatlas/{folder}/_native.pyi" in names
    assert "kvatlas/py.typed" in names


def test_wheel_holds_nothing_but_the_package_and_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert all(name.startswith("kvatlas/") for name in names)
    assert {Path(name).suffix for name in names} <= {".lua", ".proto", ".py", ".pyi", ".so", ".typed"}


def test_wheel_holds_the_scripts_that_run_in_a_server(wheel: Path) -> None:
    scripts = {str(path.relative_to(ROOT)) for path in (ROOT / "index").rglob("*.lua")}
    assert scripts
    with zipfile.ZipFile(wheel) as archive:
        assert {f"kvatlas/{name}" for name in scripts} <= set(archive.namelist())


def test_wheel_and_tree_hold_the_same_scripts_of_servers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.endswith(".lua")}
    assert (
        shipped == {f"kvatlas/{path.relative_to(ROOT)}" for path in (ROOT / "index").rglob("*.lua")} != set()
    )


def test_unpacked_wheel_imports_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # -S leaves out the .pth files, and with them the editable install.
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {sysconfig.get_path('purelib')!r}]; "
        "import kvatlas; print(kvatlas.__file__); print(len(kvatlas.block_keys(range(32), model='m')))"
    )
    lines = run_python("-I", "-S", "-c", program, cwd=tmp_path).split()
    assert Path(lines[0]).is_relative_to(tmp_path)
    assert lines[1] == "2"


def test_sdist_keeps_the_links_as_links_and_holds_the_native_sources(tmp_path: Path) -> None:
    program = f"from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    run_python("-c", program)
    (path,) = tmp_path.glob("kvatlas-*.tar.gz")
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    for folder in ("actors", "cluster", "index", "ingest", "offload", "tokenize"):
        link = members[f"src/kvatlas/{folder}"]
        assert link.issym() and link.linkname == f"../../{folder}"
    natives = {f"{folder}/native/module.cpp" for folder in ("index", "ingest", "tokenize")}
    scripts = {str(path.relative_to(ROOT)) for path in (ROOT / "index").rglob("*.lua")}
    needed = {*natives, *scripts, "CMakeLists.txt", "LICENSE"}
    assert needed <= set(members)
