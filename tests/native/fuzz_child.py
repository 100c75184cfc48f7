"""Loads damaged checkpoints one after another, as a child of the fuzz test: a crash ends this process and is seen.

Standard input: one JSON line a case, {"path": …, "plan": {…}}. Standard output: one line a case, an outcome as JSON.
"""

from __future__ import annotations

import json
import sys

import msgspec

from deploykit.checkpoint import read_facts
from deploykit.engine.native import NativeRunner
from deploykit.engine.native.memory import block_bytes, supported
from deploykit.engine.types import Admit, Extend, SamplingParams, Step, Want, pack, unpack
from deploykit.errors import DeploykitError
from deploykit.plan.types import Plan


def attempt(path: str) -> dict[str, str]:
    """What the planner and the engine process do with a checkpoint, up to its first tokens."""
    try:
        facts = read_facts(path)
        reason = supported(facts)
        if reason is not None:
            return {"outcome": "refused", "error": reason}
        plan = Plan(
            name="fuzz",
            engine="native",
            device="cpu",
            model_path=path,
            architecture=facts.architecture,
            dtype="float32",
            kv_dtype="float32",
            vocab_size=facts.vocab_size,
            session_len=64,
            max_batch_size=2,
            max_prefill_tokens=32,
            block_len=16,
            block_bytes=block_bytes(facts, "float32", 16),
            num_blocks=4,
        )
        if plan.num_blocks * plan.block_bytes > 1 << 30 or facts.stored_bytes > 1 << 30:
            return {"outcome": "refused", "error": "larger than this machine"}
        runner = NativeRunner()
        runner.load(plan, lambda stage, fraction: None)
    except DeploykitError as error:
        return {"outcome": "refused", "error": str(error)}
    try:
        return {"outcome": "ran", "error": _tokens(runner, facts.vocab_size)}
    finally:
        runner.close()


def _tokens(runner: NativeRunner, vocab: int) -> str:
    """Three tokens of a short prompt; the failure's code where the model gave what is no number."""
    prompt = [t % vocab for t in (1, 2, 3, 5, 8)]
    admit = Admit(
        row=0,
        epoch=1,
        tokens=pack(prompt),
        prompt_len=len(prompt),
        computed=0,
        limit=len(prompt) + 3,
        sampling=SamplingParams(temperature=0, max_tokens=3),
        seed=0,
    )
    step = Step(
        seq=1,
        rows=pack([0]),
        epochs=pack([1]),
        num_tokens=pack([len(prompt)]),
        flags=pack([int(Want.SAMPLE)]),
        admits=(admit,),
        extends=(Extend(0, 1, 0, (1, 2)),),
        iterations=3,
    )
    result = runner.collect(runner.launch(step))
    if result.failures:
        return result.failures[0].code
    tokens = unpack(result.tokens).tolist()
    assert all(0 <= token < vocab for token in tokens)
    return ""


def main() -> None:
    for line in sys.stdin:
        try:
            outcome = attempt(json.loads(line)["path"])
        except Exception as error:  # anything but our own errors is a finding
            outcome = {"outcome": "fault", "error": f"{type(error).__name__}: {error}"}
        print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
