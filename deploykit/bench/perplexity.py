"""Perplexity over a fixed text, through the engine that a deployment runs: what a dtype or KV type costs in quality."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploykit.bench.engine_run import EngineRun
from deploykit.bench.versus_report import Perplexity, PerplexityRow
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.tokenizer import ensure_tokenizer, load_tokenizer
from deploykit.errors import ConfigError, DeploykitError
from deploykit.plan.types import Plan

BUILTIN = "builtin"
_TEXT = Path(__file__).with_name("reference_text.txt")
LEAST = 2  # tokens of which the second can be predicted
# Tokens of one step. An engine may attend to a step's own tokens before they are quantized, and short steps read nearly
# every key and value out of the KV memory, as decoding does.
STEP = 16


@dataclass(frozen=True)
class Variant:
    """A plan to compute the text with."""

    name: str
    plan: Plan
    reference: bool = False


def read_text(source: str) -> tuple[str, str]:
    """(name, text) of a file, or of the text that comes with the package. Raises ConfigError."""
    path = _TEXT if source == BUILTIN else Path(source)
    try:
        return (source if source == BUILTIN else path.name), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the text for --perplexity can't be read",
            where=str(path),
            why=str(error),
            fix=f"name a text file in UTF-8, or `--perplexity {BUILTIN}`",
        ) from None


def tokenize(facts: Facts, text: str, cache: Path) -> list[int]:
    """Token ids, with a BOS first where the model's tokenizer wants one before plain text."""
    files = ensure_tokenizer(facts, cache)
    ids = list(load_tokenizer(files.tokenizer_json).encode(text, add_special_tokens=False).ids)
    if files.add_bos and facts.bos_token_id is not None:
        ids.insert(0, facts.bos_token_id)
    return ids


def windows_of(ids: Sequence[int], longest: int) -> list[list[int]]:
    """The text in equal parts of at most `longest` tokens; each is predicted by itself."""
    count = max(1, -(-len(ids) // longest))
    size = -(-len(ids) // count)
    parts = [list(ids[at : at + size]) for at in range(0, len(ids), size)]
    return [part for part in parts if len(part) >= LEAST]


def measure(
    variants: Sequence[Variant], ids: Sequence[int], source: tuple[str, str], report: Callable[[str], None]
) -> Perplexity:
    """Each variant in an engine process of its own, one after the other, over the same parts of the text."""
    name, text = source
    longest = min(variant.plan.session_len for variant in variants) - 1  # one token is generated
    windows = windows_of(ids, longest)
    if not windows:
        raise ConfigError("the text is too short to predict anything", where=name)
    rows = []
    for variant in variants:
        report(f"{variant.name}: {variant.plan.engine}, {variant.plan.dtype}, KV {variant.plan.kv_dtype}")
        rows.append(_row(variant, windows))
    if base := next((row for row, v in zip(rows, variants, strict=True) if v.reference), None):
        rows = [msgspec.structs.replace(row, off=row.perplexity / base.perplexity - 1) for row in rows]
    return Perplexity(
        model=Path(variants[0].plan.model_path).name,
        text=name,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        tokens=sum(len(part) - 1 for part in windows),
        windows=len(windows),
        rows=tuple(rows),
    )


def _row(variant: Variant, windows: Sequence[list[int]]) -> PerplexityRow:
    plan = msgspec.structs.replace(
        variant.plan,
        max_prefill_tokens=min(STEP, variant.plan.max_prefill_tokens),
        max_batch_size=min(STEP, variant.plan.max_batch_size),
    )
    with EngineRun(plan) as engine:
        engine.load()
        logprobs = [value for part in windows for value in engine.score(part)]
    if not all(map(math.isfinite, logprobs)):
        raise DeploykitError("the engine gave a log probability that is no number", where=variant.name)
    mean = math.fsum(logprobs) / len(logprobs)
    return PerplexityRow(
        name=variant.name,
        engine=plan.engine,
        dtype=plan.dtype,
        kv_dtype=plan.kv_dtype,
        perplexity=math.exp(-mean),
        mean_logprob=mean,
        off=None,
        lm_head_dtype=plan.lm_head_dtype,
    )
