"""The front door of the command line: light, honest about mistakes, and never a traceback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import __version__
from deploykit.cli.app import COMMANDS, main

HEAVY = ("torch", "transformers", "pydantic", "numpy", "rich", "yaml", "starlette", "uvicorn", "tokenizers")


def deploykit(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploykit", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )


def imported(*args: str) -> set[str]:
    """What running a command imports."""
    script = (
        "import sys; from deploykit.cli.app import main; main(sys.argv[1:]);"
        "print('\\n@', ' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.rpartition("@")[2].split())


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_every_command_and_succeeds(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in out


def test_help_imports_no_command_and_nothing_heavy() -> None:
    modules = imported("--help")
    assert not {f"deploykit.cli.{name}" for name in COMMANDS} & modules
    assert not {m for m in modules if m.split(".")[0] in (*HEAVY, "typer", "msgspec")}


@pytest.mark.parametrize(
    "args", [("ps",), ("up", "--help"), ("chat", "--help"), ("down", "--help"), ("version",)]
)
def test_light_commands_import_neither_torch_nor_transformers(args: tuple[str, ...]) -> None:
    assert not {m for m in imported(*args) if m.split(".")[0] in ("torch", "transformers")}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_exists_and_explains_itself(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert importlib.util.find_spec(f"deploykit.cli.{name}") is not None
    assert main([name, "--help"]) == 0
    out = capfd.readouterr().out
    assert f"Usage: deploykit {name}" in out
    arguments = out.splitlines()[0].partition("[OPTIONS]")[2].removesuffix(".json]")
    assert arguments == arguments.upper()  # a word for what is to be given, the same way everywhere
    assert "[[" not in arguments
    assert main(["help", name]) == 0


@pytest.mark.parametrize("args", [("version",), ("--version",), ("-V",)])
def test_version(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    assert capsys.readouterr().out == f"deploykit {__version__}\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["upp"], "deploykit up"),
        (["start"], "one of:"),
        (["--frobnicate"], "no option"),
        (["up"], "Missing argument"),
        (["up", "x", "--porrt", "1"], "--port"),
        (["up", "x", "--port", "99999"], "65535"),
        (["up", "x", "--port", "many"], "--port"),
        (["up", "x", "y"], "unexpected extra argument"),
        (["up", "x", "--wait"], "--detach"),
        (["up", "x", "-d", "--no-wait", "--wait-timeout", "3"], "exclude"),
        (["down"], "--all"),
        (["down", "a", "--all"], "not both"),
        (["down", "no-such-deployment"], "there is no deployment"),
        (["down", "../../etc"], "can't be the name"),
        (["logs", "no-such-deployment"], "there is no deployment"),
        (["logs", "-n", "-1"], "--lines"),
        (["serve.yaml"], "deploykit up serve.yaml"),
        (["a\x1b[31mb"], "\\x1b"),
    ],
)
def test_a_wrong_command_line_is_exit_2(
    args: list[str],
    words: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path))
    assert main(args) == 2
    err = capfd.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert "\x1b" not in err


BAD_RECIPES = {
    "malformed YAML": "version: 1\nmodel: {id: [",
    "unknown key": "version: 1\nmodel: {id: a/b}\nservr: {}\n",
    "wrong type": "version: 1\nmodel: {id: a/b}\nserver: {port: many}\n",
    "out of range": "version: 1\nmodel: {id: a/b}\nserver: {port: 1e99}\n",
    "not a number": "version: 1\nmodel: {id: a/b}\nengine: {cache: {ratio: .nan}}\n",
    "deep": "version: 1\nmodel: " + "[" * 5000,
    "lone surrogate": 'version: 1\nmodel: {id: a/b}\nname: "\\ud800"\n',
    "empty": "",
    "no model": "version: 1\n",
    "two origins": "version: 1\nmodel: {id: a/b, path: c}\n",
    "open address": "version: 1\nmodel: {id: a/b}\nserver: {host: 0.0.0.0}\n",
    "no such key": "version: 1\nmodel: {id: a/b}\nserver: {api_keys: [{env: NOT_SET_ANYWHERE}]}\n",
    "no such template": "version: 1\nmodel: {id: a/b}\nchat: {template: none.jinja}\n",
    "no such model": "version: 1\nmodel: {path: nowhere}\nserver: {port: 0}\n",
}


@pytest.mark.parametrize("kind", list(BAD_RECIPES))
def test_up_refuses_a_bad_recipe_with_exit_2(
    kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    path = tmp_path / "bad.yaml"
    path.write_text(BAD_RECIPES[kind])
    assert main(["up", str(path)]) == 2
    out, err = capfd.readouterr()
    assert "error" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "item", ["", "=", "server.port", "server.port=", "servr.port=1", "server.port=x", "a=\udc80"]
)
def test_up_refuses_a_bad_set(item: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("version: 1\nmodel: {path: nowhere}\nserver: {port: 0}\n")
    assert main(["up", str(path), "--set", item]) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_is_told_without_a_traceback_unless_asked_for(tmp_path: Path) -> None:
    """A state folder in a place that no one foresaw."""
    script = (
        "import sys; import deploykit.cli.version as v\n"
        "def broken(): raise ZeroDivisionError('no')\n"
        "v.version = broken\n"
        "from deploykit.cli.app import main; sys.exit(main(['version']))"
    )
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert plain.returncode == 1
    assert "ZeroDivisionError: no" in plain.stderr
    assert "DEPLOYKIT_DEBUG=1" in plain.stderr
    assert "Traceback" not in plain.stderr
    debug = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "DEPLOYKIT_DEBUG": "1"},
        check=False,
    )
    assert "Traceback" in debug.stderr


def test_a_reader_that_left_is_no_error() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -m deploykit schema | head -c 10; exit 0'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""


def test_python_dash_m_is_the_same_program() -> None:
    assert deploykit("version").stdout == f"deploykit {__version__}\n"
    assert deploykit("nonsense").returncode == 2
