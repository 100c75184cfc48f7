"""`deploykit build` as it is typed: output, exit codes, two at once, and builds that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploykit.build import CPU, locate
from deploykit.cli.app import main

Start = Callable[..., subprocess.Popen[str]]

# A part of the build that ends once a file appears; everything else is compiled beside it.
GATED = "add_custom_target(gate ALL COMMAND sh {script} VERBATIM)\n"


@pytest.fixture
def gate(tree: Path, tmp_path: Path) -> Path:
    """The build of `tree` waits until this file is there."""
    gate, script = tmp_path / "gate", tmp_path / "gate.sh"
    script.write_text(f"touch {gate}.reached\nuntil [ -e {gate} ]; do sleep 0.02; done\n")
    (tree / "CMakeLists.txt").write_text((tree / "CMakeLists.txt").read_text() + GATED.format(script=script))
    module = tree / "module.cpp"
    module.write_text(f"// {tmp_path}\n" + module.read_text())  # to be compiled whatever was built before
    return gate


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def reached(gate: Path) -> Path:
    return gate.with_name("gate.reached")


def test_a_pipe_gets_plain_lines_and_json(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--cpu", "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "built in" in out
    assert "[1/" in err
    assert "\x1b" not in out + err
    assert main(["build"]) == 0
    assert "built already" in capsys.readouterr().out
    assert main(["build", "--json", "--force"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = locate(CPU)
    assert found is not None
    assert told["built"] is True
    assert told["module"] == str(found.module)
    assert (told["target"], told["abi_version"], told["devices"]) == ("cpu", 7, ["cpu"])


def test_wrong_usage_is_exit_2(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--cpu", "--cuda", "90a"]) == 2
    assert main(["build", "--cuda", "hopper"]) == 2
    assert main(["build", "--jobs", "0"]) == 2
    assert "is no CUDA architecture" in capsys.readouterr().err


def test_a_failure_is_exit_1_with_the_error_and_the_log(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "other.cpp").write_text("#include <nowhere.h>\n")
    assert main(["build"]) == 1
    err = capsys.readouterr().err
    assert "nowhere.h: No such file" in err
    assert "build.log" in err


def test_of_two_builds_one_compiles_and_the_other_waits_for_it(start: Start, gate: Path) -> None:
    first = start("build", "--json")
    wait_for(reached(gate).exists)
    second = start("build", "--json")
    assert second.stderr is not None
    line = second.stderr.readline()
    assert f"process {first.pid} builds the same" in line
    gate.touch()
    told = [json.loads(process.communicate(timeout=60)[0]) for process in (first, second)]
    assert [t["built"] for t in told] == [True, False]
    assert told[0]["module"] == told[1]["module"]


def test_a_killed_build_blocks_nobody_and_leaves_nothing_half_done(
    start: Start, gate: Path, cache: Path
) -> None:
    first = start("build")
    wait_for(reached(gate).exists)
    second = start("build", "--json")
    assert second.stderr is not None
    assert "builds the same" in second.stderr.readline()
    reached(gate).unlink()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert locate(CPU) is None
    wait_for(reached(gate).exists)  # the second one compiles now, from nothing
    gate.touch()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert json.loads(out)["built"] is True
    assert "module.cpp" in err
    assert locate(CPU) is not None
    assert len(list((cache / "native" / "work").glob("cpu-*/tree-*"))) == 1


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_takes_its_compilers_with_it(
    sig: signal.Signals, start: Start, gate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start("build", "--jobs", "3")
    wait_for(reached(gate).exists)
    assert process.stderr is not None
    for line in process.stderr:
        if "module.cpp" in line:
            break
    process.send_signal(sig)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + sig
    assert "interrupted: there is no new library" in err
    wait_for(lambda: not _alive(f"{gate}.sh"))
    assert locate(CPU) is None
    gate.touch()
    assert main(["build"]) == 0
    assert "module.cpp" not in capsys.readouterr().err  # it was compiled before, and Ninja ended in order


def test_up_that_is_interrupted_as_it_compiles_says_so(
    smollm2: Path, start: Start, gate: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"version: 1\nmodel: {{path: {smollm2}}}\n"
        "engine: {backend: native, device: cpu, session_len: 512}\nserver: {port: 0}\n"
    )
    process = start("up", str(recipe))
    wait_for(reached(gate).exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "native library: … not built yet: compiling it, once" in out
    assert "native library: interrupted (" in out
    assert "failed" not in out + err
    wait_for(lambda: not _alive(f"{gate}.sh"))
    assert locate(CPU) is None
    assert not list((cache / "native").glob(".partial-*"))


def _alive(word: str) -> bool:
    """Whether a process runs whose command line has `word`."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in entry.read_bytes().decode(errors="replace") and int(entry.parent.name) != os.getpid():
                return True
        except OSError:
            continue
    return False
