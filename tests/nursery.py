"""A process that has imported what runs import, and forks others: a new interpreter takes seconds for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NURSERY = """
import json
import os
import sys
import matplotlib.backends.backend_agg
import scipy.signal
import torch._dynamo
import yaml
import base_residual.training.trainer

for line in sys.stdin:
    order = json.loads(line)
    if isinstance(order, int):
        pid, status = os.waitpid(order, os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if not answer:
            os.environ.clear()
            os.environ.update(order["environment"])
            sys.argv = ["-c", *order["arguments"]]
            with open(order["said"], "w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            exec(order["program"], {"__name__": "__main__"})
            sys.exit()
    print(json.dumps(answer), flush=True)
"""

SCRIPT = """
import runpy, sys
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""  # a program that runs the file that its first argument names


class Nursery:
    """A process that forks others; what stands before its program has happened in all of them."""

    def __init__(self, before: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, order: dict[str, object] | int) -> int | None:
        """The number of a new process, or the exit code of one, which is None while it runs."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Forked:
    """A process out of the nursery, with what tests use of a subprocess.Popen."""

    def __init__(
        self, nursery: Nursery, said: Path, program: str, *arguments: object, environment: dict[str, str] | None = None
    ) -> None:
        self.nursery, self.said, self.returncode = nursery, said, None
        said.touch()  # it can be read before the process has begun
        order = {"program": program, "arguments": [str(word) for word in arguments], "said": str(said)}
        self.pid = nursery.ask(order | {"environment": dict(os.environ) | (environment or {})})

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.nursery.ask(self.pid)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, None]:
        give_up = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < give_up, self.said.read_text()
            time.sleep(0.01)
        return self.said.read_text(), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def together(
    nursery: Nursery,
    folder: Path,
    world: int,
    program: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
) -> list[Forked]:
    """Processes that find in their environment what torchrun writes there, to meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = (environment or {}) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    return [
        Forked(
            nursery,
            folder / f"said{port}-{rank}",
            program,
            *arguments,
            environment=meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
