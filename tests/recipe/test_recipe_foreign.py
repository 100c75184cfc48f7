"""The table of other servers' names: whole, true of our schema, and what the diagnostics say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deploykit
from deploykit.cli.app import COMMANDS as OURS
from deploykit.cli.app import main
from deploykit.recipe import RecipeError, recipe_from_data
from deploykit.recipe.coming_from import ours
from deploykit.recipe.foreign import (
    COMMANDS,
    ENVIRONMENT,
    FOREIGN_KEYS,
    FOREIGN_VALUES,
    PYTHON,
    TABLES,
    Foreign,
    attribute,
    command,
    environment,
    meanings,
    option,
)
from deploykit.recipe.honoured import HONOURED
from deploykit.recipe.suggest import for_key, snake_case
from deploykit.recipe.tree import lookup, sections_by_key

ROOT = Path(__file__).parents[2]
ENTRIES = [entry for table in TABLES.values() for entry in table]
IDS = [f"{e.owner}-{e.name}" for e in ENTRIES]
NOTHING = {"", "none", "auto", "null", '""', "[]", "{}"}
UNKNOWN = re.compile(r"by the|the model's")

# What anybody who comes from one of them will have in a file.
_KNOWN = """
gpu_memory_utilization cache_max_entry_count max_model_len num_ctx tensor_parallel_size mem_fraction_static
session_len quant_policy max_num_seqs max_num_batched_tokens enforce_eager kv_cache_dtype model_format
rope_scaling_factor dtype cache_block_seq_len enable_prefix_caching max_prefill_token_num num_tokens_per_iter
max_prefill_iters use_logn_attn num_cpu_blocks num_gpu_blocks adapters download_dir revision eviction_type
max_batch_size vision_max_batch_size tp trust_remote_code swap_space block_size quantization served_model_name
enable_lora chat_template api_key context_length tp_size chunked_prefill_size max_running_requests
disable_radix_cache page_size schedule_policy num_predict repeat_penalty num_thread num_gpu n_ctx n_gpu_layers
cache_type_k num_shard max_total_tokens max_input_tokens max_batch_prefill_tokens max_concurrent_requests
cuda_memory_fraction
"""
MUST_KNOW = re.findall(r"\w+", _KNOWN)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_an_entry_is_true_of_the_schema(entry: Foreign) -> None:
    assert entry.name == snake_case(entry.name)
    if entry.here is None:
        assert entry.note, "says why there is none"
        return
    node = lookup(tuple(entry.here.split(".")))
    assert node is not None
    if entry.theirs in NOTHING or UNKNOWN.search(entry.theirs):
        return
    here = ours(entry.here)
    same = here == entry.theirs or (here.endswith(".0") and here[:-2] == entry.theirs)
    assert same or entry.why, f"ours is {here}, theirs {entry.theirs}: why?"


def test_no_server_has_a_name_twice() -> None:
    names = [(e.owner, e.name) for e in ENTRIES]
    assert len(set(names)) == len(names)
    assert {e.owner for e in ENTRIES} >= {"vLLM", "SGLang", "LMDeploy", "Ollama", "TGI", "llama.cpp"}


@pytest.mark.parametrize("name", MUST_KNOW)
def test_a_well_known_name_is_known(name: str) -> None:
    assert name in {e.name for e in ENTRIES}
    if not meanings(name):  # it is ours too: only its section may be another
        assert name in sections_by_key()
        return
    help = for_key(("server", name), ["host", "port"]).help
    assert any((e.here or e.note) in help for e in meanings(name))
    assert name in FOREIGN_KEYS


@pytest.mark.parametrize(
    "entry",
    [e for e in ENTRIES if e.is_synonym],
    ids=[f"{e.owner}-{e.name}" for e in ENTRIES if e.is_synonym],
)
def test_a_synonym_in_its_section_is_a_rename(entry: Foreign) -> None:
    *section, name = (entry.here or "").split(".")
    node = lookup(tuple(section))
    assert node is not None
    if not meanings(entry.name):
        return
    found = for_key((*section, entry.name), list(node.keys))
    same = {(e.here, e.is_synonym) for e in meanings(entry.name)} == {(entry.here, True)}
    assert found.rename == (name if same else None)
    assert for_key(("chat", "fields", entry.name), ["user"]).rename is None


def test_values_of_other_servers_become_values_of_ours() -> None:
    for key, words in FOREIGN_VALUES.items():
        node = lookup(tuple(key.split(".")))
        assert node is not None
        assert set(words.values()) <= set(node.choices), key
        assert not set(words) & {c for c in node.choices if isinstance(c, str)}, key


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kv_cache_dtype", "fp8_e5m2", "write `quant_policy: fp8`"),
        ("disable_radix_cache", True, "write `prefix_caching: false`"),
        ("served_model_name", "a, b", 'write `model_names: ["a, b"]`'),
        ("hf_chat_template_name", "tool_use", "write `template: auto:tool_use`"),
        ("backend", "turbomind", None),  # ours as well
        ("max_num_seqs", 4, None),
        ("kv_cache_dtype", "nvfp4", None),
        ("api_key", "sk-123", None),
    ],
)
def test_a_value_that_is_written_otherwise_here_is_told(name: str, value: object, words: str | None) -> None:
    help = for_key(("server", name), ["host"], value).help
    assert (words in help) if words else ("; write `" not in help)
    assert "sk-123" not in help


def test_what_is_outside_of_recipes_is_there() -> None:
    for row in (*COMMANDS, *PYTHON, *ENVIRONMENT):
        assert row.here or row.note
        for name in re.findall(r"`deploykit ([a-z]+)", f"{row.here} {row.note}"):
            assert name in OURS
        for name in re.findall(r"`deploykit\.([A-Za-z]+)`", row.here):
            assert hasattr(deploykit, name)
        for key in re.findall(r"`((?:engine|server|chat|model)\.[a-z_.]+)", row.here):
            assert lookup(tuple(key.split("."))) is not None, key
    source = "".join(
        (Path(folder) / file).read_text()
        for folder, _, files in os.walk(ROOT / "deploykit")
        for file in files
        if file.endswith(".py") and "foreign" not in folder
    )
    for row in ENVIRONMENT:
        for name in re.findall(r"`(DEPLOYKIT_[A-Z_]+)", f"{row.here} {row.note}"):
            assert f'"{name}"' in source, name


# ---------------------------------------------------------------- in place


@pytest.mark.parametrize(
    ("line", "words", "ours_line"),
    [
        ("serve", "`vllm serve`, `sglang serve`, `ollama serve`", None),
        ("serve recipe.yaml", "here it is `deploykit up RECIPE`", "deploykit up recipe.yaml"),
        (
            "serve api_server a/b --tp 2 --cache-max-entry-count 0.5 --backend turbomind --trust-remote-code",
            "`lmdeploy serve api_server` is LMDeploy's",
            "deploykit up a/b --set engine.tp=2 --set engine.cache.ratio=0.5 --set engine.backend=native"
            "  # without --trust-remote-code",
        ),
        (
            "lmdeploy serve api_server a/b --num-tokens-per-iter 0 --max-prefill-iters 4",
            "LMDeploy's",
            "deploykit up a/b --set engine.max_step_tokens=auto --set engine.max_prefill_chunks=4",
        ),
        (
            "serve Qwen/Qwen3-8B --max-model-len=8192 --no-enable-prefix-caching",
            "`vllm serve` is vLLM's",
            "deploykit up Qwen/Qwen3-8B --set engine.session_len=8192 --set engine.cache.prefix_caching=false",
        ),
        (
            "sglang.launch_server --model-path a/b --context-length 10 --served-model-name x",
            "`python -m sglang.launch_server` is SGLang's",
            "deploykit up a/b --set engine.session_len=10 --set 'server.model_names=[x]'",
        ),
        (
            "text-generation-launcher --model-id a/b --num-shard 2",
            "TGI's",
            "deploykit up a/b --set engine.tp=2",
        ),
        ("run llama3", "`ollama run` is Ollama's: here it is `deploykit chat RECIPE`", None),
        ("run hf.co/a/b-GGUF:Q4_K_M", "`ollama run`", "deploykit chat a/b-GGUF"),
        ("list", "`ollama list` is Ollama's: here it is `deploykit cache ls`", None),
        ("rm a/b", "`ollama rm`", "deploykit cache rm a/b"),
        ("stop x/y", "`deploykit down NAME`", "deploykit down x/y"),
        ("create -f Modelfile", "a recipe", None),
        ("check_env", "`deploykit doctor`", None),
        ("lite auto_awq a/b", "`lmdeploy lite auto_awq` is LMDeploy's: there is none here", None),
        ("serve proxy", "load balancer", None),
        ("lmdeploy", "`lmdeploy serve api_server`", None),
        ("collect-env", "`deploykit doctor --json`", None),
        ("bench_serving", "`deploykit bench URL`", None),
    ],
)
def test_a_command_of_another_server_is_told_in_ours(line: str, words: str, ours_line: str | None) -> None:
    hint = command(line.split())
    assert hint is not None
    assert words in hint.text
    assert hint.line == ours_line


def test_our_own_commands_and_nonsense_are_no_other_servers() -> None:
    for name in OURS:
        hint = command([name])
        assert hint is None or name in ("convert", "chat", "bench", "pull", "ps", "ls", "cp", "show"), name
    assert command(["xyz"]) is None
    assert command([""]) is None


def test_the_command_line_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    shown = (
        (ROOT / "docs" / "coming-from.md").read_text().split("```console\n$ deploykit ")[1].split("```")[0]
    )
    line, _, expected = shown.partition("\n")
    assert main(line.split()) == 2
    assert capsys.readouterr().err == expected
    assert main(["up", "a/b", "--max-model-len", "5"]) == 2
    assert "option of vLLM; here it is --set engine.session_len=VALUE" in capsys.readouterr().err
    assert main(["up", "a/b", "--no-such-thing"]) == 2
    assert "fix" not in capsys.readouterr().err


def test_an_option_of_another_server_is_told() -> None:
    assert option("--enable-lora") is not None
    assert "merge them into the weights" in str(option("--enable-lora"))
    assert option("--xyz") is None
    assert option("-x") is None


@pytest.mark.parametrize(
    "key",
    ["engine.max_model_len", "max_model_len", "server.cache_max_entry_count", "model.tensor_parallel_size"],
)
def test_a_key_of_another_server_in_set_is_told(key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_data({"version": 1, "model": {"id": "a/b"}}, "x", [f"{key}=2"])
    (problem,) = caught.value.diagnostics
    assert problem.code == "unknown-key"
    assert re.search(r"here it is `engine\.", problem.help or "")


@pytest.mark.parametrize(
    "name", ["TurbomindEngineConfig", "PytorchEngineConfig", "LLM", "SamplingParams", "Engine"]
)
def test_a_python_name_of_another_server_is_an_import_error_with_the_name_here(name: str) -> None:
    code = f"from deploykit import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: cannot import name '{name}' from 'deploykit'")
    found = re.search(r"here it is `deploykit\.(\w+)`", last)
    assert found is not None
    assert hasattr(deploykit, found[1])


def test_other_names_that_are_missing_stay_attribute_errors() -> None:
    assert not hasattr(deploykit, "no_such_name")
    assert not hasattr(deploykit, "__wrapped__")
    assert attribute("no_such_name") is None
    with pytest.raises(AttributeError, match="no attribute 'Pipline'"):
        _ = deploykit.Pipline


def test_variables_of_other_servers_are_found_and_their_values_are_not_told() -> None:
    found = environment(
        {
            "LMDEPLOY_USE_MODELSCOPE": "True",
            "VLLM_API_KEY": "sk-123",
            "VLLM_SOMETHING_NEW": "1",
            "OLLAMA_HOST": "0.0.0.0",
            "HF_TOKEN": "hf_123",
            "CUDA_VISIBLE_DEVICES": "0",
            "MODEL_ID": "a/b",
            "HOME": "/root",
        }
    )
    assert [v.name for v in found] == [
        "LMDEPLOY_USE_MODELSCOPE",
        "OLLAMA_HOST",
        "VLLM_API_KEY",
        "VLLM_SOMETHING_NEW",
    ]
    texts = [v.text for v in found]
    assert texts[0] == "LMDEPLOY_USE_MODELSCOPE is LMDeploy's: here it is `DEPLOYKIT_USE_MODELSCOPE`"
    assert texts[3] == "VLLM_SOMETHING_NEW is vLLM's: there is none here: nothing here reads it"
    assert not any("123" in text for text in texts)


# ---------------------------------------------------------------- LMDeploy's engine options

# Every field of its two engine configs, of VisionConfig and GenerationConfig, and every engine flag of its commands.
_LMDEPLOY = """
dtype model_format tp dp cp ep device_num attn_tp_size attn_cp_size attn_dp_size mlp_tp_size mlp_dp_size outer_dp_size
nnodes node_rank dist_init_addr devices session_len max_batch_size cache_max_entry_count cache_chunk_size
cache_block_seq_len enable_prefix_caching cache_checkpoint_interval cache_prompt cache_prompt_boundary_skip
cache_generation quant_policy rope_scaling_factor use_logn_attn download_dir revision max_prefill_token_num
num_tokens_per_iter max_prefill_iters async_ empty_init language_model_only communicator hf_overrides enable_metrics
dp_rank moe_tp_size prefill_interval block_size kernel_block_size num_cpu_blocks num_gpu_blocks adapters
cudagraph_capture_batch_sizes thread_safe prefix_cache_state_budget prefix_cache_decode_state_interval device_type
eager_mode custom_module_map distributed_executor_backend enable_microbatch enable_eplb enable_mp_engine
mp_engine_backend logprobs_mode enable_return_routed_experts enable_transfer_obj_ref dllm_block_length
dllm_unmasking_strategy dllm_denoising_steps dllm_confidence_threshold role migration_backend eviction_type
vision_max_batch_size trust_remote_code backend speculative_algorithm speculative_draft_model
speculative_num_draft_tokens chat_template model_path disable_metrics
"""


@pytest.mark.parametrize("name", _LMDEPLOY.split())
def test_every_engine_option_of_lmdeploy_has_a_home_or_a_reason(name: str) -> None:
    entry = next(e for e in ENTRIES if (e.owner, e.name) == ("LMDeploy", name))
    assert entry.here or len(entry.note) > 15
    if entry.here is not None and entry.here.startswith("engine."):
        assert HONOURED[entry.here]
