"""Checks of versions that have to fit together: driver, CUDA, torch, toolkit, the native library, libstdc++."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from deploykit.build import CPU, Build, Target, cuda_target, locate, store
from deploykit.build import cuda as toolkit
from deploykit.doctor import child
from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.errors import DeploykitError
from deploykit.hardware.elf import ElfError, needed_versions, offered_versions
from deploykit.hardware.machine import GPU, Machine
from deploykit.plan.choose import MIN_COMPUTE_CAPABILITY, gpu_problem

_TORCH_CHILD = Path(__file__).with_name("_torch_archs.py")
TORCH_LIMIT_S = 30.0
# Index of torch's wheels for the newest CUDA that a driver runs.
_TORCH_INDEXES = (((13, 0), "cu130"), ((12, 8), "cu128"), ((12, 6), "cu126"))
_ARCH = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def triangle(context: Context) -> Finding:
    """Driver, torch's CUDA, nvcc and the native library's CUDA, judged together."""
    machine = context.machine
    found = _found(machine)
    if not machine.gpus:
        return ok(f"{found}; no GPU that they have to agree on")
    problems = {gpu.index: gpu_problem(machine, gpu) for gpu in machine.gpus}
    first = machine.gpus[0]
    if any(problems.values()):
        partly = next(problem for problem in problems.values() if problem)
        if not all(problems.values()):
            return Finding("warn", found, partly, "the other GPUs are used")
        if first.compute_capability < MIN_COMPUTE_CAPABILITY:
            return Finding("warn", found, partly, "models run on the CPU; a newer GPU is needed")
        return Finding("fail", found, f"the GPU can't be used: {partly}", _torch_fix(machine, first))
    driver = _numbers(first.cuda_driver)
    compiler = toolkit.release(machine.nvcc) if machine.nvcc else None
    if driver and compiler and compiler[0] > driver[0]:
        newest = f"{driver[0]}.{driver[1]}"
        why = (
            f"what nvcc {_dotted(compiler)} compiles needs a driver for CUDA {compiler[0]}: native can't run"
        )
        return Finding(
            "warn", found, why, f"install the CUDA {newest} toolkit and set CUDA_HOME, or update the driver"
        )
    return ok(found)


def _found(machine: Machine) -> str:
    build = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "CPU build"
    parts = [f"torch {machine.torch} ({build})" if machine.torch else "no torch"]
    if machine.gpus:
        first = machine.gpus[0]
        parts.insert(
            0, f"driver {first.driver or 'unknown'} runs CUDA up to {first.cuda_driver or 'unknown'}"
        )
    release = toolkit.release(machine.nvcc) if machine.nvcc else None
    parts.append(f"nvcc {_dotted(release)}" if release else "no nvcc")
    if machine.gpus and (built := _native_cuda(machine.gpus[0])):
        parts.append(f"native library built with CUDA {built}")
    return "; ".join(parts)


def _native_cuda(gpu: GPU) -> str | None:
    """CUDA's release that the library for this GPU was compiled with, where it is there."""
    build = _located(cuda_target(gpu.compute_capability))
    manifest = store.read_manifest(build.folder) if build is not None else None
    match = re.search(r"(?:release |cuda_|V)(\d+\.\d+)", manifest.identity.cuda) if manifest else None
    return match[1] if match else None


def _located(target: Target) -> Build | None:
    try:
        return locate(target)
    except DeploykitError:
        return None  # the native check says what is wrong with it


def _torch_fix(machine: Machine, gpu: GPU) -> str:
    """The command that installs a torch that this driver can run."""
    runs = _numbers(gpu.cuda_driver or "13.0")
    version = (machine.torch or "").partition("+")[0]
    package = f"torch=={version}" if version else "torch"
    for needs, index in _TORCH_INDEXES:
        if runs >= needs:
            return f"pip install --force-reinstall {package} --index-url https://download.pytorch.org/whl/{index}"
    return "update NVIDIA's driver to 580 or newer"


# ---------------------------------------------------------------- no kernel image


class TorchAnswer(msgspec.Struct):
    archs: list[str]
    problems: list[str]
    nccl: str
    count: int


def kernels(context: Context) -> Finding:
    """Whether torch has kernels for every GPU, asked of torch in a process of its own, where one is run."""
    machine = context.machine
    if not machine.gpus or machine.torch_cuda is None:
        return skip("no GPU" if not machine.gpus else "torch is built for the CPU alone")
    answer = child.ask([sys.executable, "-P", str(_TORCH_CHILD)], limit_s=TORCH_LIMIT_S - 1)
    if answer.problem:
        fix = _torch_fix(machine, machine.gpus[0])
        return Finding("fail", "torch doesn't load", answer.problem, fix)
    said = msgspec.json.decode(answer.output, type=TorchAnswer)
    found = f"torch has kernels for {' '.join(said.archs) or 'unknown GPUs'}"
    if said.nccl:
        found += f"; NCCL {said.nccl}"
    lacking = [
        gpu for gpu in machine.gpus if said.archs and runs_on(said.archs, gpu.compute_capability) == "no"
    ]
    if lacking:
        gpu = lacking[0]
        sm = f"sm_{gpu.compute_capability[0]}{gpu.compute_capability[1]}"
        why = f"GPU {gpu.index} is {sm}, and this torch has no kernels for it: `no kernel image is available`"
        return Finding("fail", found, why, _torch_fix(machine, gpu))
    if said.problems:
        why = "; ".join(said.problems)
        return Finding(
            "fail", found, why, "nvidia-smi shows whether the GPU is well; restart its driver or the machine"
        )
    if not said.count:
        why = "NVML sees the GPU, and CUDA doesn't: the driver's user-space part or a device file is missing"
        return Finding(
            "fail", found, why, "start the container with --gpus all, or install the driver's libcuda1"
        )
    if any(runs_on(said.archs, gpu.compute_capability) == "ptx" for gpu in machine.gpus):
        return ok(f"{found}; compiled for this GPU when first used (PTX), which makes first starts slow")
    return ok(f"{found}; a kernel ran on {said.count} GPU{'s' if said.count > 1 else ''}")


def runs_on(archs: list[str], capability: tuple[int, int]) -> str:
    """yes | ptx (compiled on first use) | no: what code for `archs` does on a GPU of this compute capability."""
    best = "no"
    for arch in archs:
        match = _ARCH.fullmatch(arch)
        if match is None:
            continue
        kind, major, minor, suffix = match[1], int(match[2]), int(match[3]), match[4]
        if suffix == "a":
            fits = (major, minor) == capability
        elif suffix == "f" or kind == "sm":
            fits = major == capability[0] and minor <= capability[1]
        else:
            fits = (major, minor) <= capability
        if fits and kind == "sm":
            return "yes"
        if fits:
            best = "ptx"
    return best


# ---------------------------------------------------------------- libstdc++


def libstdcxx(context: Context) -> Finding:
    """The versions that the native library asks of libstdc++, against the one that the linker finds."""
    target = cuda_target(context.machine.gpus[0].compute_capability) if context.machine.gpus else CPU
    build = _located(target) or _located(CPU)
    there = find_libstdcxx()
    if build is None or there is None:
        where = str(there) if there is not None else "no libstdc++.so.6 that the linker finds"
        return skip(
            where, "no native library is built" if build is None else "it can't be told on this system"
        )
    try:
        asked = {
            v
            for file in (build.library, build.module)
            for v in needed_versions(file).get("libstdc++.so.6", ())
        }
        offered = offered_versions(there)
    except ElfError as error:
        return Finding("warn", "not known", str(error), "deploykit build --force")
    newest = newest_of(asked, "GLIBCXX_")
    found = f"{there} has {newest_of(offered, 'GLIBCXX_')}, the native library asks for {newest or 'nothing of it'}"
    missing = sorted(asked - offered, key=_version)
    if missing:
        why = f"the native library can't be loaded: version `{missing[-1]}' not found"
        fix = (
            "deploykit build --force (compiles for this one), or unset LD_LIBRARY_PATH; "
            "with conda: conda install -c conda-forge libstdcxx-ng"
        )
        return Finding("fail", found, why, fix)
    return ok(found)


def find_libstdcxx() -> Path | None:
    """The file that the linker takes for libstdc++.so.6 in a process like this one."""
    import ctypes

    try:
        ctypes.CDLL("libstdc++.so.6")
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                if "libstdc++.so" in line:
                    return Path(line.split(maxsplit=5)[5].strip())
    except OSError:
        return None
    return None


def newest_of(versions: set[str] | frozenset[str], prefix: str) -> str:
    """The newest of "GLIBCXX_3.4.9" and "GLIBCXX_3.4.30", which is the second."""
    return max((v for v in versions if v.startswith(prefix)), key=_version, default="")


def _version(name: str) -> tuple[str, tuple[int, ...]]:
    prefix, _, numbers = name.rpartition("_")
    return prefix, tuple(int(part) for part in numbers.split(".") if part.isdigit())


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (version or "").split(".")[:2] if part.isdigit())


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
