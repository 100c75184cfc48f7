"""The architectures of GGUF files that are read: what each tensor is called in Hugging Face's layout, and its shape.

Names on the left are ggml's (`blk.{i}.attn_q`), on the right Hugging Face's; shapes are named sizes (`sizes` in
gguf_tensors.py gives their numbers). A layout says what a converter did to the values, so that it can be undone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

# Layouts of TensorInfo:
PAIRS = "pairs"  # rows of each head interleaved, as ggml's `llama` rotates neighbouring pairs
PLUS_ONE = "plus_one"  # one more than Hugging Face stores (norms that multiply by 1 + weight)
TRANSPOSED = "transposed"  # the last two dimensions
# Gate and up, which are one tensor of Hugging Face's, whose columns are theirs in turn (joined.py): shapes are of
# each half of it.
ALTERNATE = "alternate"
ALTERNATE_TRANSPOSED = "alternate_transposed"
LAYOUTS = ("", PAIRS, PLUS_ONE, TRANSPOSED, ALTERNATE, ALTERNATE_TRANSPOSED)

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3  # expert_gating_func


@dataclass(frozen=True)
class Part:
    """One tensor of a layer, or of the model where `{i}` isn't in the names."""

    hf: str  # module, without its `ends`; {experts}, {heads}, {kv_heads}: one tensor for each of them
    shape: tuple[str, ...]  # of each Hugging Face tensor, but before a transposition
    bias: str = ""  # "" = none, "yes" = always, else the config key that says it
    layout: str = ""
    bias_layout: str = ""
    when: str = ""  # the config key that must be true for the tensor to be there
    leaf: str = "weight"  # of its name in the file
    ends: tuple[str, str] = (".weight", ".bias")  # of Hugging Face's names


Parts = dict[str, Part]


@dataclass(frozen=True)
class Family:
    architecture: str
    model_type: str
    layer: Parts  # without `blk.{i}.` and without `layer_prefix`
    layer_prefix: str = "model.layers.{i}."
    top: Parts = field(default_factory=dict)
    partial_rope: bool = False  # only some of a head's dimensions may rotate
    scaling: tuple[str, ...] = ("none", "linear", "yarn")  # of the rotary embedding
    gating: int = SOFTMAX  # how experts are weighed


def _top(
    embed: str = "model.embed_tokens", norm: str = "model.norm", norm_bias: str = "", norm_layout: str = ""
) -> Parts:
    return {
        "token_embd": Part(embed, ("vocab", "hidden")),
        "output_norm": Part(norm, ("hidden",), norm_bias, norm_layout),
        "output": Part("lm_head", ("vocab", "hidden"), when="untied"),
    }


def _attention(bias: str = "", o_bias: str = "", layout: str = "") -> Parts:
    return {
        "attn_q": Part("self_attn.q_proj", ("q", "hidden"), bias, layout, layout),
        "attn_k": Part("self_attn.k_proj", ("kv", "hidden"), bias, layout, layout),
        "attn_v": Part("self_attn.v_proj", ("kv", "hidden"), bias),
        "attn_output": Part("self_attn.o_proj", ("hidden", "q"), o_bias),
    }


def _norms(bias: str = "", layout: str = "") -> Parts:
    return {
        "attn_norm": Part("input_layernorm", ("hidden",), bias, layout),
        "ffn_norm": Part("post_attention_layernorm", ("hidden",), bias, layout),
    }


def _head_norms(layout: str = "") -> Parts:
    return {
        "attn_q_norm": Part("self_attn.q_norm", ("head",), layout=layout),
        "attn_k_norm": Part("self_attn.k_norm", ("head",), layout=layout),
    }


def _mlp(bias: str = "") -> Parts:
    return {
        "ffn_gate": Part("mlp.gate_proj", ("inner", "hidden"), bias),
        "ffn_up": Part("mlp.up_proj", ("inner", "hidden"), bias),
        "ffn_down": Part("mlp.down_proj", ("hidden", "inner"), bias),
    }


def _experts(prefix: str, gate: str, up: str, down: str) -> Parts:
    return {
        "ffn_gate_inp": Part(f"{prefix}.gate", ("experts", "hidden")),
        "ffn_gate_exps": Part(f"{prefix}.experts.{{experts}}.{gate}", ("expert_inner", "hidden")),
        "ffn_up_exps": Part(f"{prefix}.experts.{{experts}}.{up}", ("expert_inner", "hidden")),
        "ffn_down_exps": Part(f"{prefix}.experts.{{experts}}.{down}", ("hidden", "expert_inner")),
    }


def _biased_experts() -> Parts:
    """Bare parameters that hold the experts of a layer, transposed, gate and up in one."""
    up = Part(
        "mlp.experts.up_proj",
        ("experts", "expert_inner", "hidden"),
        "yes",
        ALTERNATE_TRANSPOSED,
        ALTERNATE,
        ends=("", "_bias"),
    )
    down = replace(
        up,
        hf="mlp.experts.down_proj",
        shape=("experts", "hidden", "expert_inner"),
        layout=TRANSPOSED,
        bias_layout="",
    )
    return {
        "ffn_gate_inp": Part("mlp.router", ("experts", "hidden"), "yes"),
        "ffn_gate_exps": replace(up, hf="mlp.experts.gate_proj"),
        "ffn_up_exps": up,
        "ffn_down_exps": down,
    }


_MOE = _experts("mlp", "gate_proj", "up_proj", "down_proj")
_LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    {**_attention("attention_bias", "attention_bias", PAIRS), **_norms(), **_mlp("mlp_bias")},
    top=_top(),
    scaling=("none", "linear", "yarn", "llama3"),
)
_QWEN2 = Family("Qwen2ForCausalLM", "qwen2", {**_attention("yes"), **_norms(), **_mlp()}, top=_top())
_GEMMA = Family(
    "GemmaForCausalLM",
    "gemma",
    {**_attention(), **_norms(layout=PLUS_ONE), **_mlp()},
    top=_top(norm_layout=PLUS_ONE),
)
_GEMMA2_NORMS: Parts = {
    "attn_norm": Part("input_layernorm", ("hidden",), layout=PLUS_ONE),
    "post_attention_norm": Part("post_attention_layernorm", ("hidden",), layout=PLUS_ONE),
    "ffn_norm": Part("pre_feedforward_layernorm", ("hidden",), layout=PLUS_ONE),
    "post_ffw_norm": Part("post_feedforward_layernorm", ("hidden",), layout=PLUS_ONE),
}

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    # ggml's `llama` with experts; it has no name of its own there
    "llama+experts": replace(
        _LLAMA,
        architecture="MixtralForCausalLM",
        model_type="mixtral",
        layer={**_attention(layout=PAIRS), **_norms(), **_experts("block_sparse_moe", "w1", "w3", "w2")},
        scaling=("none", "linear", "yarn"),
    ),
    "qwen2": _QWEN2,
    "qwen2moe": replace(
        _QWEN2,
        architecture="Qwen2MoeForCausalLM",
        model_type="qwen2_moe",
        layer={
            **_attention("yes"),
            **_norms(),
            **_MOE,
            "ffn_gate_inp_shexp": Part("mlp.shared_expert_gate", ("one", "hidden")),
            "ffn_gate_shexp": Part("mlp.shared_expert.gate_proj", ("shared_inner", "hidden")),
            "ffn_up_shexp": Part("mlp.shared_expert.up_proj", ("shared_inner", "hidden")),
            "ffn_down_shexp": Part("mlp.shared_expert.down_proj", ("hidden", "shared_inner")),
        },
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", "qwen3", {**_attention(), **_head_norms(), **_norms(), **_mlp()}, top=_top()
    ),
    "qwen3moe": Family(
        "Qwen3MoeForCausalLM", "qwen3_moe", {**_attention(), **_head_norms(), **_norms(), **_MOE}, top=_top()
    ),
    "gpt-oss": Family(
        "GptOssForCausalLM",
        "gpt_oss",
        {
            **_attention("attention_bias", "attention_bias"),
            "attn_sinks": Part("self_attn.sinks", ("heads",), ends=("", "")),
            "attn_norm": Part("input_layernorm", ("hidden",)),
            "post_attention_norm": Part("post_attention_layernorm", ("hidden",)),
            **_biased_experts(),
        },
        top=_top(),
        scaling=("none", "yarn"),
        gating=SOFTMAX_OF_CHOSEN,
    ),
    "minimax-m2": Family(
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        {
            **_attention(),
            "attn_q_norm": Part("self_attn.q_norm", ("q",)),
            "attn_k_norm": Part("self_attn.k_norm", ("kv",)),
            **_norms(),
            **_experts("block_sparse_moe", "w1", "w3", "w2"),
            "exp_probs_b": Part(
                "block_sparse_moe.e_score_correction_bias", ("experts",), leaf="bias", ends=("", "")
            ),
        },
        top=_top(),
        partial_rope=True,
        scaling=("none",),
        gating=SIGMOID,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        "phi3",
        {
            **_norms(),
            "attn_qkv": Part("self_attn.qkv_proj", ("qkv", "hidden")),
            "attn_output": Part("self_attn.o_proj", ("hidden", "q")),
            "ffn_up": Part("mlp.gate_up_proj", ("two_inner", "hidden")),
            "ffn_down": Part("mlp.down_proj", ("hidden", "inner")),
        },
        top=_top(),
        partial_rope=True,
        scaling=("none", "longrope"),
    ),
    "gemma": _GEMMA,
    "gemma2": replace(
        _GEMMA,
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        layer={**_attention(), **_GEMMA2_NORMS, **_mlp()},
    ),
    "gemma3": replace(
        _GEMMA,
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        layer={**_attention(), **_head_norms(PLUS_ONE), **_GEMMA2_NORMS, **_mlp()},
        scaling=("none", "linear"),
    ),
    "starcoder2": Family(
        "Starcoder2ForCausalLM",
        "starcoder2",
        {
            **_attention("use_bias", "use_bias"),
            **_norms("yes"),
            "ffn_up": Part("mlp.c_fc", ("inner", "hidden"), "use_bias"),
            "ffn_down": Part("mlp.c_proj", ("hidden", "inner"), "use_bias"),
        },
        top=_top(norm_bias="yes"),
    ),
    "stablelm": Family(
        "StableLmForCausalLM",
        "stablelm",
        {
            **_attention("use_qkv_bias"),
            "attn_norm": Part("input_layernorm", ("hidden",), "yes"),
            "ffn_norm": Part("post_attention_layernorm", ("hidden",), "yes", when="sequential"),
            "attn_q_norm": Part("self_attn.q_layernorm.norms.{heads}", ("head",), when="qk_layernorm"),
            "attn_k_norm": Part("self_attn.k_layernorm.norms.{kv_heads}", ("head",), when="qk_layernorm"),
            **_mlp(),
        },
        top=_top(norm_bias="yes"),
        partial_rope=True,
        scaling=("none",),
    ),
    "nemotron": Family(
        "NemotronForCausalLM",
        "nemotron",
        {
            **_attention("attention_bias", "attention_bias"),
            **_norms("yes", PLUS_ONE),
            "ffn_up": Part("mlp.up_proj", ("inner", "hidden"), "mlp_bias"),
            "ffn_down": Part("mlp.down_proj", ("hidden", "inner"), "mlp_bias"),
        },
        top=_top(norm_bias="yes", norm_layout=PLUS_ONE),
        partial_rope=True,
        scaling=("none", "linear"),
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "gpt2",
        {
            "attn_norm": Part("ln_1", ("hidden",), "yes"),
            "attn_qkv": Part("attn.c_attn", ("qkv", "hidden"), "yes", TRANSPOSED),
            "attn_output": Part("attn.c_proj", ("hidden", "hidden"), "yes", TRANSPOSED),
            "ffn_norm": Part("ln_2", ("hidden",), "yes"),
            "ffn_up": Part("mlp.c_fc", ("inner", "hidden"), "yes", TRANSPOSED),
            "ffn_down": Part("mlp.c_proj", ("hidden", "inner"), "yes", TRANSPOSED),
        },
        layer_prefix="transformer.h.{i}.",
        top={
            **_top("transformer.wte", "transformer.ln_f", "yes"),
            "position_embd": Part("transformer.wpe", ("positions", "hidden")),
        },
        scaling=("none",),
    ),
}

_STATE = "keep a state from token to token, which no engine here holds"
_ENCODER = "it has an encoder, and the engines run decoders alone"
# Architectures that no engine here runs, in whatever format their weights are, and why.
REFUSED: dict[str, str] = {
    "bloom": "its positions are biases on attention scores (ALiBi), in attention code that can't read paged memory",
    "deci": "its layers differ in their heads, transformers has no class for it, and a model's own code is never run",
    "falcon": "transformers' class for it has attention code of its own, which can't read paged memory",
    "gemma4": "its layers have heads of two sizes, and no engine here keeps keys and values of two sizes",
    "lfm2": f"its convolutions {_STATE}",
    "lfm2moe": f"its convolutions {_STATE}",
    "mamba": f"it has no attention: its layers {_STATE}",
    "mamba2": f"it has no attention: its layers {_STATE}",
    "t5": _ENCODER,
    "t5encoder": _ENCODER,
    "umt5": _ENCODER,
}
