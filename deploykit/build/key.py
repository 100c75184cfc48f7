"""What a build is called: a hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from deploykit.build import cuda, sources, tools
from deploykit.build.types import Target

# Variables that CMake takes compiler and linker flags from.
_FLAGS = ("CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDAFLAGS", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")


@dataclass(frozen=True)
class Identity:
    """Everything that a library depends on."""

    sources: str  # sha256
    python: str  # ABI of the interpreter, C library, processor
    target: str
    compiler: str  # path and version; "" where there is none
    cuda: str  # path and version of nvcc
    pybind11: str
    flags: str

    @property
    def key(self) -> str:
        """Names the build in the cache."""
        return _hash(list(asdict(self).items()))

    @property
    def tree(self) -> str:
        """Names the working tree, which builds of other sources share: only what changed is compiled again."""
        return f"{self.target}-{_hash([i for i in asdict(self).items() if i[0] != 'sources'])}"

    def runs(self, other: Identity) -> bool:
        """Whether what `other` built is what this one would: for machines that can't compile (any more)."""
        return (self.sources, self.python, self.target) == (other.sources, other.python, other.target)


def _hash(items: list[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name}={value}\0" for name, value in items).encode()).hexdigest()[:20]


def identify(source: Path, target: Target, *, digest: str | None = None) -> Identity:
    """The identity of a build of `source` here and now; `digest` where the sources' hash is known."""
    compiler = tools.compiler()
    return Identity(
        sources=digest or sources.digest(source, sources.parts_of(target)),
        python=tools.python_abi(),
        target=target.name,
        compiler=f"{os.path.realpath(compiler.path)} {compiler.version}" if compiler else "",
        cuda=cuda.identity() if target.kind == "cuda" else "",
        pybind11=tools.pybind11_version(),
        flags=" ".join(f"{name}={os.environ[name]}" for name in _FLAGS if os.environ.get(name)),
    )
