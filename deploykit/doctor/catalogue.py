"""Every check, in the order and the groups in which people read them."""

from __future__ import annotations

from deploykit.doctor import (
    gpus,
    hardware,
    hubs,
    limits,
    links,
    native,
    processor,
    serving,
    software,
    system,
    versions,
)
from deploykit.doctor.check import CheckSpec

SYSTEM, PROCESSOR, MEMORY, GPU = "System", "CPU", "Memory and disk", "GPU"
SOFTWARE, ENGINE, HUBS, SERVING = "Versions", "Native engine", "Model hubs", "Serving"
CATEGORIES = (SYSTEM, PROCESSOR, MEMORY, GPU, SOFTWARE, ENGINE, HUBS, SERVING)

CHECKS: tuple[CheckSpec, ...] = (
    CheckSpec("python", "Python", system.python, category=SYSTEM),
    CheckSpec("os", "Operating system", system.operating_system, category=SYSTEM),
    CheckSpec("container", "Container and limits", system.container, category=SYSTEM),
    CheckSpec("machine", "Machine", system.virtual, category=SYSTEM),
    CheckSpec("locale", "Text encoding", system.utf8, category=SYSTEM),
    CheckSpec("open-files", "Open files (ulimit -n)", limits.open_files, category=SYSTEM),
    CheckSpec("memlock", "Locked memory (ulimit -l)", limits.locked_memory, category=SYSTEM),
    CheckSpec("variables", "Other servers' variables", system.foreign_variables, category=SYSTEM),
    CheckSpec("cpu", "CPU", processor.cpu, category=PROCESSOR),
    CheckSpec("numa", "NUMA", processor.numa, category=PROCESSOR),
    CheckSpec("threads", "Thread variables", processor.thread_variables, category=PROCESSOR),
    CheckSpec("memory", "Memory", hardware.memory, category=MEMORY),
    CheckSpec("swap", "Swap", hardware.swap, category=MEMORY),
    CheckSpec("huge-pages", "Huge pages (THP)", processor.transparent_huge_pages, category=MEMORY),
    CheckSpec("shm", "Shared memory (/dev/shm)", limits.shared_memory, category=MEMORY),
    CheckSpec("disk", "Disk", hardware.disk, category=MEMORY),
    CheckSpec("tmp", "Temporary folder", limits.temporary, category=MEMORY),
    CheckSpec("gpu", "GPU", gpus.gpu, category=GPU),
    CheckSpec("gpu-memory", "Who holds GPU memory", gpus.processes, category=GPU, limit_s=5.0),
    CheckSpec("gpu-health", "Memory errors", gpus.health, category=GPU, limit_s=5.0),
    CheckSpec("gpu-mode", "Modes", gpus.mode, category=GPU, limit_s=5.0),
    CheckSpec("gpu-clocks", "Power and heat", gpus.clocks, category=GPU, limit_s=5.0),
    CheckSpec("gpu-pcie", "PCIe", links.pcie, category=GPU, limit_s=5.0),
    CheckSpec("gpu-links", "GPU topology", links.topology, category=GPU, limit_s=5.0),
    CheckSpec("accelerators", "Other accelerators", hardware.other_accelerators, category=GPU),
    CheckSpec("torch", "torch", software.torch, category=SOFTWARE),
    CheckSpec("transformers", "transformers", software.transformers, category=SOFTWARE),
    CheckSpec("torch-pins", "Packages that torch pins", software.pins, category=SOFTWARE),
    CheckSpec("cuda", "Driver, CUDA and torch", versions.triangle, category=SOFTWARE, limit_s=5.0),
    CheckSpec(
        "torch-kernels",
        "torch's kernels",
        versions.kernels,
        category=SOFTWARE,
        limit_s=versions.TORCH_LIMIT_S,
        slow=True,
    ),
    CheckSpec("compiler", "Compilers", native.compiler, category=ENGINE, limit_s=5.0),
    CheckSpec("build-tools", "CMake, Ninja, pybind11", native.build_tools, category=ENGINE, limit_s=5.0),
    CheckSpec("libstdc++", "libstdc++", versions.libstdcxx, category=ENGINE),
    CheckSpec("native", "Library", native.cpu_library, category=ENGINE, limit_s=10.0, slow=True),
    CheckSpec("native-test", "Self-test", native.cpu_self_test, category=ENGINE, limit_s=20.0, slow=True),
    CheckSpec("native-cuda", "Library (CUDA)", native.cuda_library, category=ENGINE, limit_s=10.0, slow=True),
    CheckSpec(
        "native-cuda-test",
        "Self-test (CUDA)",
        native.cuda_self_test,
        category=ENGINE,
        limit_s=60.0,
        slow=True,
    ),
    CheckSpec(
        "hub", "Hugging Face", hubs.hugging_face, category=HUBS, limit_s=hubs.ANSWER_S + 0.5, slow=True
    ),
    CheckSpec(
        "modelscope", "ModelScope", hubs.modelscope, category=HUBS, limit_s=hubs.ANSWER_S + 0.5, slow=True
    ),
    CheckSpec(
        "model-access", "The recipe's model", hubs.model_access, category=HUBS, limit_s=12.0, slow=True
    ),
    CheckSpec("port", "Port", serving.port, category=SERVING),
    CheckSpec("reach", "How to reach it", serving.reach, category=SERVING),
    CheckSpec("cache", "Cache folder", serving.cache_folder, category=SERVING),
    CheckSpec("cache-exec", "Libraries in the cache", limits.executable_cache, category=SERVING),
    CheckSpec("state", "State folder", serving.state_folder, category=SERVING),
    CheckSpec("runtime", "Runtime folder", serving.runtime_folder, category=SERVING),
)
