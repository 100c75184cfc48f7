"""What a workload asks of the machine, step by step, and how fast that could go at best.

A step can't be shorter than the time to read its bytes, nor than the time of its multiplications: the roofline of a
workload is the sum over its steps of the longer of the two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deploykit.checkpoint.facts import Facts
from deploykit.plan.types import Plan


@dataclass(frozen=True)
class ModelCost:
    """Bytes and multiply-accumulates (MAC) of one model; activations, norms and sampling are left out."""

    weight_bytes: int  # read by every step: all matrices as stored, the output head too, experts apart
    kv_token_bytes: int
    layer_macs: int  # a token, all layers, attention's own left out
    head_macs: int  # a token whose logits are wanted
    attention_macs: int  # a token and a token of its context
    expert_bytes: int = 0  # all experts of all layers
    chosen: float = 0.0  # share of a layer's experts that a token goes to

    def step_bytes(self, tokens: int) -> int:
        """Weights that a step of so many tokens reads: experts that have a token, if every choice is as likely."""
        return self.weight_bytes + round(self.expert_bytes * (1 - (1 - self.chosen) ** tokens))


@dataclass(frozen=True)
class StepWork:
    """One step of the engine."""

    tokens: int
    logits: int  # rows whose next token is wanted
    kv_tokens: int  # whose keys and values are read or written
    pairs: int  # of a token and a token it sees


@dataclass(frozen=True)
class Roofline:
    """Of a whole workload."""

    steps: int
    nbytes: int
    flops: int  # two a multiply-accumulate
    seconds: float | None  # at best; None where the machine's rates aren't known


def model_cost(facts: Facts, plan: Plan) -> ModelCost | None:
    """None for experts whose number the config doesn't say."""
    chosen = _chosen(facts.config)
    if chosen is None:
        return None
    embedding = [t for t in facts.tensors if t.name.endswith("embed_tokens.weight")]
    head = [t for t in facts.tensors if t.name.endswith("lm_head.weight")]
    tables = {t.name for t in (*embedding, *head)}
    layers = [t for t in facts.tensors if t.name not in tables]
    experts = [t for t in layers if ".experts." in t.name]
    body = [t for t in layers if ".experts." not in t.name]
    expert_macs = sum(_elements(facts, t.name, t.num_elements) for t in experts if len(t.shape) > 1)
    int8 = facts.vocab_size * (facts.hidden_size + 4)  # a scale a row
    stored = sum(t.nbytes for t in (head or embedding))
    return ModelCost(
        weight_bytes=sum(t.nbytes for t in body) + (int8 if plan.lm_head_dtype == "int8" else stored),
        kv_token_bytes=plan.block_bytes // plan.block_len,
        layer_macs=sum(_elements(facts, t.name, t.num_elements) for t in body if len(t.shape) == 2)
        + round(expert_macs * chosen),
        head_macs=facts.hidden_size * facts.vocab_size,
        attention_macs=2 * facts.num_layers * facts.num_heads * facts.head_dim,
        expert_bytes=sum(t.nbytes for t in experts),
        chosen=chosen,
    )


def _chosen(config: dict[str, Any]) -> float | None:
    """Share of the routed experts that a token goes to; 0 without experts, None where the config doesn't say."""
    if not any("experts" in key for key in config):
        return 0.0
    keys = ("num_experts", "num_local_experts", "n_routed_experts")
    count = next((config[key] for key in keys if key in config), 0)
    top_k = config.get("num_experts_per_tok") or 0
    return float(top_k / count) if count and top_k else None


def _elements(facts: Facts, name: str, stored: int) -> int:
    """Weights in a stored matrix: AWQ and GPTQ keep several in a 32-bit word, and scales and zeros beside them."""
    if name.endswith((".qzeros", ".scales", ".g_idx")):
        return 0
    if not name.endswith(".qweight"):
        return stored
    section: dict[str, Any] = facts.config.get("quantization_config") or {}
    return stored * 32 // int(section.get("bits") or section.get("w_bit") or 4)


def schedule(lengths: Sequence[tuple[int, int]], max_rows: int, budget: int) -> Iterator[StepWork]:
    """The steps of (prompt, output) requests that all come at once, first come first served.

    `max_rows` run at once, a step has at most `budget` tokens: one for each row that decodes, and prompts after them.
    """
    waiting = deque(lengths)
    running: list[list[int]] = []  # [tokens computed, prompt length, length at the end]
    while waiting or running:
        left, tokens, logits, kv_tokens, pairs = budget, 0, 0, 0, 0

        def take(row: list[int], count: int) -> None:
            nonlocal left, tokens, logits, kv_tokens, pairs
            row[0] += count
            left -= count
            tokens += count
            logits += row[0] >= row[1]
            kv_tokens += row[0]
            pairs += count * (row[0] - count) + count * (count + 1) // 2

        for row in running:
            if row[0] >= row[1]:
                take(row, 1)
        for row in running:
            if row[0] < row[1] and left > 0:
                take(row, min(left, row[1] - row[0]))
        while waiting and left > 0 and len(running) < max_rows:
            prompt, output = waiting.popleft()
            # The last token that is made is never computed with.
            running.append([0, prompt, prompt + output - 1])
            take(running[-1], min(left, prompt))
        running = [row for row in running if row[0] < row[2]]
        yield StepWork(tokens, logits, kv_tokens, pairs)


def roofline(
    cost: ModelCost,
    steps: Iterator[StepWork],
    read_bytes_per_s: float | None,
    flops_per_s: float | None,
) -> Roofline:
    """With a bandwidth alone it is the bandwidth's; without one there are no seconds."""
    count = nbytes = flops = 0
    seconds = 0.0
    for step in steps:
        step_bytes = cost.step_bytes(step.tokens) + step.kv_tokens * cost.kv_token_bytes
        macs = step.tokens * cost.layer_macs + step.logits * cost.head_macs + step.pairs * cost.attention_macs
        count += 1
        nbytes += step_bytes
        flops += 2 * macs
        reading = step_bytes / read_bytes_per_s if read_bytes_per_s else 0.0
        seconds += max(reading, 2 * macs / flops_per_s if flops_per_s else 0.0)
    return Roofline(count, nbytes, flops, seconds if read_bytes_per_s else None)
