"""Building a tiny tree into the cache, finding it again, and what is done about a bad one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.build import CPU, Build, Progress, Target, build, ensure, locate, prebuilt, store, tools
from deploykit.build.check import ask, judge
from deploykit.errors import ConfigError, DeploykitError


class Told:
    """What was reported."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.all.append(progress)

    def texts(self, phase: str) -> list[str]:
        return [progress.text for progress in self.all if progress.phase == phase]


def imported(made: Build, **env: str) -> str:
    """What a process says that imports it: its version, and the library that the linker took."""
    code = (
        "import sys; from deploykit.build import load, prebuilt, CPU; from pathlib import Path\n"
        "found = prebuilt.read(Path(sys.argv[1]), CPU)\n"
        "import deploykit.build.sources as s; s.find_sources = lambda: None\n"
        "print(load(found).abi_version())\n"
        "print(*{l.split()[-1] for l in open('/proc/self/maps') if 'libdeploykit' in l})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_build_is_made_once_found_again_and_stands_alone(tree: Path, cache: Path, tmp_path: Path) -> None:
    assert locate(CPU) is None
    told = Told()
    made = build(report=told)
    assert told.texts("compile")
    assert [(p.done, p.total) for p in told.all if p.phase == "compile"][-1][0] > 0
    assert made.folder.parent == cache / "native"
    assert "other.cpp" in made.log.read_text() if made.log else False
    assert locate(CPU) == made
    told = Told()
    assert ensure(report=told) == made
    assert build(report=told) == made
    assert told.all == []
    # It is found by its module beside it, whatever LD_LIBRARY_PATH has, and wherever it is moved to.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / made.library.name).write_bytes(b"not a library")
    version, library = imported(made, LD_LIBRARY_PATH=str(elsewhere)).splitlines()
    assert (version, library) == ("7", str(made.library))


def test_another_source_is_another_build_and_only_it_is_compiled(tree: Path) -> None:
    first = build()
    (tree / "other.cpp").write_text((tree / "other.cpp").read_text() + "int more() { return 2; }\n")
    assert locate(CPU) is None
    assert store.stale(CPU) == "the sources"
    told = Told()
    second = build(report=told)
    assert second.key != first.key
    assert any("other.cpp" in text for text in told.texts("compile"))
    assert not any("module.cpp" in text for text in told.texts("compile"))
    assert store.read(first.folder, CPU) == first  # who still runs it keeps it
    told = Told()
    build(force=True, report=told)
    assert any("module.cpp" in text for text in told.texts("compile"))


def test_an_error_shows_the_compilers_first_words_at_the_real_file(tree: Path, cache: Path) -> None:
    (tree / "other.cpp").write_text("int tiny_other() { return missing; }\n")
    with pytest.raises(DeploykitError, match="doesn't compile") as caught:
        build()
    error = caught.value
    assert (error.why or "").startswith(f"{tree}/other.cpp:1:27: error: 'missing' was not declared")
    assert "missing" in Path(error.where or "").read_text()
    assert locate(CPU) is None
    assert not list((cache / "native").glob(".partial-*"))
    (tree / "other.cpp").write_text(f"int tiny_other() {{ return 3; }} // {tree}\n")
    assert build().library.is_file()


def test_a_failing_configuration_is_told_and_not_remembered(tree: Path) -> None:
    text = (tree / "CMakeLists.txt").read_text()
    (tree / "CMakeLists.txt").write_text(text + 'message(FATAL_ERROR "no such luck")\n')
    with pytest.raises(DeploykitError, match=r"(?s)can't configure.*no such luck"):
        build()
    (tree / "CMakeLists.txt").write_text(text)
    assert build().module.is_file()


def test_a_library_that_does_not_load_is_never_installed(tree: Path, cache: Path) -> None:
    (tree / "other.cpp").write_text("int nowhere();\nint tiny_other() { return nowhere(); }\n")
    with pytest.raises(DeploykitError, match=r"(?s)can't be used.*undefined symbol: _Z7nowherev"):
        build()
    assert locate(CPU) is None
    assert not list((cache / "native").glob(".partial-*"))


def test_a_damaged_build_is_named_and_built_again(tree: Path) -> None:
    made = build()
    size = made.library.stat().st_size
    made.library.write_bytes(b"\0" * size)  # the same size: only loading it tells
    assert locate(CPU) == made
    told = Told()
    again = ensure(report=told)
    assert again.folder == made.folder
    assert ask(again.module).error == ""
    note = told.texts("note")[0]
    assert str(made.folder) in note
    assert "invalid ELF header" in note
    made.library.write_bytes(b"short")
    assert locate(CPU) is None
    assert ensure().library.stat().st_size == size


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "tiny_abi_version())",
            "tiny_abi_version() + 1)",
            "library speaks version 8 of the interface, 7 is needed",
        ),
        ("DEPLOYKIT_ABI_VERSION);", "6);", "module speaks version 6 of the interface, 7 is needed"),
        ('"[s]", "cpu"', '"[s]", "cuda"', "built for cuda, not for cpu"),
        ('"abi_version"', '"renamed"', "abi_version"),
        ("return made", "__builtin_trap()", "SIGILL"),
    ],
)
def test_a_library_of_another_version_is_refused(old: str, new: str, why: str, tree: Path) -> None:
    text = (tree / "module.cpp").read_text()
    assert old in text
    (tree / "module.cpp").write_text(text.replace(old, new))
    with pytest.raises(DeploykitError) as caught:
        build()
    assert why in (caught.value.why or "")


def test_a_child_that_hangs_is_an_answer_too(tree: Path) -> None:
    text = (tree / "module.cpp").read_text()
    (tree / "module.cpp").write_text(text.replace("return made", "for (;;);\n return made"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploykit.build.check.judge.__kwdefaults__", {"limit_s": 0.5})
        with pytest.raises(DeploykitError, match=r"did not end within 0\.5 s"):
            build()


def test_a_machine_without_compiler_uses_what_was_built(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build()
    monkeypatch.setattr(tools, "compiler", lambda path=None: None)
    assert locate(CPU) == made
    (tree / "other.cpp").write_text("int tiny_other() { return 9; }\n")
    assert locate(CPU) is None


def test_another_compiler_or_flags_are_another_build(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build()
    monkeypatch.setenv("CXXFLAGS", "-O0")
    assert locate(CPU) is None
    monkeypatch.delenv("CXXFLAGS")
    newer = tools.Tool("/opt/gcc-99/bin/g++", "g++ (GCC) 99.0")
    monkeypatch.setattr(tools, "compiler", lambda path=None: newer)
    assert locate(CPU) is None
    assert "the compiler" in (store.stale(CPU) or "")


def test_old_builds_go_the_newest_stay(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_BUILDS", 2)
    made = []
    for i in range(3):
        (tree / "other.cpp").write_text(f"int tiny_other() {{ return {i}; }} // {tree}\n")
        made.append(build())
    assert [m.library.is_file() for m in made] == [False, True, True]


def test_too_little_disk_and_missing_tools_are_told_before_anything_runs(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.build.make._DISK_BYTES", 1 << 60)
    with pytest.raises(DeploykitError, match="too little disk"):
        build()
    monkeypatch.setattr(
        "deploykit.build.make.problem", lambda machine, target: "no C++ compiler: apt install g++"
    )
    with pytest.raises(DeploykitError, match=r"can't be built(?s:.*)apt install g\+\+"):
        build()


# ---------------------------------------------------------------- prebuilt


def test_a_prebuilt_library_is_used_after_the_check(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build()
    ready = tmp_path / "ready"
    shutil.copytree(made.folder, ready)
    (tree / "other.cpp").write_text("int changed;\n")  # a prebuilt one need not be of these very sources
    monkeypatch.setenv("DEPLOYKIT_NATIVE_DIR", str(ready))
    found = locate(CPU)
    assert found is not None
    assert (found.origin, found.folder) == ("prebuilt", ready)
    assert ensure() == found
    # The verdict is kept as long as the files are the same.
    monkeypatch.setattr(prebuilt, "judge", lambda *_: pytest.fail("asked again"))
    assert locate(CPU) == found


def test_a_prebuilt_library_that_is_wrong_is_refused_not_passed_over(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build()
    ready = tmp_path / "ready"
    ready.mkdir()
    monkeypatch.setenv("DEPLOYKIT_NATIVE_DIR", str(ready))
    with pytest.raises(ConfigError, match="has no _deploykit_native"):
        locate(CPU)
    shutil.copytree(made.folder, ready, dirs_exist_ok=True)
    (ready / made.library.name).unlink()
    with pytest.raises(ConfigError, match="No such file"):
        locate(CPU)
    shutil.copy2(made.library, ready)
    header = tree / "include/deploykit/engine.h"
    header.write_text(header.read_text().replace("7", "8"))
    with pytest.raises(ConfigError, match="version 7 of the interface, 8 is needed"):
        ensure()
    header.write_text(header.read_text().replace("8", "7"))
    with pytest.raises(ConfigError, match="built for cpu, not for cuda"):
        locate(Target("cuda", "90a"))


def test_a_module_that_takes_another_library_is_found_out(tree: Path, tmp_path: Path) -> None:
    made = build()
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy2(made.module, alone)
    (alone / made.library.name).symlink_to(made.library)
    assert "takes another libdeploykit_engine" in (judge(alone / made.module.name, CPU, 7).why or "")
