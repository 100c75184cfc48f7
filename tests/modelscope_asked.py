"""ModelScope's SDK asked as `deploykit.hub.modelscope` asks it, without a new interpreter for each question.

A process imports the SDK once and forks for every question: hundreds of tests ask it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from deploykit.hub.modelscope_sdk import Told

PROGRAM = """
import json, os, sys
sys.modules["torch"] = sys.modules["transformers"] = None
import modelscope.hub.api, modelscope.hub.file_download, httpx
from deploykit.hub import modelscope_sdk
output = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)
for line in sys.stdin:
    question = json.loads(line)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.environ.clear()
            os.environ.update(question["environ"])
            with os.fdopen(write_fd, "wb") as out:
                out.write(modelscope_sdk.answer(question["request"].encode()))
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as got:
        output.write(got.read() + b"\\n")
    os.waitpid(pid, 0)
"""


@contextmanager
def asked_in_a_fork() -> Iterator[Callable[[bytes, str], Told]]:
    """What stands for `deploykit.hub.modelscope._run`."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(request: bytes, where: str) -> Told:
        assert process.stdin is not None
        assert process.stdout is not None
        question = {"request": request.decode(), "environ": dict(os.environ)}
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        return msgspec.json.decode(process.stdout.readline(), type=Told)

    try:
        yield run
    finally:
        process.communicate()
