"""From a plan to a model that is ready to run: weights, examination, packing, KV memory, a check, a warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from deploykit.checkpoint.facts import Facts
from deploykit.engine.heap import anonymous_bytes, release_free_heap
from deploykit.engine.pytorch import memory
from deploykit.engine.pytorch.attention import observing
from deploykit.engine.pytorch.direct import shorten_calls
from deploykit.engine.pytorch.errors import unsupported
from deploykit.engine.pytorch.fuse import fuse
from deploykit.engine.pytorch.inspect import Inspection, marked_masks
from deploykit.engine.pytorch.kv import KVPool
from deploykit.engine.pytorch.model import LanguageModel, Weights, load_model
from deploykit.engine.pytorch.rope import fuse_rotation, tabulate
from deploykit.engine.pytorch.selfcheck import PROBE_TOKENS, check_flow, check_paged, probe_ids
from deploykit.errors import ConfigError
from deploykit.plan.types import Plan

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(slots=True)
class Loaded:
    model: LanguageModel
    pool: KVPool
    vocab_size: int  # width of the logits


def load(
    plan: Plan, facts: Facts, weights: Callable[[str], Weights], progress: Callable[[str, float], None]
) -> Loaded:
    """Load a plan's model. Raises DeploykitError for what the checkpoint or the engine can't do."""
    reason = memory.supported(facts)
    if reason is not None:
        raise unsupported(facts.architecture, f"is not supported: {reason}")
    if plan.kv_dtype != plan.dtype:
        raise ConfigError(
            f"the pytorch engine keeps the KV cache in the model's dtype ({plan.dtype})",
            where="engine.cache.quant_policy",
            why=f"the plan asks for {plan.kv_dtype}",
            fix="set quant_policy to none",
        )
    device = torch.device("cpu" if plan.device == "cpu" else f"cuda:{plan.devices[0] if plan.devices else 0}")
    if device.type == "cpu":
        torch.set_num_threads(max(plan.threads, 1))
    dtype = _DTYPES[plan.dtype]

    progress("weights", 0.0)
    hf_model = load_model(facts, weights(plan.dtype), dtype, lambda f: progress("weights", f))
    progress("engine", 0.0)
    model = LanguageModel(hf_model.to(device))
    ids = probe_ids(facts.vocab_size, device)
    positions = torch.arange(PROBE_TOKENS, device=device).unsqueeze(0)
    inspection = Inspection(facts.architecture)
    with torch.inference_mode(), marked_masks(), observing(inspection):
        reference = model.hidden(ids, positions)
        vocab_size = model.logits(reference[-1:]).shape[-1]
    shape = inspection.shape(facts.num_layers, plan.block_len)
    inspection.attach()
    check_flow(facts.architecture, model, ids)
    tabulate(hf_model, hf_model.config, plan.session_len, reference.unsqueeze(0))
    for module, _ in inspection.modules:
        fuse_rotation(module, shape.head_dim, dtype)
    fuse(hf_model, lambda f: progress("engine", f))
    shorten_calls(model.backbone.body)
    release_free_heap()
    progress("engine", 1.0)

    progress("kv", 0.0)
    pool = KVPool(shape, plan.num_blocks, dtype, device)
    if plan.block_bytes and plan.block_bytes != pool.block_bytes:
        raise unsupported(
            facts.architecture,
            f"takes {pool.block_bytes} bytes a block of {plan.block_len} tokens, the plan counts {plan.block_bytes}",
        )
    progress("kv", 1.0)

    progress("warmup", 0.0)
    check_paged(facts.architecture, model, pool, ids, reference)
    progress("warmup", 1.0)
    return Loaded(model, pool, vocab_size)


def measured_bytes(device: torch.device) -> int:
    """Anonymous memory of this process, or what the allocator holds on the GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return anonymous_bytes()
