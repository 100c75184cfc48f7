"""Machines by name and from files: what they are, what is assumed of them, and what is wrong with a description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_machines import SMOLLM2, V100, gpu, gpu_machine, recipe

from deploykit.engine.native.cuda import GENERATIONS
from deploykit.hardware import catalog, probe
from deploykit.hardware.described import Described, DescriptionError, from_fields
from deploykit.hardware.machine import GPU, Machine
from deploykit.hardware.toolchain import toolkit_version
from deploykit.plan import PlanError, make_plan
from deploykit.plan.generations import missing_tools, too_old

GIB = 1 << 30
MIB = 1 << 20


def named(name: str) -> Described:
    found = catalog.named(name)
    assert found is not None
    return found


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize("name", catalog.names())
def test_every_known_machine_can_be_planned_for(name: str) -> None:
    found = named(name)
    plan = make_plan(recipe(), SMOLLM2, found.machine, name="m")
    usable = [g for g in found.machine.gpus if g.compute_capability >= (7, 5)]
    assert plan.device == ("cuda" if usable else "cpu")
    assert any("cores" in text for text in found.assumed)
    assert any("torch" in text for text in found.assumed)


@pytest.mark.parametrize(
    "name",
    [
        "h100x1",
        "h200",
        "a100-40",
        "a100-80",
        "a10",
        "l4",
        "l40s",
        "t4",
        "4090",
        "4090x2",
        "3090",
        "5090",
        "v100",
        "laptop",
        "H100",
        "h100x8",
    ],
)
def test_names_that_are_promised(name: str) -> None:
    assert named(name).origin == name.lower()


def test_several_of_a_card_are_one_machine() -> None:
    two = named("4090x2").machine
    assert [g.index for g in two.gpus] == [0, 1]
    assert two.memory_total == 2 * named("4090").machine.memory_total
    plan = make_plan(recipe(), SMOLLM2, two, name="m")
    assert plan.devices == (0,)
    assert plan.device_name == "GPU 0, NVIDIA GeForce RTX 4090"
    assert "GPU 1 stays free" in next(d.reason for d in plan.decisions if d.key == "engine.tp")


def test_a_laptop_has_16_gib_and_no_gpu() -> None:
    laptop = named("laptop").machine
    assert (laptop.memory_total, laptop.gpus, laptop.torch_cuda) == (16 * GIB, (), None)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("h10", "h100"),
        ("rtx4090", "4090"),
        ("nvidia-l40s", "l40s"),
        ("h100x0", "h100"),
        ("4090x200", "4090x16"),
        ("labtop", "laptop"),
        ("mainframe-of-1970", None),
    ],
)
def test_what_was_probably_meant(wrong: str, meant: str | None) -> None:
    assert catalog.named(wrong) is None
    assert catalog.similar(wrong) == meant


# ---------------------------------------------------------------- from a file


def test_a_machine_survives_the_file_it_is_written_to() -> None:
    for machine in (probe(), *(named(name).machine for name in ("h100x8", "laptop", "v100"))):
        data = json.loads(msgspec.json.encode(machine))
        found = from_fields(data, "machine.json")
        assert found.machine == machine
        assert found.assumed == ()


def test_what_a_file_leaves_out_is_assumed_and_said() -> None:
    gpu = {"name": "NVIDIA L4", "compute_capability": "8.9", "total_bytes": "22.5GiB"}
    found = from_fields({"memory_total": "64GiB", "cpu": {"cores": 8}, "gpus": [gpu]}, "m.yaml")
    here = found.machine
    assert here.memory_available == int(64 * GIB * 0.9)
    assert here.gpus[0].compute_capability == (8, 9)
    assert here.gpus[0].free_bytes == int(22.5 * GIB) - 640 * MIB
    said = "; ".join(found.assumed)
    for words in ("90% of the memory", "system Linux", "torch 2.", "CUDA toolkit 13.0", "640 MiB", "vector"):
        assert words in said


def test_what_a_file_says_is_missing_is_missing() -> None:
    gpu = {"name": "a card", "compute_capability": [9, 0], "total_bytes": 80 * GIB}
    base: dict[str, Any] = {"memory_total": 64 * GIB, "cpu": {"cores": 8, "flags": ["avx2"]}, "gpus": [gpu]}
    without = from_fields(base | {"nvcc": None, "compiler": None}, "m.yaml").machine
    assert "C++ compiler" in str(missing_tools(without, None))
    no_nvcc = from_fields(base | {"nvcc": None}, "m.yaml").machine
    assert "nvcc" in str(missing_tools(no_nvcc, no_nvcc.gpus[0]))
    assert from_fields(base | {"torch": "2.13.0+cu126"}, "m.yaml").machine.torch_cuda == "12.6"
    assert from_fields(base | {"torch": "2.13.0+cpu"}, "m.yaml").machine.torch_cuda is None
    old = from_fields(base | {"toolkit": "11.8"}, "m.yaml").machine
    assert "12.0 is needed" in str(missing_tools(old, old.gpus[0]))
    new = from_fields(base, "m.yaml").machine
    assert missing_tools(new, new.gpus[0]) is None


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ([], (), "must be a mapping"),
        ({}, (), "`memory_total` is missing"),
        ({"memory_total": None}, (), "`memory_total` is missing"),
        ({"memory_totl": 1}, ("memory_totl",), "did you mean `memory_total`?"),
        ({"memory_total": "a lot"}, ("memory_total",), "64GiB"),
        ({"memory_total": -1}, ("memory_total",), "number of bytes"),
        ({"memory_total": True}, ("memory_total",), "number of bytes"),
        ({"memory_total": 1, "memory_available": 2}, ("memory_available",), "at most memory_total"),
        ({"memory_total": 1, "system": "linux"}, ("system",), "did you mean `Linux`?"),
        ({"memory_total": 1, "arch": "riscv"}, ("arch",), "x86_64"),
        ({"memory_total": 1, "cpu": 8}, ("cpu",), "must be a mapping with cores"),
        ({"memory_total": 1, "cpu": {"cores": 0}}, ("cpu", "cores"), "from 1 to"),
        ({"memory_total": 1, "cpu": {"cores": 1, "flags": "avx2"}}, ("cpu", "flags"), "list of texts"),
        (
            {"memory_total": 1, "cpu": {"cores": 1, "flags": ["avx512"]}},
            ("cpu", "flags", 0),
            "did you mean `avx512f`",
        ),
        ({"memory_total": 1, "torch": ["2"]}, ("torch",), "short text"),
        ({"memory_total": 1, "gpus": {}}, ("gpus",), "must be a list"),
        ({"memory_total": 1, "gpus": [{}]}, ("gpus", 0), "`compute_capability` is missing"),
        (
            {"memory_total": 1, "gpus": [{"name": "x", "compute_capability": 9, "total_bytes": 1}]},
            ("gpus", 0, "compute_capability"),
            "9.0",
        ),
        (
            {"memory_total": 1, "gpus": [{"name": "x", "compute_capabilty": "9.0", "total_bytes": 1}]},
            ("gpus", 0, "compute_capabilty"),
            "did you mean `compute_capability`?",
        ),
        (
            {
                "memory_total": 1,
                "gpus": [{"index": 1, "name": "x", "compute_capability": "9.0", "total_bytes": 1}] * 2,
            },
            ("gpus",),
            "same index",
        ),
    ],
)
def test_mistakes_name_their_field(data: Any, path: tuple[str | int, ...], words: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        from_fields(data, "m.yaml")
    assert any(m.path == path and words in m.message for m in caught.value.mistakes), caught.value.mistakes


def test_all_mistakes_are_found_at_once() -> None:
    with pytest.raises(DescriptionError) as caught:
        from_fields({"memory_totl": 1, "cpu": {"cores": 0}, "gpus": [{"name": "x"}], "arch": 3}, "m.yaml")
    assert len(caught.value.mistakes) >= 5


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["64GiB", "9.0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                sorted({*Machine.__struct_fields__, *GPU.__struct_fields__, "cores", "flags", "x"})
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(data=_VALUES)
def test_nothing_that_a_file_can_hold_breaks_the_reader(data: Any) -> None:
    for described in (data, {"memory_total": 64 * GIB, "cpu": data, "gpus": [data]}):
        try:
            found = from_fields(described, "m.json")
        except DescriptionError:
            continue
        assert 0 <= found.machine.memory_available <= found.machine.memory_total


# ---------------------------------------------------------------- old generations


@pytest.mark.parametrize("software", [{}, {"torch": "2.13.0+cu126", "torch_cuda": "12.6", "toolkit": "12.9"}])
def test_volta_is_refused_with_what_compiles_for_it(software: dict[str, str]) -> None:
    here = gpu_machine(V100, **({"toolkit": "13.0"} | software))
    plan = make_plan(recipe(), SMOLLM2, here, name="m")
    why = next(d.reason for d in plan.decisions if d.key == "engine.device")
    assert plan.device == "cpu"
    with pytest.raises(PlanError) as caught:
        make_plan(recipe(engine={"device": "cuda"}), SMOLLM2, here, name="m")
    for text in (why, str(caught.value.why)):
        for words in ("Volta", "7.0", "CUDA toolkits from 13 on no longer compile", "12.9", "CUDA 12.6"):
            assert words in text
        assert f"CUDA toolkit {here.toolkit} and torch {here.torch}" in text  # what is there
        assert "no engine of this version runs on this GPU" in text
        assert "engine.device: cpu" in text
    assert "--set engine.device=cpu" in caught.value.fixes


def test_only_what_is_old_is_called_old() -> None:
    def reason(capability: tuple[int, int], here: Machine) -> str | None:
        card = GPU(index=0, name="card", compute_capability=capability, total_bytes=1, free_bytes=1)
        return too_old(here, card)

    bare = gpu_machine(V100, torch=None, torch_cuda=None)
    assert reason((7, 5), bare) is None
    assert "(Pascal)" in str(reason((6, 1), bare))
    assert "here: no torch" in str(reason((7, 0), bare))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("t4", ["driver 580", "torch 2.11", "CUDA toolkit 11.0"]),
        ("4090", ["driver 580", "torch 2.11", "CUDA toolkit 11.8"]),
        ("h100", ["driver 580", "torch 2.11", "CUDA toolkit 12.0"]),
        ("5090", ["driver 580", "torch 2.11, a build for CUDA 12.8", "CUDA toolkit 12.8"]),
        ("b200", ["driver 580", "torch 2.11, a build for CUDA 12.8", "CUDA toolkit 12.8"]),
        ("v100", []),
        ("laptop", []),
    ],
)
def test_the_lowest_driver_torch_and_toolkit_stand_in_the_plan(name: str, words: list[str]) -> None:
    found = make_plan(recipe(), SMOLLM2, named(name).machine, name="m").needs
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert text.startswith(word)


@pytest.mark.parametrize(
    ("capability", "torch_cuda", "toolkit"),
    [
        ((8, 7), None, "11.4"),
        ((10, 0), "12.8", "12.8"),
        ((10, 3), "12.8", "12.9"),
        ((11, 0), "13.0", "13.0"),
        ((12, 1), "12.8", "12.9"),
    ],
)
def test_a_generation_that_ran_nowhere_says_so_and_what_it_needs(
    capability: tuple[int, int], torch_cuda: str | None, toolkit: str
) -> None:
    card = gpu("a card", capability, 60 * GIB)
    plan = make_plan(recipe(), SMOLLM2, gpu_machine(card), name="m")
    assert plan.engine == "native"
    said = " ".join(d.reason for d in plan.decisions if d.key == "engine.backend")
    assert "{}.{} are compiled and never ran".format(*capability) in said
    assert plan.needs[-1].startswith(f"CUDA toolkit {toolkit} to build the library")
    assert any("a build for CUDA" in need for need in plan.needs) == (torch_cuda is not None)
    assert torch_cuda is None or any(f"a build for CUDA {torch_cuda}:" in need for need in plan.needs)
    old = gpu_machine(card, compiler="/usr/bin/g++", nvcc="/usr/local/cuda/bin/nvcc", toolkit="11.3")
    assert f"{toolkit} is needed" in str(missing_tools(old, card))


def test_every_generation_of_the_native_engine_has_a_first_toolkit() -> None:
    old = gpu_machine(compiler="/usr/bin/g++", nvcc="/usr/local/cuda/bin/nvcc", toolkit="10.2")
    for capability in GENERATIONS:
        assert "is needed" in str(missing_tools(old, gpu("a card", capability, GIB)))


def test_a_torch_without_kernels_for_a_new_gpu_is_passed_over() -> None:
    here = msgspec.structs.replace(named("5090").machine, torch="2.13.0+cu126", torch_cuda="12.6")
    plan = make_plan(recipe(), SMOLLM2, here, name="m")
    assert plan.engine == "native"
    assert plan.needs[0].startswith("driver 525")
    with pytest.raises(PlanError) as caught:
        make_plan(recipe(engine={"backend": "pytorch"}), SMOLLM2, here, name="m")
    assert "a build for CUDA 12.8 or newer" in str(caught.value.why)


def test_the_toolkits_version_is_read_from_its_header(tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    header = tmp_path / "targets" / "x86_64-linux" / "include" / "cuda.h"
    for file in (nvcc, header):
        file.parent.mkdir(parents=True)
        file.touch()
    assert toolkit_version(str(nvcc)) is None
    header.write_text("/* CUDA */\n#define CUDA_VERSION 12090\n")
    assert toolkit_version(str(nvcc)) == "12.9"
    assert toolkit_version(None) is None
