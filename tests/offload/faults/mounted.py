"""A store on a small file system that fills up, turns read-only, and recovers; in a namespace of its own.

    unshare -rm python -m tests.offload.faults.mounted FOLDER

Prints what happened as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.offload.storing.files_at_hand import Process, open_process, wait_for

_BYTES = 1 << 20


def main() -> None:
    folder = Path(sys.argv[1])
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "none", str(folder)]
    subprocess.run(mount, check=True)
    process = open_process(folder / "store", breaker_s_min=0.05, breaker_s_max=0.1, absent_s=0.05)
    told = {"full": _fill(process, folder), "read_only": _read_only(process, folder)}
    process.storage.close()
    print(json.dumps(told))


def _fill(process: Process, folder: Path) -> dict[str, object]:
    number, stored = 0, []
    while process.storage.statistics().counters["no_space"] == 0:
        stored += [number] if process.store(number).ok else []
        number += 1
    is_served = len(process.load(*stored[-8:]).ok) == 8 and process.holds(*stored[-8:])
    takes_writes = process.storage.statistics().takes_writes
    (folder / "ballast").unlink(missing_ok=True)
    for file in sorted((folder / "store").rglob("*.kv"))[:20]:
        file.unlink()
    return {
        "stored": len(stored),
        "is_served": is_served,
        "takes_writes": takes_writes,
        "no_space": process.storage.statistics().counters["no_space"],
        "recovers": _stores_again(process),
        "temporary": len(list(folder.rglob("*.tmp"))),
    }


def _read_only(process: Process, folder: Path) -> dict[str, object]:
    assert process.store(2000).ok
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    refused = process.store(2001).failed
    is_served = process.load(2000).ok and process.holds(2000)
    counted = process.storage.statistics().counters["read_only"]
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    return {
        "refused": len(refused),
        "is_served": bool(is_served),
        "read_only": counted,
        "recovers": _stores_again(process),
    }


def _stores_again(process: Process) -> bool:
    wait_for(lambda: bool(process.store(3000).ok))
    return bool(process.load(3000).ok) and process.holds(3000)


if __name__ == "__main__":
    main()
