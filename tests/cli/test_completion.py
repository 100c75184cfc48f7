"""Completion: what stands on offer at the cursor, and real shells that are given it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import Terminal

from deploykit.cli._complete import SOURCES, _kinds, _parameters, complete, lines, split
from deploykit.cli.app import COMMANDS, main
from deploykit.supervise.state import StateFile

BIN = Path(sys.executable).parent


def offered(*words: str) -> list[str]:
    return [candidate.value for candidate in complete(words).candidates]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe that has a profile, a model file, and something else."""
    (tmp_path / "zmine.yaml").write_text(
        "version: 1\nmodel: {id: a/b}\nextends: base.yml\nprofiles: {laptop: {engine: {device: cpu}}}\n"
    )
    (tmp_path / "base.yml").write_text("profiles: {tiny: {engine: {session_len: 512}}}\n")
    (tmp_path / "model.gguf").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "sub folder").mkdir()
    (tmp_path / "sub folder" / "in side.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))  # what other tests deployed isn't on offer
    return tmp_path


def test_commands() -> None:
    assert offered("") == list(COMMANDS)
    assert offered("va") == ["validate"]
    assert offered("help", "va") == ["validate"]
    assert offered("--v") == ["--version"]
    assert offered("nonsense", "") == []


def test_options_of_the_command_alone_and_each_once() -> None:
    assert {"--detach", "--wait", "--no-wait", "--set", "--help"} <= set(offered("up", "x", "--"))
    assert "--detach" not in offered("up", "-d", "--")
    assert "--set" in offered("up", "--set", "name=a", "--")  # repeatable
    assert offered("up", "--po") == ["--port"]
    assert offered("up", "--", "--po") == []  # a target that begins with dashes


def test_targets_are_shipped_recipes_and_files(folder: Path) -> None:
    for command in ("up", "plan", "chat", "validate", "pull", "templates show", "doctor", "config", "init"):
        found = complete([*command.split(), "smollm2-13"])
        assert "smollm2-135m" in [c.value for c in found.candidates], command
        assert found.files is not None, command
        assert "yaml" in found.files, command
    assert offered("show", "smollm2-13") == ["smollm2-135m"]
    assert complete(["show", ""]).files is None
    assert offered("up", "smollm2-135m", "") == []  # one target is enough


def test_deployments(folder: Path) -> None:
    record = StateFile("one", url="http://127.0.0.1:1", target="x", private=False)
    record.update(status="ready")
    assert offered("down", "") == ["one"]
    assert offered("logs", "") == ["one"]
    assert "one" in offered("chat", "")
    assert offered("down", "one", "") == []


def test_values_of_options(folder: Path) -> None:
    assert offered("plan", "--machine", "h10") == ["h100"]
    assert offered("plan", "--machine=h10") == ["--machine=h100"]
    assert offered("validate", "--format", "s") == ["sarif"]
    assert offered("up", "zmine.yaml", "--profile", "") == ["tiny", "laptop"]
    assert offered("up", "--profile", "laptop", "zmine.yaml", "--profile", "t") == ["tiny"]
    assert offered("up", "--profile", "") == []
    assert offered("completion", "") == ["bash", "zsh", "fish"]
    assert offered("init", "--use", "l") == ["long"]
    assert complete(["init", "-o", ""]).files == ()


def test_keys_of_a_recipe_a_level_at_a_time() -> None:
    found = complete(["up", "--set", "engine.ba"])
    assert ([c.value for c in found.candidates], found.nospace) == (["engine.backend="], True)
    assert offered("up", "--set", "engine.backend=") == [
        f"engine.backend={b}" for b in ("auto", "native", "pytorch")
    ]
    assert offered("up", "--set", "engine.cache.prefix_caching=t") == ["engine.cache.prefix_caching=true"]
    assert offered("up", "--set", "engine.session_len=") == ["engine.session_len=auto"]
    assert "engine." in offered("schema", "")
    found = complete(["schema", "engine.cache.quant"])
    assert ([c.value for c in found.candidates], found.nospace) == (["engine.cache.quant_policy"], False)
    assert offered("chat", "--set", "top") == ["top_p=", "top_k="]
    assert offered("up", "--set", "nonsense.") == []


def test_every_argument_of_every_command_has_a_source() -> None:
    for command in COMMANDS:
        function, parameters = _parameters(command)
        for parameter in parameters:
            if parameter.opts[0].startswith("-"):
                continue
            known = f"{command}.{parameter.name}" in SOURCES or parameter.name in SOURCES
            assert known or any(hasattr(kind, "__members__") for kind in _kinds(function, parameter.name)), (
                command,
                parameter.name,
            )


def test_sources_name_arguments_that_there_are() -> None:
    for key in SOURCES:
        command, dot, name = key.partition(".")
        if dot:
            assert name in [p.name for p in _parameters(command)[1]], key


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("deploykit ", ["deploykit", ""]),
        ("deploykit up sm", ["deploykit", "up", "sm"]),
        ("deploykit up --set a=b", ["deploykit", "up", "--set", "a=b"]),
        ('deploykit up "my fi', ["deploykit", "up", "my fi"]),
        ("deploykit up 'my fi", ["deploykit", "up", "my fi"]),
        ("deploykit up 'my file' ", ["deploykit", "up", "my file", ""]),
        ("deploykit up my\\ fi", ["deploykit", "up", "my fi"]),
        ("deploykit up #x", ["deploykit", "up", "#x"]),
    ],
)
def test_an_unfinished_line_of_bash_in_words(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_the_answer_is_lines_and_never_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert lines(complete(["validate", "zz"])) == [":files yaml yml"]
    assert lines(complete(["convert", ""])) == [":folders"]
    assert main(["__complete", "zsh", "plan", "--machine", "h10"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "h100\tNVIDIA H100 80GB HBM3, compute capability 9.0",
        ":files yaml yml json",
    ]
    assert main(["__complete", "zsh", "up", str(tmp_path / "missing.yaml"), "--profile", ""]) == 0
    assert main(["__complete"]) == 0
    assert main(["__complete", "bash"]) == 0


def test_a_question_imports_the_command_on_the_line_alone() -> None:
    code = (
        "import json, sys; from deploykit.cli.app import main; main(['__complete', 'zsh', *sys.argv[1:]]);"
        "print(json.dumps([m for m in sys.modules if m.startswith('deploykit.cli.')"
        " or m in ('torch', 'transformers', 'pydantic', 'rich', 'typer', 'yaml')]))"
    )

    def imported(*words: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        return set(json.loads(done.stdout.splitlines()[-1]))

    own = {"deploykit.cli.app", "deploykit.cli._complete", "deploykit.cli._complete_sources"}
    assert imported("u") == own
    up = imported("up", "")
    assert {m for m in up if m.startswith("deploykit.cli.") and "._" not in m} == {
        "deploykit.cli.app",
        "deploykit.cli.up",
    }
    assert not up & {"torch", "transformers", "pydantic", "yaml"}
    assert not imported("up", "--set", "engine.") & {"torch", "transformers", "pydantic"}


# ---------------------------------------------------------------- real shells


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    # TERM=dumb: a line is shown as it is, without colours and movements.
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TERM": "dumb",
        "PS1": "> ",
        "HOME": str(folder),
        "DEPLOYKIT_STATE": str(folder / "state"),
    }


SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.mark.parametrize("shell", [name for name in SHELLS if shutil.which(name)])
def test_a_shell_completes_at_its_prompt(shell: str, environment: dict[str, str], folder: Path) -> None:
    with Terminal(SHELLS[shell], environment, folder) as terminal:
        terminal.type(f"source <(deploykit completion {shell}); echo rea''dy\n", until="ready\r")
        terminal.type("deploykit pla\t", until="plan ")
        terminal.type("smollm2-13\t", until="smollm2-135m ")
        terminal.type("--set engine.back\t", until="engine.backend=")  # and no space: a value follows
        terminal.type("nat\t", until="native ")
        terminal.type("--machine=h10\t", until="=h100 ")
        terminal.type("\x15deploykit validate zmi\t", until="zmine.yaml ")
        terminal.type("sub\t", until="folder/")
        terminal.type("\t", until="in\\ side.yaml ")
        terminal.type("\x15deploykit up no\t\t\x15echo do''ne\n", until="done\r")
        if shell == "bash":  # zsh offers other files where none is of the right kind
            assert "notes.txt" not in terminal.seen


@pytest.mark.parametrize("shell", [name for name in ("fish",) if shutil.which(name)])
def test_fish_completes(shell: str, environment: dict[str, str], folder: Path) -> None:
    (folder / "d.fish").write_text(
        subprocess.check_output([BIN / "deploykit", "completion", "fish"], text=True)
    )

    def shown(line: str) -> list[str]:
        command = [shell, "--no-config", "-c", f"source d.fish; complete -C '{line}'"]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        return [row.split("\t")[0] for row in done.stdout.splitlines()]

    assert shown("deploykit pla") == ["plan"]
    assert shown("deploykit plan smollm2-13") == ["smollm2-135m"]
    assert shown("deploykit up --set engine.back") == ["engine.backend="]
    assert shown("deploykit up --set engine.backend=na") == ["engine.backend=native"]
    assert shown("deploykit validate zmi") == ["zmine.yaml"]
    assert set(shown("deploykit up ")) >= {"zmine.yaml", "model.gguf", "sub folder/", "smollm2-135m"}
    assert "notes.txt" not in shown("deploykit up ")


def test_scripts_are_syntax_that_their_shells_accept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        script = tmp_path / shell
        script.write_text(capsys.readouterr().out)
        assert "__complete" in script.read_text()
        if shutil.which(shell):
            subprocess.run([shell, "-n", script], check=True)
    assert main(["completion", "powershell"]) == 2
