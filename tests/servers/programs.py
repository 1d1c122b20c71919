"""Where the programs of the servers are: on the path, or where `.ci/servers` has unpacked them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["redis", "valkey"]

_UNPACKED = Path(__file__).resolve().parents[2] / "build" / "servers"


class Program(NamedTuple):
    """A server that starts here."""

    path: str
    environment: dict[str, str]
    """All that it is started with."""
    version: tuple[int, ...]


@functools.cache
def find_program(kind: Kind) -> Program | str:
    """The program of this kind, or why there is none."""
    if find_spec("redis") is None:
        return "no redis-py, by which tests talk to servers"
    name = f"{kind}-server"
    inside = _UNPACKED / "usr" / "bin" / name
    # What is loaded before Python, a sanitizer's runtime, is no server's.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    if path := shutil.which(name):
        pass
    elif inside.exists():
        path = str(inside)
        libraries = sorted({str(library.parent) for library in _UNPACKED.rglob("*.so*")})
        # Those that were unpacked with it.
        also = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, also] if also else libraries)
    else:
        return f"no {name} on the path nor in build/servers (.ci/servers gets it)"
    shown = subprocess.run([path, "--version"], env=environment, capture_output=True, text=True, check=False)
    words = [word for word in shown.stdout.split() if word.startswith("v=")]
    if shown.returncode or not words:
        return f"{path} does not run: {(shown.stderr or shown.stdout).strip()[:200]}"
    return Program(path, environment, tuple(int(part) for part in words[0][2:].split(".")))
