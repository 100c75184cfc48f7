"""What the generation of a GPU asks of the software beside it, and why an old one is not used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.hardware.machine import GPU, Machine

MIN_COMPUTE_CAPABILITY = (7, 5)
LAST_TOOLKIT = "12.9"  # the last CUDA toolkit that compiles for GPUs before 7.5
LAST_TORCH_CUDA = "12.6"  # the CUDA of the last PyTorch builds (from 2.11 on) with kernels for them

LEAST_TORCH = "2.11"
# compute capability -> the first CUDA toolkit that compiles C++17 for it
_FIRST_TOOLKIT = {
    (7, 5): (11, 0),
    (8, 0): (11, 0),
    (8, 6): (11, 1),
    (8, 7): (11, 4),
    (8, 9): (11, 8),
    (9, 0): (12, 0),
    (10, 0): (12, 8),
    (10, 3): (12, 9),
    (11, 0): (13, 0),
    (12, 0): (12, 8),
    (12, 1): (12, 9),
}
# PyTorch's builds with kernels for it (those for 10.0 run on 10.3, those for 12.0 on 12.1); older GPUs: all
_FIRST_TORCH_CUDA = {
    (10, 0): (12, 8),
    (10, 3): (12, 8),
    (11, 0): (13, 0),
    (12, 0): (12, 8),
    (12, 1): (12, 8),
}
_LEAST_DRIVER = {13: "580", 12: "525"}  # CUDA's major version -> NVIDIA's driver


def too_old(machine: Machine, gpu: GPU) -> str | None:
    """Why a GPU of before 7.5 is not used, and what would compile for it; None from 7.5 on."""
    if gpu.compute_capability >= MIN_COMPUTE_CAPABILITY:
        return None
    here, least = _dotted(gpu.compute_capability), _dotted(MIN_COMPUTE_CAPABILITY)
    generation = f" ({name})" if (name := _generation(gpu.compute_capability)) else ""
    found = [
        f"CUDA toolkit {machine.toolkit}" if machine.toolkit else "",
        f"torch {machine.torch or ''}".strip(),
    ]
    if machine.torch is None:
        found[1] = "no torch"
    elif machine.torch_cuda and f"+cu{machine.torch_cuda.replace('.', '')}" not in machine.torch:
        found[1] += f" for CUDA {machine.torch_cuda}"
    present = " and ".join(part for part in found if part)
    return (
        f"{gpu.name} has compute capability {here}{generation}, {least} is the least that is supported: CUDA toolkits "
        f"from 13 on no longer compile for it ({LAST_TOOLKIT} is the last that does), PyTorch's builds for CUDA "
        f"{LAST_TORCH_CUDA} are the last with kernels for it (here: {present}), and the kernels of both engines begin "
        f"with {least}; so no engine of this version runs on this GPU, whatever is installed, and the CPU beside it "
        "serves (engine.device: cpu)"
    )


def _generation(capability: tuple[int, int]) -> str:
    if capability == (7, 0):
        return "Volta"
    return {6: "Pascal", 5: "Maxwell", 3: "Kepler"}.get(capability[0], "")


def missing_tools(machine: Machine, gpu: GPU | None) -> str | None:
    """Why a described machine could not compile the native library, for its CPU (`gpu` None) or for a GPU; or None.

    The machine at hand is asked by `build.problem`, which looks at the tools themselves.
    """
    if machine.compiler is None:
        return "the machine is described without a C++ compiler"
    if gpu is None:
        return None
    if machine.nvcc is None:
        return "the machine is described without a CUDA toolkit (nvcc)"
    first = _FIRST_TOOLKIT.get(gpu.compute_capability)
    if first and machine.toolkit and _numbers(machine.toolkit) < first:
        return (
            f"CUDA toolkit {machine.toolkit} doesn't compile for compute capability {_dotted(gpu.compute_capability)}: "
            f"{_dotted(first)} is needed"
        )
    return None


def torch_lacks(machine: Machine, gpu: GPU | None) -> str | None:
    """Why the installed torch has no kernels for a new GPU; None where it has, or where it isn't known."""
    first = _FIRST_TORCH_CUDA.get(gpu.compute_capability) if gpu is not None else None
    if gpu is None or first is None or machine.torch_cuda is None or _numbers(machine.torch_cuda) >= first:
        return None
    return (
        f"torch {machine.torch} is built for CUDA {machine.torch_cuda}, without kernels for compute capability "
        f"{_dotted(gpu.compute_capability)}: a build for CUDA {_dotted(first)} or newer has them"
    )


def needs(machine: Machine, gpu: GPU | None, engine: str) -> tuple[str, ...]:
    """The lowest driver, torch and toolkit for this engine on this GPU; nothing on a CPU."""
    if gpu is None or machine.torch_cuda is None:
        return ()
    capability = _dotted(gpu.compute_capability)
    cuda = _numbers(machine.torch_cuda)
    found = [f"torch {LEAST_TORCH}"]
    if first := _FIRST_TORCH_CUDA.get(gpu.compute_capability):
        found[0] += (
            f", a build for CUDA {_dotted(first)}: the first with kernels for compute capability {capability}"
        )
    if driver := _LEAST_DRIVER.get(cuda[0]):
        found.insert(0, f"driver {driver}: the first that runs CUDA {cuda[0]}, which torch is built for")
    if engine == "native" and (toolkit := _FIRST_TOOLKIT.get(gpu.compute_capability)):
        what = f"the first that compiles C++17 for compute capability {capability}"
        found.append(f"CUDA toolkit {_dotted(toolkit)} to build the library: {what}")
    return tuple(found)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
