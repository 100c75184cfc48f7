"""What is read out of Ninja's and the compilers' output."""

from __future__ import annotations

import pytest

from deploykit.build.run import first_error, parse_status

NINJA = """\
[1/3] Building CXX object core/CMakeFiles/deploykit_core.dir/model.cpp.o
[2/3] Building CXX object cpu/CMakeFiles/deploykit_ops.dir/ops/rope.cpp.o
FAILED: [code=1] cpu/CMakeFiles/deploykit_ops.dir/ops/rope.cpp.o
/usr/bin/c++ -DX -I/x -o cpu/CMakeFiles/deploykit_ops.dir/ops/rope.cpp.o -c /src/cpu/ops/rope.cpp
In file included from /src/cpu/ops/rope.cpp:1:
/src/cpu/ops/ops.h: In function 'int f()':
/src/cpu/ops/ops.h:12:3: error: 'x' was not declared in this scope
   12 |   x = 1;
      |   ^
/src/cpu/ops/ops.h:13:3: error: a second one
[3/3] Building CXX object cpu/CMakeFiles/deploykit_ops.dir/ops/other.cpp.o
ninja: build stopped: subcommand failed.
"""


def test_status_lines_name_the_source() -> None:
    assert parse_status(NINJA.splitlines()[0]) == (1, 3, "core/model.cpp")
    assert parse_status("[7/9] Linking CXX shared library out/libdeploykit_engine.so") == (
        7,
        9,
        "Linking CXX shared library out/libdeploykit_engine.so",
    )
    assert parse_status("/src/x.cpp:1: warning: [1/2] no") is None


def test_the_first_error_comes_with_what_follows_it_and_nothing_else() -> None:
    shown = first_error(NINJA).splitlines()
    assert shown[0] == "/src/cpu/ops/ops.h:12:3: error: 'x' was not declared in this scope"
    assert shown[-1] == "/src/cpu/ops/ops.h:13:3: error: a second one"


@pytest.mark.parametrize(
    "line",
    [
        "CMake Error at CMakeLists.txt:4 (find_package):",
        "/usr/bin/ld: x.o: in function `f': x.cpp:(.text+0x5): undefined reference to `g()'",
        "c++: fatal error: Killed signal terminated program cc1plus",
        "/src/x.cpp:1:10: fatal error: cublas_v2.h: No such file or directory",
        "/tmp/x.s: Assembler messages: fatal error: can't write: No space left on device",
        "x.cu(12): error: identifier 'foo' is undefined",
        "ninja: error: loading 'build.ninja': No such file or directory",
    ],
)
def test_every_tools_errors_are_known(line: str) -> None:
    assert first_error(f"[1/2] something\nFAILED: x.o\nc++ -c x.cpp\n{line}\n[2/2] x").splitlines() == [line]


def test_output_without_a_known_error_shows_its_end() -> None:
    text = "\n".join(f"line {i}" for i in range(100))
    assert first_error(text).splitlines()[-1] == "line 99"
    assert len(first_error(text).splitlines()) == 12
