"""`transformers.generate` on the same weights, in a process of its own: `python -m deploykit.bench.peer_generate`.

Reads one JSON object a line from stdin and answers one on stdout:
`{"op": "load", "model_path", "dtype", "threads"}` -> `{"event": "ready", "parameters", "vocab_size"}`,
`{"op": "run", "prompts": [[id]], "output_len"}` -> `{"event": "result", "seconds", "tokens": [[id]]}`,
anything that goes wrong -> `{"event": "error", "what"}`. The end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from deploykit.fsutil import cache_dir


class GeneratePeer:
    """A model of transformers with the checkpoint's weights, and the settings that its `generate` is fastest with."""

    def __init__(self, model_path: str, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from deploykit import checkpoint
        from deploykit.checkpoint.weights import iter_weights

        torch.set_num_threads(threads)
        facts = checkpoint.read_facts(Path(model_path))
        kind = getattr(torch, dtype)
        config = AutoConfig.for_model(**facts.config)
        self.model = AutoModelForCausalLM.from_config(config, dtype=kind).eval()
        weights = {name: tensor.to(kind) for name, tensor in iter_weights(facts, dtype, cache_dir())}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        self.model.tie_weights()
        tied = set(getattr(self.model, "all_tied_weights_keys", {}) or {})
        if unexpected or set(missing) - tied:
            raise RuntimeError(f"weights don't fit: missing {missing}, unexpected {unexpected}")
        self.model.generation_config.eos_token_id = None  # every peer makes exactly output_len tokens
        self.model.generation_config.pad_token_id = 0
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.vocab_size = int(config.get_text_config().vocab_size)

    def run(self, prompts: list[list[int]], output_len: int) -> tuple[float, list[list[int]]]:
        """Greedy tokens of equally long prompts in one batch, and the seconds that `generate` took."""
        import torch

        ids = torch.tensor(prompts)  # [requests, prompt_len]
        mask = torch.ones_like(ids)
        start = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=output_len)
        seconds = time.perf_counter() - start
        tokens = out[:, ids.shape[1] :].tolist()
        if any(len(row) != output_len for row in tokens):
            raise RuntimeError(f"generate made {[len(row) for row in tokens]} tokens instead of {output_len}")
        return seconds, tokens


def serve(stdin: TextIO, stdout: TextIO) -> None:
    """Answer requests until stdin ends."""
    peer: GeneratePeer | None = None
    for line in stdin:
        try:
            request = json.loads(line)
            reply: dict[str, Any]
            if request["op"] == "load":
                peer = GeneratePeer(request["model_path"], request["dtype"], request["threads"])
                reply = {"event": "ready", "parameters": peer.parameters, "vocab_size": peer.vocab_size}
            elif request["op"] == "run" and peer is not None:
                seconds, tokens = peer.run(request["prompts"], request["output_len"])
                reply = {"event": "result", "seconds": seconds, "tokens": tokens}
            else:
                reply = {"event": "error", "what": f"unexpected request {request['op']!r}"}
        except Exception as error:  # the other side must hear of every failure
            reply = {"event": "error", "what": f"{type(error).__name__}: {error}"}
        stdout.write(json.dumps(reply) + "\n")
        stdout.flush()


def main() -> None:
    # Libraries print to stdout: they get stderr, the protocol keeps the real one.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
