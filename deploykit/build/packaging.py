"""What pyproject.toml can't say: what lies outside the package and belongs into it.

A wheel carries the C++ sources as deploykit/_native_src/, the recipes as deploykit/_recipes/ and the schemas as
deploykit/_schemas/; an sdist has them where the checkout has them.

Named by `[tool.setuptools.cmdclass]`; setuptools loads this file by itself, so it imports nothing of deploykit.
Nothing is compiled.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

SOURCES = Path("native")
CARRIED = {  # folder of the checkout -> folder inside the package
    SOURCES: "_native_src",
    Path("recipes"): "_recipes",
    Path("schemas"): "_schemas",
}
_NOT_OF_THE_LIBRARY = {"tests", "bench"}


class BuildPy(build_py):
    """`build_py` that copies those folders too, the sources without tests. An editable install finds them there."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder, target in self._carried():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target, ignore=_ignored)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [
            *super().get_outputs(include_bytecode),
            *(str(f) for _, target in self._carried() for f in target.rglob("*") if f.is_file()),
        ]

    def _carried(self) -> list[tuple[Path, Path]]:
        return [(folder, Path(self.build_lib) / "deploykit" / name) for folder, name in CARRIED.items()]


class Sdist(sdist):
    """`sdist` with those folders, whole."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for folder in CARRIED:
            shutil.copytree(folder, Path(base_dir) / folder, dirs_exist_ok=True)


def _ignored(folder: str, names: list[str]) -> set[str]:
    top = Path(folder) == SOURCES
    return {n for n in names if n.startswith((".", "__")) or (top and n in _NOT_OF_THE_LIBRARY)}
