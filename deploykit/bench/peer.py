"""The other side of a comparison: a child process that answers JSON lines (see `peer_generate`)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any, Self

from deploykit.errors import DeploykitError
from deploykit.supervise.process import child_env, python_module

GENERATE = "deploykit.bench.peer_generate"


class PeerProcess:
    """A peer that is loaded; a context manager that ends it."""

    def __init__(self, argv: Sequence[str] | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the process
        self._popen = subprocess.Popen(
            argv or python_module(GENERATE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is ours to handle
            env=child_env(),
        )
        self.parameters = 0
        self.vocab_size = 0

    @property
    def pid(self) -> int:
        return self._popen.pid

    def load(self, model_path: str, dtype: str, threads: int) -> None:
        """Load the weights. Raises DeploykitError with the peer's own words."""
        reply = self._call({"op": "load", "model_path": model_path, "dtype": dtype, "threads": threads})
        self.parameters, self.vocab_size = reply["parameters"], reply["vocab_size"]

    def run(self, prompts: list[list[int]], output_len: int) -> tuple[float, list[list[int]]]:
        """Seconds, and the tokens that each prompt got."""
        reply = self._call({"op": "run", "prompts": prompts, "output_len": output_len})
        return float(reply["seconds"]), reply["tokens"]

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._popen.stdin, self._popen.stdout
        line = ""
        if stdin is not None and stdout is not None:
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
                line = stdout.readline()
            except BrokenPipeError:
                pass  # it is gone: said below
        if not line:
            why = f"exit code {self._popen.wait()}; its last words: {self._tail() or 'none'}"
            raise DeploykitError("the peer process ended", why=why)
        reply: dict[str, Any] = json.loads(line)
        if reply["event"] == "error":
            raise DeploykitError(f"the peer could not {request['op']}", why=reply["what"])
        return reply

    def _tail(self) -> str:
        self._stderr.seek(0)
        return " | ".join(self._stderr.read().decode(errors="replace").splitlines()[-5:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.stdin is not None:
            self._popen.stdin.close()  # the end of its input ends it
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._stderr.close()
