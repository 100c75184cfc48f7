"""How stages and errors look, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import io

import pytest

from deploykit.cli._output import StageDisplay, ago, print_error, safe, stage_display
from deploykit.deployment.stage import Stage, stage
from deploykit.errors import ConfigError, DeploykitError
from deploykit.supervise.types import ProcessFailed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STAGES = [
    Stage(name="recipe", state="start"),
    Stage(name="recipe", state="done", detail="mine", seconds=0.002),
    Stage(name="weights", state="start"),
    Stage(name="weights", state="progress", detail="1 of 2 GiB", fraction=0.5),
    Stage(name="weights", state="progress", detail="2 of 2 GiB"),
    Stage(name="weights", state="done", detail="a\x1b[2Jb", seconds=61.0),
    Stage(name="restart", state="start", detail="the engine was killed"),
    Stage(name="plan", state="start"),
    Stage(name="plan", state="failed", seconds=0.1),
]


def show(stream: io.StringIO) -> str:
    display = stage_display(stream)
    for one in STAGES:
        display.report(one)
    display.close()
    return stream.getvalue()


def test_a_pipe_gets_one_plain_line_for_each_stage() -> None:
    assert show(io.StringIO()).splitlines() == [
        "recipe valid: ok mine (2 ms)",
        "weights: ok a\\x1b[2Jb (61.0 s)",
        "restart: … the engine was killed",
        "plan: failed (100 ms)",
    ]


@pytest.mark.parametrize("colour", [False, True])
def test_an_interruption_is_no_failure_and_a_wrong_recipe_is_not_valid(
    colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if colour else io.StringIO()
    ended: list[Stage] = []
    for name, error in (("native", KeyboardInterrupt()), ("recipe", DeploykitError("wrong"))):
        with contextlib.suppress(BaseException), stage(name, ended.append):
            raise error
    for one in ended[1::2]:
        stage_display(stream).report(one)
    first, second = stream.getvalue().splitlines()
    assert "native library" in first
    assert "interrupted" in first
    assert "failed" not in first
    assert "valid" not in second


def test_a_terminal_gets_marks_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = show(Terminal())
    assert "\x1b[32m✔\x1b[0m recipe valid" in text
    assert "✘" in text
    assert "\x1b[2Jb" not in text, "what a file is called must not clear the screen"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert type(stage_display(Terminal())) is StageDisplay


def test_an_error_says_what_where_why_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfigError("it broke", where="here", why="two\nlines", fix="mend\x07 it"))
    assert capsys.readouterr().err.splitlines() == [
        "error: it broke",
        "  where: here",
        "  why:   two",
        "         lines",
        "  fix:   mend\\x07 it",
    ]


def test_the_last_lines_of_a_process_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ProcessFailed(ConfigError("the engine ended"), ["one", "two"]))
    assert capsys.readouterr().err.splitlines() == ["  | one", "  | two", "error: the engine ended"]


def test_safe_keeps_text_and_escapes_what_a_terminal_acts_on() -> None:
    assert safe("Grüße\t世界\n") == "Grüße\t世界\n"
    assert safe("\x1b]0;x\x07\u202e\r") == "\\x1b]0;x\\x07\\x202e\\x0d"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (200000, "2d")]
)
def test_ago(seconds: float, text: str) -> None:
    assert ago(seconds) == text
