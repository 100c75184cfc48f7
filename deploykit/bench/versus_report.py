"""The part of a report that compares the engine with others."""

from __future__ import annotations

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement, in the order in which they were made."""

    round: int
    figure: str
    side: str
    setting: str | None
    value: float
    elsewhere: float | None  # cores that were busy with other processes meanwhile; None where it isn't known


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A side's samples of one figure, in the figure's unit."""

    side: str
    setting: str | None  # of several ways to run this side, the one that was best at this figure
    samples: tuple[float, ...]
    median: float
    spread: float  # (largest - smallest) / median
    gbytes_per_s: float | None = None  # read from memory: weights and KV, 1e9 bytes
    gflops: float | None = None  # two a multiply-accumulate


class FigureResult(msgspec.Struct, frozen=True, kw_only=True):
    """One row. A ratio is our median over the other's, whichever direction is better."""

    name: str
    title: str
    unit: str  # tok/s | bytes | s
    higher_is_better: bool
    ours: Measured
    others: tuple[Measured, ...]
    ratios: dict[str, float]  # by side


class SideFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a side is."""

    name: str
    version: str
    kv_dtype: str
    settings: tuple[str, ...]  # the ways to run it that were tried


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's measured limits with all threads of the comparison. None: not measured."""

    read_gbytes_per_s: float | None
    int8_gops: float | None  # int8 dot products, 1e9 operations, two a multiply-accumulate
    source: str


class Versus(msgspec.Struct, frozen=True, kw_only=True, tag="versus"):
    """The engine beside other engines: same model, same threads, same prompts, in turns."""

    model: str
    engine: str
    dtype: str
    threads: int
    rounds: int
    sides: tuple[SideFacts, ...]
    figures: tuple[FigureResult, ...]
    ceilings: Ceilings
    tuning: tuple[Sample, ...]  # what the peers' settings were chosen by
    samples: tuple[Sample, ...]


class PerplexityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One way to compute the model over one text."""

    name: str
    engine: str
    dtype: str
    kv_dtype: str
    perplexity: float
    mean_logprob: float
    off: float | None  # perplexity over the reference's, less one
    lm_head_dtype: str = "auto"  # of the output head; auto = as it is stored


class Perplexity(msgspec.Struct, frozen=True, kw_only=True, tag="perplexity"):
    """exp of the mean negative log probability of each token given all before it."""

    model: str
    text: str
    text_sha256: str
    tokens: int  # that were predicted
    windows: int  # the text was cut into so many parts that fit a session
    rows: tuple[PerplexityRow, ...]
