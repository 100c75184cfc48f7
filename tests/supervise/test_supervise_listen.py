"""The port: bound first, and a refusal that says who holds it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from supervised import wait_until

from deploykit.errors import ConfigError
from deploykit.supervise.listen import bind, url_of
from deploykit.supervise.osinfo import port_holders
from deploykit.supervise.state import StateFile, acquire


def test_port_zero_takes_a_free_one_and_holds_it() -> None:
    with bind("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        assert url_of("127.0.0.1", held) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=f"port {port} is already in use"):
            bind("127.0.0.1", port)
    bind("127.0.0.1", port).close()


def test_a_busy_port_names_the_process_that_holds_it(tmp_path: Path) -> None:
    script = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, "marker"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        for host in ("127.0.0.1", "0.0.0.0", "localhost"):
            with pytest.raises(ConfigError) as caught:
                bind(host, port)
            assert caught.value.exit_code == 2
            assert f"process {other.pid} " in (caught.value.why or "")
            assert Path(sys.executable).name in (caught.value.why or "")
            assert "--port" in (caught.value.fix or "")
    finally:
        other.kill()
        other.wait()


def test_a_busy_port_names_our_deployment(state_folder: Path) -> None:
    lock = acquire("mine")
    with bind("127.0.0.1", 0) as held:
        record = StateFile("mine", url=url_of("127.0.0.1", held), target="t")
        with pytest.raises(ConfigError) as caught:
            bind("127.0.0.1", held.getsockname()[1])
        assert f"deployment mine holds it (pid {os.getpid()}" in (caught.value.why or "")
        assert "deploykit down mine" in (caught.value.fix or "")
        record.update(status="stopped")
        with pytest.raises(ConfigError) as caught:
            bind("127.0.0.1", held.getsockname()[1])
        assert f"process {os.getpid()} " in (caught.value.why or "")
    os.close(lock)


def test_ipv6_holders_are_found() -> None:
    try:
        held = bind("::1", 0)
    except ConfigError:
        pytest.skip("no IPv6 here")
    with held:
        port = held.getsockname()[1]
        assert url_of("::1", held) == f"http://[::1]:{port}"
        assert [h.pid for h in port_holders("::1", port)] == [os.getpid()]
        assert port_holders("127.0.0.1", port) == []


def test_all_addresses_are_shown_as_one_that_works() -> None:
    with bind("0.0.0.0", 0) as held:
        url = url_of("0.0.0.0", held)
        assert url.startswith("http://127.0.0.1:")
        socket.create_connection(("127.0.0.1", held.getsockname()[1])).close()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "a" * 300, "ex ample", "\udc80"])
def test_an_address_of_nobody(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(host, 0)
    assert caught.value.exit_code == 2
    assert caught.value.where


def test_a_connection_waits_until_the_front_accepts() -> None:
    with bind("127.0.0.1", 0) as held:
        client = socket.create_connection(("127.0.0.1", held.getsockname()[1]), timeout=5)
        client.sendall(b"early")
        connection, _ = held.accept()
        assert connection.recv(5) == b"early"
        client.close()
        connection.close()


def test_a_port_is_free_again_right_after_its_connections(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        connection, _ = held.accept()
        connection.close()  # this side closes first and is left in TIME_WAIT
        client.close()
    wait_until(lambda: True, "")
    bind("127.0.0.1", port).close()
