"""The process that reads pickles: what it can't do, when it is stopped, and what an interrupted one leaves."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pickled_models import make_model, read, write_bin

from deploykit.checkpoint.convert_pickled import convert_pickled
from deploykit.errors import DeploykitError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_bin(tmp_path / "old model", make_model())


def test_the_confined_process_can_do_no_harm(tmp_path: Path) -> None:
    """The kernel's part alone, where it has one: without Python's own hook."""
    (tmp_path / "in").write_text("seen")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out").mkdir()
    code = """
import ctypes, os, socket, subprocess, sys
from pathlib import Path
from deploykit.checkpoint import confine
confine._audit = lambda write: None
home = Path(sys.argv[1])
names = confine.confine(read=[home / "in"], write=home / "out", address_space=1 << 28, file_size=1 << 20, seconds=60)
tries = {
    "allowed": lambda: ((home / "in").read_text(), (home / "out" / "x").write_text("x")),
    "landlock write": lambda: (home / "elsewhere").write_text("x"),
    "landlock read": lambda: (home / "secret").read_text(),
    "landlock change": lambda: (home / "in").write_text("x"),
    "landlock list": lambda: os.listdir("/"),
    "landlock link": lambda: os.symlink("/etc", home / "out" / "l"),
    "seccomp socket": lambda: socket.socket(),
    "seccomp unix": lambda: socket.socketpair(),
    "seccomp program": lambda: os.execv("/bin/true", ["true"]),
    "seccomp process": lambda: os.fork() or os._exit(0),
    "seccomp signal": lambda: os.kill(os.getppid(), 0),
    "resource memory": lambda: bytearray(1 << 29),
    "resource file": lambda: (home / "out" / "big").write_bytes(bytes(2 << 20)),
}
for name, action in tries.items():
    try:
        action()
        print(name, "done")
    except (OSError, MemoryError) as error:
        print(name, type(error).__name__)
print("limits", *names)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if not line.startswith("limits"))
    limits = done.stdout.splitlines()[-1]
    assert lines.pop("allowed") == "done", done.stdout + done.stderr
    for name, result in lines.items():
        assert result != "done" or name.split()[0] not in limits, name
    assert len(lines) == 12
    assert not (tmp_path / "elsewhere").exists()


def test_pythons_own_hook_refuses_too(tmp_path: Path) -> None:
    code = (
        "import socket, subprocess, sys\nfrom pathlib import Path\nfrom deploykit.checkpoint import confine\n"
        "confine._audit(Path(sys.argv[1]))\n"
        "for action in (lambda: socket.socket(), lambda: subprocess.run(['true']), lambda: open('/tmp/x', 'w')):\n"
        "    try:\n        action()\n    except PermissionError:\n        print('refused')\n"
        "open(sys.argv[1] + '/fine', 'w').close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["refused"] * 3, done.stderr
    assert (tmp_path / "fine").exists()


def test_a_slow_one_is_stopped(home: Path) -> None:
    with pytest.raises(DeploykitError, match="stopped") as e:
        convert_pickled(home, timeout=0.2)
    assert "--timeout" in str(e.value)
    assert sorted(p.name for p in home.parent.iterdir()) == ["old model"]


def test_a_full_disk_leaves_nothing(home: Path) -> None:
    """A limit on the size of files stands for the disk: it takes hold in the middle of the weights."""
    command = f"ulimit -f 200; exec {sys.executable} -m deploykit convert '{home}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "no room" in done.stderr
    assert sorted(p.name for p in home.parent.iterdir()) == ["old model"]


def test_a_killed_one_leaves_nothing_visible(home: Path) -> None:
    """SIGKILL to the command at different moments: its child ends with it, and the next one succeeds."""
    out = home.with_name("old model-safetensors")
    rng = random.Random(3)
    for moment in (0.4, 1.4 + rng.random()):
        command = [sys.executable, "-m", "deploykit", "convert", str(home)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():  # it was done before
            break
    assert not out.exists() or set(read(out))
    if not out.exists():
        convert_pickled(home)
    assert len(read(out)) == 21
    assert sorted(p.name for p in home.parent.iterdir()) == ["old model", "old model-safetensors"]


def test_the_command_says_what_it_did_as_json(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploykit", "convert", str(home), str(tmp_path / "o"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["path"], made["layout"], made["tensors"]) == (str(tmp_path / "o"), "huggingface", 21)
    assert "convert: ok 21 tensors" in done.stderr
    done = subprocess.run([*command[:4], "/nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such folder" in done.stderr
