"""The suite of five workloads: prompts, random weights, rooflines, and a run of the suite on the fake runner."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from deploykit.bench import card, dummy, dummy_copy, gpu_workloads, host_overhead, roofline, suite, tables
from deploykit.bench.engine_run import Run
from deploykit.bench.gpu_workloads import IdRequest
from deploykit.bench.report import MachineFacts, Report, make_report, read_report, write_report
from deploykit.bench.suite_report import Card, Suite
from deploykit.checkpoint import read_facts
from deploykit.checkpoint.described import read_described
from deploykit.checkpoint.tokenizer import ensure_tokenizer, load_tokenizer
from deploykit.errors import ConfigError
from deploykit.hardware.machine import GPU

RECIPES = Path(__file__).parents[2] / "recipes"
H100 = Card(
    name="NVIDIA H100 80GB HBM3",
    device="cuda",
    driver="580",
    cuda_driver="13.0",
    torch_cuda="13.0",
    nvcc="13.0.88",
    read_gbytes_per_s=3160.0,
    copy_gbytes_per_s=3020.0,
    matrix_tflops=760.0,
    source="test",
)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_TESTING", "1")
    monkeypatch.setenv("DEPLOYKIT_RUNNER", "fake")


@pytest.fixture(scope="module", params=dummy.WEIGHTS)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dummy") / request.param
    return request.param, dummy.write_dummy_checkpoint(folder, dummy.SHAPES["tiny"], request.param)


# ---------------------------------------------------------------- workloads


def test_prompts_are_the_definitions():
    made = gpu_workloads.make_workloads()
    lengths = gpu_workloads.sharegpt_lengths()
    assert list(made) == list(gpu_workloads.NAMES)
    # The peers' figures were measured on these ids.
    assert made["decode_bs1"][0].prompt[:4] == [21322, 9986, 25975, 42759]
    assert made["prefill_4k"][0].prompt[:3] == [15619, 16339, 29312]
    assert made["sharegpt_c256"][-1].prompt[-3:] == [15884, 31861, 5020]
    shapes = [[(128, 512)], [(128, 256)] * 16, [(128, 256)] * 64, [(4096, 1)] * 8, lengths]
    rng = random.Random(7)
    for workload, shape in zip(made.values(), shapes, strict=True):
        drawn = [[rng.randrange(100, 48000) for _ in range(p)] for p, _ in shape]
        assert digest(r.prompt for r in workload) == digest(drawn)
        assert [r.output_len for r in workload] == [o for _, o in shape]


def digest(prompts):
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


def test_the_length_table():
    lengths = gpu_workloads.sharegpt_lengths()
    assert lengths[:3] == [(61, 46), (49, 229), (27, 16)]
    assert (len(lengths), sum(p for p, _ in lengths), sum(o for _, o in lengths)) == (1000, 227200, 201800)


def test_some_workloads_have_the_prompts_that_they_have_among_all():
    assert (
        gpu_workloads.chosen(["decode_bs16"])["decode_bs16"] == gpu_workloads.make_workloads()["decode_bs16"]
    )
    with pytest.raises(ConfigError, match="no workload 'decode_bs2'"):
        gpu_workloads.chosen(["decode_bs2"])


def test_what_a_figure_counts():
    workload = [IdRequest([5] * 10, 3), IdRequest([5] * 6, 1)]
    assert [gpu_workloads.amount_of(n, workload) for n in ("decode_bs1", "prefill_4k", "sharegpt_c256")] == [
        4,
        16,
        2,
    ]
    assert gpu_workloads.repeats_of("decode_bs1", None) == 3
    assert gpu_workloads.repeats_of("sharegpt_c256", None) == 1
    assert gpu_workloads.repeats_of("sharegpt_c256", 2) == 2


# ---------------------------------------------------------------- random weights


def test_random_weights_are_a_checkpoint_that_the_native_engine_takes(checkpoint):
    from deploykit.engine.native.memory import supported

    weights, folder = checkpoint
    facts = read_facts(folder)
    assert (facts.hidden_size, facts.num_layers, facts.vocab_size) == (128, 2, 48128)
    assert facts.quant_method == (None if weights == "bf16" else "awq")
    assert supported(facts) is None
    tokenizer = load_tokenizer(ensure_tokenizer(facts, folder).tokenizer_json)
    assert tokenizer.decode([300, 48127]) == "<300><48127>"
    assert len(tokenizer.encode("héllo").ids) == 6


def test_random_weights_are_of_a_models_size(checkpoint):
    weights, folder = checkpoint
    facts = read_facts(folder)

    def values(name):
        tensor = next(t for t in facts.tensors if t.name == name)
        raw = (folder / tensor.file).read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        if tensor.dtype == "int32":
            return np.frombuffer(raw, dtype=np.uint32).reshape(tensor.shape)
        if tensor.dtype == "float16":
            return np.frombuffer(raw, dtype=np.float16).astype(np.float32).reshape(tensor.shape)
        words = np.frombuffer(raw, dtype=np.uint16).astype(np.uint32) << 16
        return words.view(np.float32).reshape(tensor.shape)

    assert (values("model.norm.weight") == 1).all()
    head, embedding = values("lm_head.weight"), values("model.embed_tokens.weight")
    assert head.std() == pytest.approx(0.02, rel=0.02)
    assert not (head == embedding).all()
    up = "model.layers.{}.mlp.up_proj"
    if weights == "bf16":
        first, second = (values(f"{up.format(i)}.weight") for i in range(2))
    else:
        nibbles = values(f"{up.format(0)}.qweight")[..., None] >> np.arange(0, 32, 4) & 15
        assert (values(f"{up.format(0)}.scales").shape, nibbles.shape) == ((1, 256), (128, 32, 8))
        assert nibbles.std() * values(f"{up.format(0)}.scales").mean() == pytest.approx(0.02, rel=0.1)
        first, second = (values(f"{up.format(i)}.qweight") for i in range(2))
    assert not (first == second).all()


def test_a_copy_has_every_tensor_of_the_original_and_none_of_its_values(checkpoint, tmp_path):
    _, folder = checkpoint
    facts = read_facts(folder)
    copy = read_facts(dummy_copy.write_dummy_copy(tmp_path / "copy", facts))

    def shapes(of):
        return {t.name: (t.dtype, t.shape) for t in of.tensors}

    assert shapes(copy) == shapes(facts)
    assert (copy.quant_method, copy.config["torch_dtype"]) == (
        facts.quant_method,
        facts.config["torch_dtype"],
    )
    norm = next(t for t in copy.tensors if t.name == "model.norm.weight")
    raw = copy.path_of(norm.file).read_bytes()[norm.offset :][: norm.nbytes]
    assert len(set(np.frombuffer(raw, dtype=np.uint16).tolist())) == 1


def test_a_described_gptq_checkpoint_is_copied_in_the_order_of_its_groups(tmp_path):
    linear = "model.layers.{0-1}.self_attn.q_proj."
    described = {
        "model": "someone/tiny-GPTQ",
        "chat_template": None,
        "config": dict(dummy.SHAPES["tiny"])
        | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}},
        "tensors": {
            "model.embed_tokens.weight": [[48128, 128], "float16"],
            "model.norm.weight": [[128], "float32"],
            linear + "qweight": [[16, 128], "int32"],
            linear + "qzeros": [[2, 16], "int32"],
            linear + "scales": [[2, 128], "float16"],
            linear + "g_idx": [[128], "int32"],
        },
    }
    (tmp_path / "facts.json").write_text(json.dumps(described))
    copy = read_facts(dummy_copy.write_dummy_copy(tmp_path / "m", read_described(tmp_path / "facts.json")))

    def bytes_of(name):
        tensor = next(t for t in copy.tensors if t.name == name)
        return copy.path_of(tensor.file).read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]

    order = np.frombuffer(bytes_of("model.layers.1.self_attn.q_proj.g_idx"), dtype=np.int32)
    assert order.tolist() == [0] * 64 + [1] * 64
    assert (np.frombuffer(bytes_of("model.norm.weight"), dtype=np.float32) == 1).all()
    scales = np.frombuffer(bytes_of("model.layers.0.self_attn.q_proj.scales"), dtype=np.float16)
    assert ((scales > 0) & np.isfinite(scales)).all()


def test_what_random_weights_are_not_made_of_is_refused(tmp_path):
    facts = read_described(RECIPES / "facts" / "deepseek-v3.json")
    with pytest.raises(ConfigError, match="random weights aren't made") as refused:
        dummy_copy.write_dummy_copy(tmp_path / "m", facts)
    assert "--load-format auto" in (refused.value.fix or "")
    assert not (tmp_path / "m").exists()


def test_a_buffer_that_is_shorter_than_the_weights_goes_round(tmp_path, monkeypatch):
    monkeypatch.setattr(dummy, "BUFFER_BYTES", 1 << 16)
    monkeypatch.setattr(dummy, "SHARD_BYTES", 6 << 20)
    folder = dummy.write_dummy_checkpoint(tmp_path / "m", dummy.SHAPES["tiny"], "bf16")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert read_facts(folder).num_parameters == 2 * 48128 * 128 + 2 * (2 * 128 + 163840 - 16384) + 128


def test_the_large_shape_has_the_parameters_of_its_name():
    tensors = list(dummy._tensors(dummy.SHAPES["llama-3-8b"], "bf16"))
    assert sum(math.prod(t.shape) for t in tensors) == 8_030_261_248


def test_the_shapes_with_experts_have_the_parameters_of_their_names():
    def parameters(shape):
        return sum(math.prod(t.shape) for t in dummy._tensors(dummy.SHAPES[shape], "bf16"))

    assert parameters("qwen3-30b-a3b") == 30_532_122_624
    other_vocabulary = 2 * (48128 - 32000) * 4096
    assert parameters("mixtral-8x7b") == 46_702_792_704 + other_vocabulary


@pytest.mark.parametrize("weights", dummy.WEIGHTS)
def test_random_experts_are_a_checkpoint_that_the_native_engine_takes(weights, tmp_path):
    from deploykit.engine.native.cuda import supported_on_cuda
    from deploykit.engine.native.memory import supported

    facts = read_facts(dummy.write_dummy_checkpoint(tmp_path / "m", dummy.SHAPES["tiny-moe"], weights))
    assert facts.architecture == "Qwen3MoeForCausalLM"
    assert supported(facts) is None
    assert supported_on_cuda(facts, (9, 0)) is None
    routers = [t.dtype for t in facts.tensors if t.name.endswith("mlp.gate.weight")]
    assert routers == 2 * ["bfloat16" if weights == "bf16" else "float16"]


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(dummy.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(ConfigError, match=r"take 16\.1 GB"):
        dummy.write_dummy_checkpoint(tmp_path / "m", dummy.SHAPES["llama-3-8b"], "bf16")
    assert list((tmp_path / "m").iterdir()) == []


# ---------------------------------------------------------------- rooflines


def test_a_schedule_computes_every_token_once():
    steps = list(roofline.schedule([(5, 3), (6, 2), (2, 1)], max_rows=2, budget=8))
    # 5 + 3 of 6; 1 decoded + 3; decoded twice, then the third in the free row at once
    assert [(s.tokens, s.logits) for s in steps] == [(8, 1), (4, 2), (2, 2), (2, 1)]
    assert sum(s.tokens for s in steps) == (5 + 2) + (6 + 1) + 2
    assert [s.kv_tokens for s in steps] == [5 + 3, 6 + 6, 7 + 7, 2]
    assert steps[0].pairs == 15 + 6
    assert steps[1].pairs == 6 + (3 * 3 + 6)


def cost_of(shape_name, weights, head="auto"):
    shape = dummy.SHAPES[shape_name]
    tensors = [
        SimpleNamespace(name=t.name, shape=t.shape, nbytes=t.nbytes, num_elements=math.prod(t.shape))
        for t in dummy._tensors(shape, weights)
    ]
    facts = SimpleNamespace(
        config=shape | {"quantization_config": {"bits": 4}},
        tensors=tensors,
        hidden_size=shape["hidden_size"],
        vocab_size=shape["vocab_size"],
        num_layers=shape["num_hidden_layers"],
        num_heads=shape["num_attention_heads"],
        head_dim=128,
    )
    plan = SimpleNamespace(block_bytes=64 * 131072, block_len=64, lm_head_dtype=head)
    return roofline.model_cost(facts, plan)


def test_the_work_of_llama_3_8b():
    plain, packed = cost_of("llama-3-8b", "bf16"), cost_of("llama-3-8b", "awq")
    assert plain.weight_bytes == pytest.approx(15.01e9, rel=1e-3)
    assert packed.weight_bytes == pytest.approx(3.63e9 + 1.05e9, rel=1e-3)
    eight = cost_of("llama-3-8b", "awq", "int8")
    assert packed.weight_bytes - eight.weight_bytes == 128256 * (4096 - 4)
    assert plain.layer_macs == packed.layer_macs == 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    one = roofline.roofline(plain, roofline.schedule([(128, 512)], 256, 8192), 3.16e12, 760e12)
    assert one.steps == 512
    assert 512 / one.seconds == pytest.approx(209.8, rel=1e-3)
    prefill = roofline.roofline(plain, roofline.schedule([(4096, 1)] * 8, 256, 8192), 3.16e12, 760e12)
    assert prefill.flops / 32768 == pytest.approx(15.0e9, rel=0.01)
    assert roofline.roofline(plain, iter(()), None, None).seconds is None


# ---------------------------------------------------------------- figures and tables


def llama_facts(**changes):
    return SimpleNamespace(config=dummy.SHAPES["llama-3-8b"] | changes)


def test_peers_stand_beside_figures_of_the_same_card_and_model_alone():
    found, note = suite.peers_of(H100, llama_facts(), "bf16", "none")
    assert {name: figures["decode_bs64"] for name, figures in found.items()} == {
        "vLLM 0.24": 7527,
        "LMDeploy 0.18": 7794,
    }
    assert "2026-11-21" in note
    assert set(suite.peers_of(H100, llama_facts(), "bf16", "int8")[0]) == {
        "LMDeploy 0.18 (KV int8)",
        "vLLM 0.24 (KV fp8)",
    }
    assert suite.peers_of(H100, llama_facts(), "awq", "int4") == (
        {},
        "none measured for awq weights with KV int4",
    )
    other = msgspec.structs.replace(H100, name="NVIDIA H200")
    assert suite.peers_of(other, llama_facts(), "bf16", "none") == (
        {},
        "of another card (NVIDIA H100 80GB HBM3)",
    )
    assert "another model" in suite.peers_of(H100, llama_facts(hidden_size=8192), "bf16", "none")[1]


def test_a_report_of_a_suite_is_read_back_and_printed(tmp_path, capsys):
    plan = host_overhead.plan_for(rows=256, session_len=8192)
    workload = [IdRequest([5] * 128, 512)]
    runs = [Run(seconds=s, ttft=s / 100, tokens=[]) for s in (4.0, 3.2, 3.0)]
    peers, note = suite.peers_of(H100, llama_facts(), "bf16", "none")
    figure = suite.figure_of("decode_bs1", workload, runs, cost_of("llama-3-8b", "bf16"), plan, H100, peers)
    assert figure.median == pytest.approx(160.0)
    assert figure.first_token_s == pytest.approx(0.032)
    assert figure.roofline_share == pytest.approx(160.0 / figure.roofline)
    assert figure.gbytes_per_s == pytest.approx(3160 * figure.roofline_share, rel=0.01)
    assert figure.peers[0].ratio == pytest.approx(160 / 153.2)
    result = Suite(
        suite="gpu",
        model="llama",
        weights="bf16",
        random_weights=True,
        engine="native",
        device="cuda",
        dtype="bfloat16",
        kv_dtype="bfloat16",
        max_batch_size=256,
        max_prefill_tokens=8192,
        session_len=8192,
        kv_tokens=400_000,
        load_s=9.0,
        card=H100,
        peers_note=note,
        figures=(figure,),
    )
    report: Report = make_report((result,), MachineFacts(**MACHINE))
    write_report(report, tmp_path / "bench.json")
    assert read_report(tmp_path / "bench.json").results == (result,)
    tables.show(report)
    said = capsys.readouterr().out
    assert "reads 3,160 GB/s, copies 3,020 GB/s, multiplies 760 TFLOP/s" in said
    assert "driver 580, nvcc 13.0.88, torch for CUDA 13.0" in said
    row = next(line for line in said.splitlines() if line.startswith("decode_bs1"))
    assert row.split()[1] == "160.0"
    assert row.split()[-1] == "1.04"
    assert "vLLM 0.24: 153.2, LMDeploy 0.18: 153.1" in row


def test_a_step_reads_the_experts_that_its_tokens_go_to():
    cost = cost_of("qwen3-30b-a3b", "bf16")
    expert = 3 * 2048 * 768
    assert cost.expert_bytes == 2 * 48 * 128 * expert
    attention = 2048 * 128 * (2 * 32 + 2 * 4) + 128 * 2048  # and the router
    assert cost.layer_macs == 48 * (attention + 8 * expert)
    assert cost.step_bytes(1) == cost.weight_bytes + 2 * 48 * 8 * expert
    assert cost.step_bytes(64) == pytest.approx(cost.weight_bytes + 0.984 * cost.expert_bytes, rel=1e-3)


def test_unknown_experts_and_unknown_rates_leave_the_roofline_out():
    plan = host_overhead.plan_for(rows=4, session_len=64)
    assert roofline.model_cost(SimpleNamespace(config={"moe": {}, "experts": 8}), plan) is None
    run = [Run(seconds=1.0, ttft=0.1, tokens=[])]
    figure = suite.figure_of("decode_bs1", [IdRequest([5], 2)], run, None, plan, H100, {})
    assert (figure.gbytes_per_s, figure.roofline_share, figure.peers) == (None, None, ())


def test_a_card_is_what_its_program_printed(tmp_path):
    gpu = GPU(
        index=0,
        name="X",
        compute_capability=(9, 0),
        total_bytes=1,
        free_bytes=1,
        driver="580",
        cuda_driver="13.0",
    )
    answer = 'noise\n{"read": 3.16e12, "copy": 3.02e12, "matrix": 7.6e14, "cuda": "13.0"}\n'
    found = card.card_of(gpu, answer, "13.0.88")
    assert (found.read_gbytes_per_s, found.copy_gbytes_per_s, found.matrix_tflops) == (3160.0, 3020.0, 760.0)
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    assert card.nvcc_version(str(nvcc)) == "13.0.88"
    assert card.nvcc_version(str(tmp_path / "none")) is None


# ---------------------------------------------------------------- the suite itself


def test_the_suite_on_the_fake_runner(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(
        suite.cards, "measure_cpu", lambda machine, threads: msgspec.structs.replace(H100, device="cpu")
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    options = suite.SuiteOptions(shape="tiny", only=["decode_bs16", "prefill_4k"], repeat=2, device="cpu")
    said = []
    (result,) = suite.run_suite(options, said.append)
    assert (result.engine, result.max_batch_size, result.random_weights) == ("fake", 256, True)
    assert [f.name for f in result.figures] == ["decode_bs16", "prefill_4k"]
    decode, prefill = result.figures
    assert (decode.requests, decode.prompt_tokens, decode.output_tokens) == (16, 2048, 4096)
    assert len(decode.seconds) == len(prefill.values) == 2
    assert prefill.median == pytest.approx(prefill.input_tokens_per_s)
    assert decode.steps >= 256
    assert not list(tmp_path.glob("deploykit-bench-*"))
    assert "another model" in result.peers_note


def test_random_weights_in_the_shape_of_a_recipe_need_nothing_of_it(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(
        suite.cards, "measure_cpu", lambda machine, threads: msgspec.structs.replace(H100, device="cpu")
    )
    monkeypatch.setenv("DEPLOYKIT_OFFLINE", "1")
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    shapes = {t.name: [list(t.shape), "bfloat16"] for t in dummy._tensors(dummy.SHAPES["tiny"], "bf16")}
    described = {
        "model": "someone/tiny",
        "chat_template": None,
        "config": dummy.SHAPES["tiny"],
        "tensors": shapes,
    }
    (tmp_path / "facts.json").write_text(json.dumps(described))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "version: 1\nmodel: {id: someone/tiny, facts: facts.json}\nengine: {max_prefill_tokens: 4096}\n"
    )
    options = suite.SuiteOptions(target=str(recipe), dummy=True, only=["decode_bs16"], repeat=1, device="cpu")
    said = []
    (result,) = suite.run_suite(options, said.append)
    assert (result.random_weights, result.figures[0].requests) == (True, 16)
    assert any("random weights of tiny's shape" in line for line in said)


def test_the_keys_that_make_figures_comparable_come_last():
    options = suite.SuiteOptions(sets=["engine.cache.prefix_caching=true", "engine.max_prefill_tokens=4096"])
    sets = suite._sets(options, gpu_workloads.chosen([]), "none")
    assert sets.index("engine.cache.prefix_caching=false") > sets.index("engine.cache.prefix_caching=true")
    assert "engine.session_len=4097" in sets
    assert "server.limits.max_queue=1000" in sets


def test_a_plan_that_the_workloads_do_not_allow_is_refused():
    plan = msgspec.structs.replace(host_overhead.plan_for(rows=512, session_len=64), vocab_size=64000)
    with pytest.raises(ConfigError, match="512 rows at once"):
        suite._check_plan(SimpleNamespace(plan=plan), "cpu")
    small = host_overhead.plan_for(rows=4, session_len=64)
    with pytest.raises(ConfigError, match="token ids up to 47999"):
        suite._check_plan(SimpleNamespace(plan=small), "cpu")
    with pytest.raises(ConfigError, match="asked for cuda"):
        suite._check_plan(SimpleNamespace(plan=small), "cuda")


def test_a_suite_that_is_terminated_leaves_no_weights_behind(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path), "DEPLOYKIT_TESTING": "1", "DEPLOYKIT_RUNNER": "fake"}
    command = [
        sys.executable,
        "-m",
        "deploykit",
        "bench",
        "--suite",
        "gpu",
        "--shape",
        "tiny",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "written in" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list(tmp_path.glob("deploykit-bench-*"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--suite", "gpu", "--shape", "huge"), "no shape 'huge'"),
        (("--suite", "gpu", "--only", "decode"), "no workload 'decode'"),
        (("smollm2-135m", "--suite", "gpu", "--weights", "awq"), "brings its own"),
        (("http://127.0.0.1:1", "--suite", "gpu"), "can only be measured over HTTP"),
        (("--suite", "gpu", "--startup"), "measured by itself"),
        (("--suite", "gpu", "--prompt-len", "3"), "workloads are fixed"),
        (("--weights", "awq"), "go with --suite"),
        (("--load-format", "dummy"), "go with --suite"),
        (("--suite", "gpu", "--load-format", "auto"), "no model was named"),
        (("--repeat", "2"), "go with --suite"),
        (("--num-prompts", "2"), "go with --dataset"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(args, says):
    command = [sys.executable, "-m", "deploykit", "bench", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


MACHINE = {
    "cpu": "C",
    "cores": 2,
    "flags": (),
    "memory_total": 1,
    "system": "Linux",
    "python": "3.11",
    "gpus": (),
    "load_average": None,
    "packages": {},
    "deploykit": "0",
    "commit": None,
}
