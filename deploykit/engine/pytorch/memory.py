"""What the pytorch engine needs in bytes, and what it can't run: from a checkpoint's facts alone, without torch.

The planner calls this before anything is loaded; `docs/engines.md` says how the constants were measured.
"""

from __future__ import annotations

from deploykit.checkpoint.facts import Facts
from deploykit.engine.pytorch.architectures import ARCHITECTURES, OWN_ATTENTION
from deploykit.plan.types import MemoryItem

MIB = 1 << 20
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# Anonymous memory of a process that has imported torch and transformers' model code, with the allocator's slack
# and the thread stacks after a warm-up (measured: docs/engines.md, "Memory").
_RUNTIME_CPU = 300 * MIB
# On a GPU: the CUDA context and cuBLAS's workspaces.
_RUNTIME_CUDA = 700 * MIB

# Layer kinds (config `layer_types`) that paged attention doesn't express yet.
_FULL_KINDS = frozenset({"full_attention", "sliding_attention", "attention"})


def supported(facts: Facts) -> str | None:
    """Why this engine can't run the checkpoint; None where nothing in the facts speaks against it."""
    if facts.quant_method not in (None, "gguf"):
        return f"weights quantized with {facts.quantized} are not supported by the pytorch engine yet"
    if not facts.architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return f"{facts.architecture} is no text generation model"
    if facts.architecture not in ARCHITECTURES:
        return f"transformers has no class {facts.architecture}, and a checkpoint's own code is never run"
    if facts.architecture in OWN_ATTENTION:
        return f"transformers' {facts.architecture} has attention code of its own, which paged attention can't replace"
    config = facts.config
    for kind in config.get("layer_types") or ():
        if kind not in _FULL_KINDS:
            return f"layers of kind {kind!r} keep a state that the pytorch engine doesn't implement yet"
    if config.get("kv_lora_rank"):
        return "latent attention (MLA) is not implemented in the pytorch engine yet"
    if config.get("use_logn_attn"):
        return "log-n attention scaling (use_logn_attn) is not implemented in the pytorch engine"
    if config.get("is_encoder_decoder"):
        return "encoder-decoder models are not implemented in the pytorch engine"
    return None


def estimate_memory(
    facts: Facts,
    *,
    dtype: str,
    device: str,
    max_prefill_tokens: int,
    max_batch_size: int,
    session_len: int,
    kv_bytes: int,
) -> tuple[MemoryItem, ...]:
    """The memory table of a deployment: bytes of anonymous memory on a CPU, of device memory on a GPU.

    `dtype` is the dtype of weights and activations; `kv_bytes` is the whole page pool (the planner sizes it).
    """
    size = DTYPE_BYTES[dtype]
    embedding = facts.vocab_size * facts.hidden_size
    lm_head = 0 if facts.tie_word_embeddings else embedding
    total = facts.num_parameters
    has_head = any(t.name.endswith("lm_head.weight") for t in facts.tensors)
    if facts.tie_word_embeddings and has_head:
        total -= embedding
    body = max(total - embedding - lm_head, 0)
    # A tied table exists twice on a CPU: rows for the look-up, packed panels for the logits.
    tables = embedding * (2 if device == "cpu" or not facts.tie_word_embeddings else 1)
    return (
        MemoryItem("weights", body * size, f"{body / 1e6:.0f}M parameters in {dtype}, packed once"),
        MemoryItem("embeddings", tables * size, "token table and output head"),
        MemoryItem("kv", kv_bytes, "page pool, all layers"),
        MemoryItem(
            "activations",
            _activation_bytes(facts, size, max_prefill_tokens, session_len),
            f"one step of {max_prefill_tokens} tokens",
        ),
        MemoryItem("logits", _logit_bytes(facts, max_batch_size), f"float32, {max_batch_size} rows"),
        MemoryItem("token pool", max_batch_size * session_len * 8, "token ids and block tables of every row"),
        MemoryItem("runtime", _RUNTIME_CPU if device == "cpu" else _RUNTIME_CUDA, "torch, transformers"),
    )


def _activation_bytes(facts: Facts, size: int, tokens: int, session_len: int) -> int:
    """Peak of the temporaries alive at once in one layer, plus the gathered keys and values of one row."""
    heads = (facts.num_heads + 2 * facts.num_kv_heads) * facts.head_dim
    per_token = 4 * facts.hidden_size + 2 * heads + 3 * facts.intermediate_size
    gathered = 2 * session_len * facts.num_heads * facts.head_dim
    return (tokens * per_token + gathered) * size


def _logit_bytes(facts: Facts, rows: int) -> int:
    """Logits in the model's dtype, in float32, and one processed copy."""
    return rows * facts.vocab_size * 3 * 4
