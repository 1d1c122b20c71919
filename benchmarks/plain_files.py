"""The peer of bench_offload_files.py: threads in C that write and read whole files, and nothing else."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

int move_file(const char* path, char* row, size_t bytes, int is_load, int direct) {
  int flags = (is_load ? O_RDONLY : O_WRONLY | O_CREAT | O_EXCL) | (direct ? O_DIRECT : 0);
  int file = open(path, flags, 0644);
  if (file < 0) return errno;
  ssize_t moved = is_load ? pread(file, row, bytes, 0) : pwrite(file, row, bytes, 0);
  int wrong = moved == (ssize_t)bytes ? 0 : moved < 0 ? errno : EIO;
  close(file);
  return wrong;
}

typedef struct {
  const char** paths; char** rows; size_t bytes, n; int is_load, direct;
  atomic_size_t next; atomic_int wrong;
} Work;

static void* run(void* given) {
  Work* work = given;
  for (size_t i; (i = atomic_fetch_add(&work->next, 1)) < work->n;) {
    int wrong = move_file(work->paths[i], work->rows[i], work->bytes, work->is_load, work->direct);
    if (wrong) atomic_store(&work->wrong, wrong);
  }
  return NULL;
}

int move_files(const char** paths, char** rows, size_t bytes, size_t n, int is_load, int direct,
               int threads) {
  Work work = {paths, rows, bytes, n, is_load, direct, 0, 0};
  pthread_t started[256];
  for (int i = 0; i < threads; ++i) if (pthread_create(&started[i], NULL, run, &work)) return EAGAIN;
  for (int i = 0; i < threads; ++i) pthread_join(started[i], NULL);
  return work.wrong;
}
"""


class PlainFiles:
    """Calls of C, without the GIL; OSError where one fails."""

    def __init__(self, library: Any, *, direct: bool) -> None:
        self._library, self._direct = library, direct

    def move_all(
        self, paths: Sequence[bytes], rows: Sequence[int], n_bytes: int, *, is_load: bool, threads: int
    ) -> None:
        """One row to each file, or back, by so many threads at once."""
        n = len(paths)
        files, places = (ctypes.c_char_p * n)(*paths), (ctypes.c_void_p * n)(*rows)
        self._check(
            self._library.move_files(
                files, places, ctypes.c_size_t(n_bytes), ctypes.c_size_t(n), is_load, self._direct, threads
            )
        )

    def move(self, path: bytes, row: int, n_bytes: int, *, is_load: bool) -> None:
        """On the caller's thread."""
        self._check(
            self._library.move_file(
                path, ctypes.c_void_p(row), ctypes.c_size_t(n_bytes), is_load, self._direct
            )
        )

    @staticmethod
    def _check(wrong: int) -> None:
        if wrong:
            raise OSError(wrong, os.strerror(wrong))


def load_plain_files(*, direct: bool) -> PlainFiles | None:
    """None, and a line, without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        print("no C compiler: measured without a plain loop beside")
        return None
    with tempfile.TemporaryDirectory(prefix="bench-files-") as folder:
        source, library = Path(folder) / "files.c", Path(folder) / "files.so"
        source.write_text(_SOURCE)
        command = [compiler, "-O2", "-shared", "-fPIC", "-pthread", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        return PlainFiles(ctypes.CDLL(str(library)), direct=direct)


def takes_direct(folder: Path) -> bool:
    """Whether files in this folder can be opened past the page cache."""
    path = folder / "direct"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o644))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
