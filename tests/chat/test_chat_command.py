"""`deploykit chat` as a process: one question through a pipe, and the prompt under a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-m", "deploykit", "chat"]


def _run(*args, stdin=None, **env):
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*COMMAND, *args], capture_output=True, timeout=60, env={**os.environ, **env}, **source
    )


def test_one_question_from_an_argument_and_a_pipe(stub):
    done = _run(stub.url, "sum this", "--set", "temperature=0", "--system", "Be brief.", stdin=b"1 2 3\n")
    assert done.returncode == 0
    assert done.stdout.decode() == "you said: sum this\n\n1 2 3\n"
    sent = stub.requests[0]
    assert sent["temperature"] == 0.0
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert stub.url in done.stderr.decode()


def test_one_question_as_json(stub):
    done = _run(stub.url, "evil", "--json")
    answer = json.loads(done.stdout)
    assert answer["text"].startswith("safe\x1b]0;")  # exact, and harmless as JSON
    assert b"\x1b" not in done.stdout
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 7


def test_text_is_sanitized_even_into_a_pipe(stub):
    assert _run(stub.url, "evil").stdout.decode() == "safe text red end\n"


@pytest.mark.parametrize(
    ("args", "stdin", "code", "says"),
    [
        (("fail",), None, 1, "the engine was restarted"),
        (("hi", "--set", "temprature=1"), None, 2, "did you mean `temperature`"),
        (("hi", "--set", "temperature=9"), None, 2, "0 to 2"),
        ((), None, 2, "there is no question"),
        (("hi",), b"\xff\xfe", 2, "not UTF-8"),
        (("hi", "-p", "hi"), None, 2, "given twice"),
    ],
)
def test_mistakes_are_told_and_have_their_exit_code(stub, args, stdin, code, says):
    done = _run(stub.url, *args, stdin=stdin)
    assert done.returncode == code
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_target_that_is_nothing(stub):
    done = _run("smollm2-135", "hi")
    assert done.returncode == 2
    assert "did you mean `smollm2-135m`?" in done.stderr.decode()


class Terminal:
    """The command under a pseudo terminal."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                TERM="xterm", NO_COLOR="1", PROMPT_TOOLKIT_NO_CPR="1", COLUMNS="100", LINES="40"
            )
            os.execv(sys.executable, [*COMMAND, *args])
        self.seen = ""

    def expect(self, text, timeout=30.0):
        """Read until `text` comes; what was read before it is used up."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come; there is: {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                assert data, f"it ended without {text!r}: {self.seen!r}"
                self.seen += data.decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def send(self, text):
        os.write(self.fd, text.encode())

    def line(self, text):
        self.send(text + "\r")

    def wait(self):
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)


@pytest.fixture
def terminal(stub):
    terminals = []

    def start(*args):
        terminals.append(Terminal(stub.url, *args))
        terminals[-1].expect(">>>")
        return terminals[-1]

    yield start
    for one in terminals:
        one.kill()


def test_the_prompt_talks_obeys_and_leaves(stub, terminal, tmp_path):
    t = terminal()
    t.line("hello there")
    t.expect("you said: hello there")
    t.expect("in 12 (cached 4) · out 7")
    t.expect(">>>")
    t.line("/set temperature=0.25")
    t.expect("temperature = 0.25")
    t.expect(">>>")
    t.line("/temp")
    t.expect("unknown command /temp")
    t.expect(">>>")
    t.line("/set top_p=7")
    t.expect("above 0, up to 1")
    t.expect(">>>")
    t.line("/system Be brief.")
    t.expect("system message set")
    t.expect(">>>")
    t.line("/retry")
    t.expect("you said: hello there")
    t.expect(">>>")
    assert stub.requests[-1]["temperature"] == 0.25
    assert [m["content"] for m in stub.requests[-1]["messages"]] == ["Be brief.", "hello there"]
    t.line("/undo")
    t.expect("took back: hello there")
    t.expect(">>>")
    t.line("/model other")
    t.expect("model other")
    t.expect(">>>")
    t.line("//not a command")
    t.expect("you said: /not a command")
    t.expect(">>>")
    assert stub.requests[-1]["model"] == "other"
    assert len(stub.requests[-1]["messages"]) == 2
    t.line("fail")
    t.expect("the engine was restarted")
    t.expect(">>>")
    t.line("/bye")
    assert t.wait() == 0
    history = tmp_path / "state" / "chat_history"
    assert "hello there" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_more_than_one_line(stub, terminal):
    t = terminal()
    t.line('"""')
    t.line("first")
    t.line('second"""')
    t.expect("you said: first")
    t.expect(">>>")
    assert stub.requests[-1]["messages"][-1]["content"] == "first\nsecond"
    t.send("one\x1b\rtwo\r")  # Alt-Enter
    t.expect("you said: one")
    assert stub.requests[-1]["messages"][-1]["content"] == "one\ntwo"
    t.expect(">>>")
    t.send("\x1b[200~pasted\ntwice\x1b[201~")
    t.send("\r")
    t.expect("you said: pasted")
    assert stub.requests[-1]["messages"][-1]["content"] == "pasted\ntwice"


def test_ctrl_c_stops_the_answer_then_leaves(stub, terminal):
    t = terminal()
    t.line("slow")
    t.expect("tick tick tick")
    t.send("\x03")
    t.expect("aborted")
    assert stub.hung_up.wait(5)
    t.expect(">>>")
    t.send("half a line")
    t.expect("half a line")
    t.send("\x03")  # throws the line away
    t.line("hi")
    t.expect("you said: hi")
    t.expect(">>>")
    t.send("\x03")
    assert t.wait() == 0


def test_what_a_model_writes_does_not_reach_the_terminal(stub, terminal):
    t = terminal("--no-stats")
    t.line("evil")
    t.expect("safe text red end")
    assert "owned" not in t.seen
