"""What a figure asks of the machine: bytes to read and multiplications to do, from the model's shape and the plan."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.bench.figures import TOKENS, Figure
from deploykit.checkpoint.facts import Facts
from deploykit.plan.types import Plan


@dataclass(frozen=True)
class Work:
    """Of one model under one plan. Multiply-accumulates (MAC) are None where the shape doesn't tell them."""

    weight_bytes: int  # read by every step: all layers and the output head
    kv_token_bytes: int
    step_tokens: int  # of one prefill step
    layer_macs: int | None  # a token, all layers, attention's own left out
    head_macs: int  # a token whose logits are wanted
    attention_macs: int  # a token and a token of its context

    def achieved(self, figure: Figure, value: float) -> tuple[float | None, float | None]:
        """(GB/s, GFLOP/s) at so many tokens a second, in units of 1e9; None where the figure has none.

        Counted: weights once a step, keys and values of the context once a token; activations, norms and sampling
        are left out. Layers with a sliding window count as if they saw everything.
        """
        if figure.unit != TOKENS or value <= 0:
            return None, None
        job = figure.job
        if figure.group == "decode":
            rows, decoded, prefills = 1, job.output_len, False
            seconds = job.output_len / value
        elif figure.group == "prefill":
            rows, decoded, prefills = 1, 0, True
            seconds = job.prompt_len / value
        else:
            rows, decoded, prefills = job.requests, job.output_len, True
            seconds = job.requests * job.output_len / value
        context = rows * decoded * (job.prompt_len + decoded / 2)  # tokens of context over all decoded tokens
        nbytes = decoded * self.weight_bytes + context * self.kv_token_bytes
        layer, head, pairs = float(rows * decoded), float(rows * decoded), context
        if prefills:
            steps = -(-rows * job.prompt_len // self.step_tokens)
            nbytes += steps * self.weight_bytes + rows * job.prompt_len * self.kv_token_bytes
            layer += rows * job.prompt_len
            head += rows
            pairs += rows * job.prompt_len * (job.prompt_len + 1) / 2
        gbytes = nbytes / seconds / 1e9
        if self.layer_macs is None:
            return gbytes, None
        macs = layer * self.layer_macs + head * self.head_macs + pairs * self.attention_macs
        return gbytes, 2 * macs / seconds / 1e9


def work_of(facts: Facts, plan: Plan) -> Work:
    """Weights count as the plan has them in memory, whatever the engine."""
    memory = {item.name: item.bytes for item in plan.memory}
    embeddings = memory.get("embeddings", 0)
    stored = embeddings if facts.tie_word_embeddings else embeddings // 2
    head_bytes = memory.get("output head", stored)  # a row of its own where it isn't as it is stored
    return Work(
        weight_bytes=memory.get("weights", 0) + head_bytes,
        kv_token_bytes=plan.block_bytes // plan.block_len,
        step_tokens=plan.max_prefill_tokens,
        layer_macs=_layer_macs(facts),
        head_macs=facts.hidden_size * facts.vocab_size,
        attention_macs=2 * facts.num_layers * facts.num_heads * facts.head_dim,
    )


def _layer_macs(facts: Facts) -> int | None:
    """Elements of all matrices but the tables; None for experts, of which a token sees some, and packed tensors."""
    if any("experts" in key for key in facts.config) or facts.quant_method not in (None, "gguf"):
        return None
    tables = ("embed_tokens.weight", "lm_head.weight")
    matrices = (t for t in facts.tensors if len(t.shape) == 2 and not t.name.endswith(tables))
    return sum(t.num_elements for t in matrices)
