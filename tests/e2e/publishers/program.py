"""The publisher of one vLLM release as a program: `python program.py PATH/TO/kv_events.py`.

It loads that file alone, so it needs msgspec and pyzmq but no vLLM: the few names that the file
imports from other modules of vLLM have stand-ins. One command a line on its standard input, one
answer a line, both Python literals (bytes and whole numbers of any size pass):

    ("open", {arguments of ZmqEventPublisher})    opens its sockets
    ("publish", ([[event, ..], ..], times))       queues batches, all of them so many times;
                                                  an event is a dict with its "type"

It ends with its input, without a farewell, as a server that was killed.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import sys
import time
import types
from typing import Any


def load(path: str) -> types.ModuleType:
    """Executes the file as a module of its own."""
    _stand_in("vllm.config.kv_events", KVEventsConfig=types.SimpleNamespace)
    _stand_in("vllm.logger", init_logger=logging.getLogger)
    _stand_in("vllm.v1.core.kv_cache_utils", ExternalBlockHash=bytes | int)
    # Used for an endpoint without a port only.
    names = ("get_ip", "get_tcp_uri", "is_valid_ipv6_address", "split_zmq_path")
    _stand_in("vllm.utils.network_utils", **dict.fromkeys(names))
    spec = importlib.util.spec_from_file_location("kv_events", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kv_events"] = module
    spec.loader.exec_module(module)
    return module


def _stand_in(name: str, **attributes: object) -> None:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


class Program:
    """The commands, for one publisher at a time."""

    def __init__(self, release: types.ModuleType) -> None:
        self._release = release
        self._publisher: Any = None

    def open(self, arguments: dict[str, Any]) -> None:
        self._publisher = self._release.ZmqEventPublisher(**arguments)

    def publish(self, argument: tuple[list[list[dict[str, Any]]], int]) -> None:
        batches, times = argument
        for _ in range(times):
            for events in batches:
                made = [self._event(one) for one in events]
                self._publisher.publish(self._release.KVEventBatch(ts=time.time(), events=made))

    def _event(self, event: dict[str, Any]) -> Any:
        """The release's own struct; what it has no field for is left out."""
        kind = getattr(self._release, event["type"])
        fields = kind.__struct_fields__
        required = fields[: len(fields) - len(kind.__struct_defaults__)]
        given = {name: value for name, value in event.items() if name in fields}
        return kind(**{**dict.fromkeys(required), **given})


def main() -> None:
    program = Program(load(sys.argv[1]))
    for line in sys.stdin:
        command, argument = ast.literal_eval(line)
        print(repr(getattr(program, command)(argument)), flush=True)


if __name__ == "__main__":
    main()
