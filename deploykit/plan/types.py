"""The plan: every automatic decision, frozen, in bytes and with its reason. JSON in and out through msgspec."""

from __future__ import annotations

import msgspec


class MemoryItem(msgspec.Struct, frozen=True):
    """One row of the memory table."""

    name: str  # weights | embeddings | kv | activations | logits | runtime
    bytes: int
    note: str = ""


class Candidate(msgspec.Struct, frozen=True):
    """An engine that was considered, in the order of preference."""

    engine: str
    accepted: bool
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """A value that `auto` stood for, or that a limit changed."""

    key: str  # recipe key, dotted
    value: str
    reason: str


class Change(msgspec.Struct, frozen=True):
    """A change that was planned again and does what is said of it."""

    flags: str  # for the command line: "--set engine.cache.quant_policy=int8"
    cost: str  # what is given up
    result: str  # what it makes: "8 full sessions of 8,192"


def least_chunk(session_len: int, chunks: int | None) -> int:
    """Tokens of each chunk where the longest prompt is read in `chunks` steps; 0 without such a limit."""
    return 0 if chunks is None else -(-session_len // chunks)


def step_capacity(step: int, chunks: int | None, session_len: int, rows: int) -> int:
    """Tokens of the largest step: `step`, or one that is raised so that a prompt is read within `chunks` steps while
    all the other rows decode."""
    return max(step, least_chunk(session_len, chunks) + rows - 1) if chunks else step


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine process is started with; it decides nothing by itself."""

    name: str
    engine: str  # pytorch | native | fake
    device: str  # cpu | cuda
    devices: tuple[int, ...] = ()
    device_name: str = ""  # "GPU 0, NVIDIA H100 80GB HBM3"
    compute_capability: tuple[int, int] | None = None  # of the GPU; None on a CPU
    tp: int = 1
    model_path: str  # a folder in Hugging Face's layout, or a .gguf file
    architecture: str
    dtype: str  # bfloat16 | float16 | float32: weights and activations
    kv_dtype: str  # the same, or int8 | k8v4 | int4 | fp8
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    session_len: int
    max_batch_size: int  # rows that run at once
    max_queue: int = 256  # requests that may wait beyond that
    max_prefill_tokens: int  # prompt tokens that a step reads at most
    max_step_tokens: int | None = None  # tokens of a step, rows that decode first; None = max_prefill_tokens
    max_prefill_chunks: int | None = None  # steps that reading a prompt may take; None = as many as it needs
    block_len: int
    block_bytes: int
    num_blocks: int
    prefix_caching: bool = True
    threads: int = 1  # compute threads on a CPU
    rope_scaling_factor: float | None = None  # dynamic NTK over the checkpoint's own; None = as it is
    use_logn_attn: bool | None = None  # log-n attention scaling; None = what the checkpoint says
    lm_head_dtype: str = "auto"  # of the output head: int8, or auto = as it is stored
    needs: tuple[str, ...] = ()  # the lowest driver, torch and toolkit on a GPU, in words
    memory: tuple[MemoryItem, ...] = ()
    memory_limit: int = 0  # bytes that may be used on the device
    candidates: tuple[Candidate, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def step_capacity(self) -> int:
        """The most tokens that a step may carry: what a runner has to have room for."""
        step = self.max_step_tokens or self.max_prefill_tokens
        return step_capacity(step, self.max_prefill_chunks, self.session_len, self.max_batch_size)

    @property
    def sessions(self) -> int:
        """Full sessions that the KV blocks hold at once."""
        return self.num_blocks // -(-self.session_len // self.block_len)

    @property
    def total_bytes(self) -> int:
        return sum(item.bytes for item in self.memory)
