"""`transformers.generate` as the other side of a comparison (see `peer_generate`)."""

from __future__ import annotations

from collections.abc import Sequence

from deploykit.bench.child import JsonChild
from deploykit.supervise.process import child_env, python_module

GENERATE = "deploykit.bench.peer_generate"


class PeerProcess(JsonChild):
    """A peer that is loaded; a context manager that ends it."""

    def __init__(self, argv: Sequence[str] | None = None) -> None:
        super().__init__("the peer process", argv or python_module(GENERATE), child_env())
        self.parameters = 0
        self.vocab_size = 0

    def load(self, model_path: str, dtype: str, threads: int) -> None:
        """Load the weights. Raises DeploykitError with the peer's own words."""
        reply = self.call({"op": "load", "model_path": model_path, "dtype": dtype, "threads": threads})
        self.parameters, self.vocab_size = reply["parameters"], reply["vocab_size"]

    def run(self, prompts: list[list[int]], output_len: int) -> tuple[float, list[list[int]]]:
        """Seconds, and the tokens that each prompt got."""
        reply = self.call({"op": "run", "prompts": prompts, "output_len": output_len})
        return float(reply["seconds"]), reply["tokens"]
