"""Fixed-shape workloads: so many prompts of so many random tokens, each with so many tokens out."""

from __future__ import annotations

import msgspec
import numpy as np

from deploykit.errors import ConfigError

FIRST_ID = 32  # ids below are often special tokens


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """`concurrency` requests at once, `requests` in all."""

    name: str
    prompt_len: int  # tokens
    output_len: int  # tokens, exactly: EOS is ignored
    concurrency: int
    requests: int

    @property
    def output_tokens(self) -> int:
        return self.requests * self.output_len

    @property
    def session_len(self) -> int:
        """Tokens that one request holds at its end."""
        return self.prompt_len + self.output_len


SINGLE = Workload(name="single stream", prompt_len=128, output_len=128, concurrency=1, requests=1)
BATCH_16 = Workload(name="16 at once", prompt_len=64, output_len=64, concurrency=16, requests=16)


def check(workload: Workload, session_len: int | None = None) -> Workload:
    """`workload` if it can be run; ConfigError otherwise."""
    smallest = min(workload.prompt_len, workload.output_len, workload.concurrency, workload.requests)
    if smallest < 1:
        raise ConfigError("lengths, concurrency and requests must be at least 1")
    if session_len is not None and workload.session_len > session_len:
        raise ConfigError(
            f"the workload {workload.name!r} needs sessions of {workload.session_len} tokens",
            why=f"this plan's sessions hold {session_len}",
            fix=f"--set engine.session_len={workload.session_len}, or a shorter workload",
        )
    return workload


def prompts(workload: Workload, vocab_size: int, *, run: int) -> list[list[int]]:
    """Token ids, [requests][prompt_len], uniform over the vocabulary's ordinary part.

    The same `run` gives the same prompts to every peer; another run gives others, so that no prefix cache turns
    a repetition into a shortcut.
    """
    if vocab_size <= FIRST_ID:
        raise ConfigError(f"a vocabulary of {vocab_size} is too small for a benchmark")
    rng = np.random.default_rng([run, workload.prompt_len, workload.output_len, workload.requests])
    ids = rng.integers(FIRST_ID, vocab_size, size=(workload.requests, workload.prompt_len))
    return [[int(token) for token in row] for row in ids]
