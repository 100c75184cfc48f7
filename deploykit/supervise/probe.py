"""Asks the front itself whether it serves, as a client would see it."""

from __future__ import annotations

import socket

_TIMEOUT = 1.0  # seconds, for each of connecting, asking and reading
_REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"


def serves(host: str, port: int) -> bool:
    """Whether `/health/ready` answers 200. Blocks for a few seconds at most."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT) as connection:
            name = f"[{host}]" if ":" in host else host
            connection.sendall(_REQUEST % f"{name}:{port}".encode())
            answer = connection.recv(64)
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200 ")
