"""A process that has imported vLLM once and becomes a server whenever it is asked, in seconds.

    python tests/e2e/warm_process.py

A line of JSON with `arguments`, `environment`, `folder`, `log` starts one; it answers with its process id.
Engine and workers are forks as well. It ends when its input does; servers stay.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    import vllm.entrypoints.openai.api_server
    import vllm.envs
    import vllm.v1.engine.async_llm
    import vllm.v1.executor.multiproc_executor
    import vllm.v1.worker.cpu_worker
    from vllm.model_executor.models import gemma3, qwen2

    del gemma3, qwen2  # they are imported now, as are the tiny models' layers
    vllm.envs.environment_variables["VLLM_WORKER_MULTIPROC_METHOD"] = lambda: "fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for servers here
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        process_id = os.fork()
        if process_id == 0:
            _become_server(json.loads(line))
        print(process_id, flush=True)


def _become_server(asked: dict[str, Any]) -> None:
    os.setsid()  # its own process group, with all its children
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    os.chdir(asked["folder"])
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    sys.argv[1:] = asked["arguments"]
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    try:
        serve()
    finally:
        sys.exit()  # a traceback is printed on the way


if __name__ == "__main__":
    main()
