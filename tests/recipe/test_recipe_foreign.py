"""The table of other servers' names: whole, true of our schema, and what the diagnostics say."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import deploykit
from deploykit.cli.app import COMMANDS as OURS
from deploykit.recipe.coming_from import ours
from deploykit.recipe.foreign import FOREIGN_KEYS, FOREIGN_VALUES, TABLES, Foreign, meanings
from deploykit.recipe.foreign.outside import COMMANDS, ENVIRONMENT, PYTHON
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
        for command in re.findall(r"`deploykit ([a-z]+)", f"{row.here} {row.note}"):
            assert command in OURS
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
