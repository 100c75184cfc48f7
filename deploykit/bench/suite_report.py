"""The parts of a report that the suite of five workloads and the dataset benchmark write."""

from __future__ import annotations

import msgspec


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """Where a suite ran. Rates were measured before it; None: unknown, or not measured."""

    name: str
    device: str  # cuda | cpu
    driver: str | None
    cuda_driver: str | None  # newest CUDA that the driver runs
    torch_cuda: str | None  # CUDA that torch was built for
    nvcc: str | None  # version
    read_gbytes_per_s: float | None
    copy_gbytes_per_s: float | None  # read and written bytes together
    matrix_tflops: float | None  # 16-bit, two operations a multiply-accumulate
    source: str


class PeerFigure(msgspec.Struct, frozen=True, kw_only=True):
    """Another engine's figure of the same work on the same kind of card, measured on another day."""

    name: str
    value: float  # in the figure's unit
    ratio: float  # ours over it


class SuiteFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One workload. Seconds run from the first submission to the last token."""

    name: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    unit: str  # output tok/s | input tok/s | requests/s
    seconds: tuple[float, ...]  # of every run, in order
    values: tuple[float, ...]  # the same runs in `unit`
    median: float
    spread: float  # (largest - smallest) / median, of values
    input_tokens_per_s: float  # these three at the median
    output_tokens_per_s: float
    requests_per_s: float
    first_token_s: (
        float  # of the run of median length: from its start to the first token of the first request
    )
    steps: int | None = None  # of the shortest schedule; None where the model's work isn't known (experts)
    gbytes_per_s: float | None = None  # weights once a step of that schedule, and the KV of every context
    tflops: float | None = None
    roofline: float | None = None  # the most that the measured rates allow, in `unit`
    roofline_share: float | None = None
    peers: tuple[PeerFigure, ...] = ()


class Suite(msgspec.Struct, frozen=True, kw_only=True, tag="suite"):
    """The workloads on one model with one KV type."""

    suite: str  # gpu
    model: str
    weights: str  # bf16 | awq | gptq | …: as stored
    random_weights: bool
    engine: str
    device: str
    dtype: str
    kv_dtype: str
    max_batch_size: int
    max_prefill_tokens: int
    session_len: int
    kv_tokens: int  # that the page pool holds
    load_s: float  # from the start of the engine process until it is ready
    card: Card
    peers_note: str  # where peers' figures come from, or why there are none
    figures: tuple[SuiteFigure, ...]


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Of times in seconds."""

    count: int
    min: float
    max: float
    mean: float
    p50: float
    p75: float
    p95: float
    p99: float


class DatasetLoad(msgspec.Struct, frozen=True, kw_only=True, tag="dataset"):
    """The conversations of a file, sent to a server as streamed completions."""

    dataset: str
    url: str
    model: str
    requests: int
    concurrency: int
    completed: int
    errors: dict[str, int]  # message -> how often
    elapsed_s: float
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    tokens_per_s: float  # prompt and output
    ttft_s: Distribution | None  # to the first text
    tpot_s: Distribution | None  # a request's time after its first text, per token
    itl_s: Distribution | None  # between pieces of text
    latency_s: Distribution | None
