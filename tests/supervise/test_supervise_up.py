"""`up`, `ps`, `logs`, `down` from the outside: the real processes, with the fake runner in the engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import gone, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))
import tiny_checkpoint

COMMAND = [sys.executable, "-m", "deploykit"]
PATIENCE = 60.0


class Kit:
    """The command line, in a world of its own."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_checkpoint.make(folder / "models" / "Tiny")
        self.runtime = Path(tempfile.mkdtemp(prefix="dk"))  # short: a socket's path has a limit
        self.env = {
            **os.environ,
            "DEPLOYKIT_TESTING": "1",
            "DEPLOYKIT_RUNNER": "fake",
            "DEPLOYKIT_STATE": str(folder / "state"),
            "DEPLOYKIT_CACHE": str(folder / "cache"),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**self.env, **env},
            check=False,
        )

    def up(self, *args: str, target: str | None = None, **env: str) -> subprocess.Popen[str]:
        """`up` in the foreground, on any port."""
        process = subprocess.Popen(
            [*COMMAND, "up", target or str(self.model), "--port", "0", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, **env},
        )
        self.started.append(process)
        return process

    def ps(self, *args: str) -> list[dict[str, Any]]:
        return json.loads(self.run("ps", "--json", *args).stdout)

    def state(self, name: str = "tiny") -> dict[str, Any]:
        """The record itself: quicker than asking `ps`."""
        path = Path(self.env["DEPLOYKIT_STATE"]) / "deployments" / name / "state.json"
        return json.loads(path.read_text()) if path.exists() else {"status": None}

    def wait(self, status: str, name: str = "tiny") -> dict[str, Any]:
        wait_until(lambda: self.state(name)["status"] == status, f"{name} {status}", PATIENCE)
        return self.state(name)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        root = Path(self.env["DEPLOYKIT_STATE"]) / "deployments"
        for folder in root.iterdir() if root.exists() else ():
            state = self.state(folder.name)
            if state["status"] in ("starting", "ready", "restarting", "draining"):
                with_pid = state["pid"]
                if not gone(with_pid):
                    os.kill(with_pid, signal.SIGKILL)
                wait_until(lambda pid=with_pid: gone(pid), "the supervisor")
        shutil.rmtree(self.runtime)


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    kit = Kit(tmp_path)
    yield kit
    kit.close()


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def refuses(url: str) -> bool:
    """New work: 503, or no connection at all."""
    try:
        Stream(url, 1)
    except urllib.error.HTTPError as error:
        return error.code == 503 and error.headers["Retry-After"] is not None
    except OSError:
        return True
    return False


class Stream:
    """A streamed completion, read in a thread."""

    def __init__(self, url: str, max_tokens: int = 200) -> None:
        body = {"model": "tiny", "prompt": "x", "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        self.data = b""
        self.failed: Exception | None = None
        self._response = urllib.request.urlopen(request, timeout=PATIENCE)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while chunk := self._response.read1(4096):
                self.data += chunk
        except Exception as error:  # what a cut connection raises differs by the moment
            self.failed = error

    def running(self) -> bool:
        return b"data:" in self.data and self._thread.is_alive()

    def end(self) -> bytes:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.data


def listening_sockets(pids: list[int]) -> set[str]:
    """Local addresses of the TCP sockets that these processes listen on."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(fd.readlink()).removeprefix("socket:[").rstrip("]"))
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}


SLOW = "engine.step:delay=0.02"


def test_up_in_the_foreground_until_ctrl_c(kit: Kit) -> None:
    process = kit.up()
    state = kit.wait("ready")
    assert get(f"{state['url']}/health/ready")[0] == 200
    runtime = Path(state["runtime_dir"])
    assert runtime.parent == kit.runtime
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in runtime.iterdir())
    pids = [state[key] for key in ("pid", "front_pid", "engine_pid")]
    assert len(listening_sockets(pids)) == 1, "one listening TCP socket in all"
    for pid in pids:  # the fake runner's engine doesn't either
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert err == ""
    for words in ("recipe valid", "weights", "plan", "KV blocks", "warm-up", "ready", "curl ", state["url"]):
        assert words in out
    assert out.index("recipe valid") < out.index("weights") < out.index("plan") < out.index("ready: ok")
    assert not runtime.exists()
    assert all(gone(state[key]) for key in ("engine_pid", "front_pid"))
    assert kit.state()["status"] == "stopped"


def test_sigterm_lets_running_streams_finish_and_refuses_new_work(kit: Kit) -> None:
    process = kit.up(DEPLOYKIT_FAULT=SLOW)
    state = kit.wait("ready")
    streams = [Stream(state["url"], 100) for _ in range(4)]
    wait_until(lambda: all(s.running() for s in streams), "the streams")
    process.send_signal(signal.SIGTERM)
    kit.wait("draining")
    wait_until(lambda: refuses(state["url"]), "the refusal")
    assert all(s.running() for s in streams)
    for stream in streams:
        assert stream.end().rstrip().endswith(b"data: [DONE]")
    assert process.wait(PATIENCE) == 0


def test_drain_timeout_zero_ends_soon(kit: Kit) -> None:
    process = kit.up("--set", "server.drain_timeout=0", DEPLOYKIT_FAULT=SLOW)
    stream = Stream(kit.wait("ready")["url"], 2000)
    wait_until(stream.running, "the stream")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0  # the stream would take longer
    assert b"[DONE]" not in stream.end()


def test_killed_engine_under_load(kit: Kit) -> None:
    kit.up(DEPLOYKIT_FAULT=SLOW)
    state = kit.wait("ready")
    stream = Stream(state["url"], 2000)
    wait_until(stream.running, "the stream")
    os.kill(state["engine_pid"], signal.SIGKILL)
    data = stream.end()
    assert b'"error"' in data
    assert b"[DONE]" not in data
    kit.wait("restarting")
    assert get(f"{state['url']}/health/ready")[0] == 503
    assert get(f"{state['url']}/health/live")[0] == 200
    after = kit.wait("ready")
    assert (after["front_pid"], after["restarts"]) == (state["front_pid"], 1)
    assert after["engine_pid"] != state["engine_pid"]
    wait_until(lambda: get(f"{state['url']}/health/ready")[0] == 200, "readiness")
    assert Stream(state["url"], 5).end().rstrip().endswith(b"data: [DONE]")


def test_killed_front_serves_again(kit: Kit) -> None:
    kit.up()
    state = kit.wait("ready")
    os.kill(state["front_pid"], signal.SIGKILL)
    kit.wait("restarting")
    assert get(f"{state['url']}/v1/models")[0] == 200, "the connection waits for the next front"
    assert kit.wait("ready")["engine_pid"] == state["engine_pid"]


def test_killed_supervisor_takes_everything_with_it(kit: Kit) -> None:
    process = kit.up()
    state = kit.wait("ready")
    process.kill()
    for key in ("engine_pid", "front_pid"):
        wait_until(lambda key=key: gone(state[key]), key, 2.0)
    (listed,) = kit.ps()
    assert (listed["status"], listed["pid"], listed["error"]) == ("failed", None, "its supervisor was killed")
    assert "failed (killed)" in kit.run("ps").stdout
    port = state["url"].rpartition(":")[2]
    again = kit.up("--set", f"server.port={port}")  # the name, the port and the leavings are free
    wait_until(lambda: kit.state()["pid"] == again.pid, "the new record", PATIENCE)
    kit.wait("ready")
    assert not Path(state["runtime_dir"]).exists()


def test_second_up_of_the_same_name_and_of_the_same_port(kit: Kit) -> None:
    kit.up()
    state = kit.wait("ready")
    same = kit.run("up", str(kit.model), "--port", "0")
    assert same.returncode == 2
    assert "tiny is already running" in same.stderr
    assert state["url"] in same.stderr
    port = state["url"].rpartition(":")[2]
    other = kit.run("up", str(kit.model), "--port", port, "--set", "name=other")
    assert other.returncode == 2
    assert f"port {port} is already in use" in other.stderr
    assert f"deployment tiny holds it (pid {state['pid']}" in other.stderr
    assert "Traceback" not in same.stderr + other.stderr
    assert get(f"{state['url']}/health/ready")[0] == 200


def test_detached_life(kit: Kit) -> None:
    up = kit.run("up", str(kit.model), "-d", "--port", "0")
    assert up.returncode == 0, up.stderr
    state = kit.state()
    assert state["status"] == "ready"
    assert f"ready: ok {state['url']}" in up.stdout
    assert get(f"{state['url']}/v1/models")[0] == 200
    (listed,) = kit.ps()
    assert (listed["name"], listed["status"], listed["pid"]) == ("tiny", "ready", state["pid"])
    table = kit.run("ps").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATUS", "URL", "ENGINE", "PID", "UPTIME"]
    assert table[1].split()[:5] == ["tiny", "ready", state["url"], "fake/cpu", str(state["pid"])]
    assert "GET /v1/models 200" in kit.run("logs").stdout
    assert len(kit.run("logs", "tiny", "-n", "3").stdout.splitlines()) == 3
    follower = subprocess.Popen([*COMMAND, "logs", "-f"], stdout=subprocess.PIPE, text=True, env=kit.env)
    down = kit.run("down", "tiny")
    assert (down.returncode, down.stdout) == (0, "tiny: stopped\n")
    assert "ended with exit code 0" in follower.communicate(timeout=PATIENCE)[0]
    assert all(gone(state[key]) for key in ("pid", "engine_pid", "front_pid"))
    assert not Path(state["runtime_dir"]).exists()
    assert kit.ps() == []
    assert [s["status"] for s in kit.ps("--all")] == ["stopped"]
    assert kit.run("down", "tiny").stdout == "tiny: had ended already; forgotten\n"
    assert kit.ps("--all") == []
    unknown = kit.run("down", "tiny")
    assert unknown.returncode == 2
    nothing = kit.run("down")
    assert (nothing.returncode, "nothing runs" in nothing.stderr) == (2, True)
    assert kit.run("down", "--all").returncode == 0


def test_a_recipe_on_stdin_runs_in_the_background(kit: Kit) -> None:
    """Its supervisor reads it once more, after whoever wrote it is gone."""
    recipe = f"version: 1\nname: piped\nmodel: {{path: {kit.model}}}\nengine: {{max_batch_size: 3}}\n"
    up = kit.run("up", "-", "-d", "--port", "0", stdin=recipe)
    assert up.returncode == 0, up.stdout + up.stderr
    state = kit.state("piped")
    assert (state["status"], state["target"]) == ("ready", "<stdin>")
    assert get(f"{state['url']}/v1/models")[0] == 200
    assert kit.run("down", "piped").returncode == 0


def test_no_wait_returns_at_once_and_down_stops_what_is_starting(kit: Kit) -> None:
    up = kit.run("up", str(kit.model), "-d", "--no-wait", "--port", "0", DEPLOYKIT_FAULT="engine.load:hang")
    assert up.returncode == 0
    wait_until(lambda: kit.state().get("engine_pid") is not None, "the engine", PATIENCE)
    assert [s["status"] for s in kit.ps()] == ["starting"]
    assert kit.run("down", "--all").returncode == 0
    assert kit.state()["status"] == "stopped"


def test_wait_timeout(kit: Kit) -> None:
    args = ("-d", "--wait-timeout", "2", "--port", "0")
    up = kit.run("up", str(kit.model), *args, DEPLOYKIT_FAULT="engine.load:hang")
    assert up.returncode == 1
    assert "isn't ready after 2 s" in up.stderr
    assert kit.state()["status"] == "starting"


@pytest.mark.parametrize(
    ("fault", "words", "detach"),
    [
        ("raise", "ScriptedFault", False),
        ("raise", "ScriptedFault", True),
        ("exit", "exited with code 70", True),
    ],
)
def test_an_engine_that_does_not_load(kit: Kit, fault: str, words: str, detach: bool) -> None:
    args = ["-d"] if detach else []
    up = kit.run("up", str(kit.model), "--port", "0", *args, DEPLOYKIT_FAULT=f"engine.load:{fault}")
    assert up.returncode == 1
    assert words in up.stderr
    assert "ready: ok" not in up.stdout
    (state,) = kit.ps()
    assert (state["status"], state["exit_code"]) == ("failed", 1)
    assert "failed (1)" in kit.run("ps").stdout
    assert list(kit.runtime.iterdir()) == []
    assert "engine" in kit.run("logs", "tiny").stdout


def test_crash_loop_ends_with_exit_1(kit: Kit) -> None:
    sets = ("--set", "server.restart.max=1")
    # late enough that the stream has begun: a crash before its first token is answered 503, not with a stream
    process = kit.up(*sets, DEPLOYKIT_FAULT="engine.step:delay=0.02,engine.step:exit@20")
    for _ in range(2):
        state = kit.wait("ready")
        Stream(state["url"], 50).end()
        wait_until(lambda: kit.state()["status"] != "ready", "the crash")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "the engine ended 2 times" in err
    assert kit.state()["status"] == "failed"
    assert all(gone(state[key]) for key in ("engine_pid", "front_pid"))


def test_a_detached_up_reports_what_its_supervisor_refuses(kit: Kit) -> None:
    (kit.model / "config.json").write_text("{}")
    for args in ((), ("-d",)):
        up = kit.run("up", str(kit.model), "--port", "0", *args)
        assert up.returncode == 2
        assert "error: " in up.stderr
        assert "Traceback" not in up.stderr + up.stdout


def test_interrupted_while_it_waits_the_deployment_goes_on(kit: Kit) -> None:
    process = kit.up("-d", DEPLOYKIT_FAULT="engine.load:delay=1")
    wait_until(lambda: kit.state().get("engine_pid") is not None, "the engine", PATIENCE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "goes on starting in the background" in err
    kit.wait("ready")


def test_launch_private_ends_with_its_owner(kit: Kit) -> None:
    script = (
        "import sys, time\n"
        "from deploykit.supervise.launch import launch\n"
        "with launch(sys.argv[1], private=True) as it:\n"
        "    it.wait_ready(timeout=50)\n"
        "    print(it.name, it.url, flush=True)\n"
        "    input()\n"
    )
    owners = []
    for _ in range(2):
        owner = subprocess.Popen(
            [sys.executable, "-c", script, str(kit.model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kit.env,
        )
        kit.started.append(owner)
        assert owner.stdout is not None
        name, url = owner.stdout.readline().split()
        owners.append((owner, name, url, kit.state(name)))
    for (owner, name, url, state), how in zip(owners, ("ends", "is killed"), strict=True):
        assert state["private"]
        assert get(f"{url}/health/ready")[0] == 200
        if how == "ends":
            owner.communicate("\n", timeout=PATIENCE)
            assert kit.state(name)["status"] is None, "nothing of it is left"
        else:
            owner.kill()
        for key in ("pid", "engine_pid", "front_pid"):
            wait_until(lambda state=state, key=key: gone(state[key]), f"{key} of one whose owner {how}")


def test_down_now_does_not_wait_for_running_streams(kit: Kit) -> None:
    kit.up("-d", DEPLOYKIT_FAULT=SLOW)
    state = kit.wait("ready")
    stream = Stream(state["url"], 2000)
    wait_until(stream.running, "the stream")
    down = kit.run("down", "tiny", "--now")
    assert (down.returncode, down.stdout) == (0, "tiny: stopped\n")
    assert b"[DONE]" not in stream.end()
    assert all(gone(state[key]) for key in ("pid", "engine_pid", "front_pid"))
    assert kit.state()["status"] == "stopped"
    assert list(kit.runtime.iterdir()) == []


def test_a_recipe_of_layers_is_the_same_in_the_background(kit: Kit) -> None:
    """What extends, profiles, the environment and --set say holds there too, each of them once."""
    folder = kit.model.parent
    (folder / "base.yaml").write_text(
        f"version: 1\nmodel: {{path: {kit.model}}}\nserver: {{model_names: [a]}}\n"
    )
    recipe = folder / "layers.yaml"
    recipe.write_text(
        "extends: base.yaml\nname: ${env.LAYERS_NAME}\n"
        "profiles: {b: {server: {model_names: !append [b]}}, other: {server: {model_names: [z]}}}\n"
    )
    sets = ("--set", "server.model_names=!append [d]")
    environ = {"LAYERS_NAME": "tiny", "DEPLOYKIT_SET__server__model_names": "!append [c]"}
    done = kit.run("up", str(recipe), "-d", "--port", "0", "--profile", "b", *sets, **environ)
    assert done.returncode == 0, done.stderr
    assert "with profile b" in done.stdout
    models = json.loads(get(f"{kit.wait('ready')['url']}/v1/models")[1])["data"]
    assert [model["id"] for model in models] == ["a", "b", "c", "d"]
    assert kit.run("down", "tiny").returncode == 0
