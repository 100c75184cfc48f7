"""The engine process's side of the local socket: one thread reads and accepts, the engine's thread sends.

Requests arrive in `inbox`; `wake` is set with them. Sending never blocks: what the socket doesn't take is kept and
written later by the reading thread, and a client that lets more than `MAX_BACKLOG` bytes pile up is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
from collections import deque
from pathlib import Path

import msgspec

from deploykit.engine.protocol import ToEngine, decode_to_engine
from deploykit.engine.transport import FrameBuffer, ProtocolError, frame, listen

MAX_BACKLOG = 64 << 20  # bytes
log = logging.getLogger(__name__)


class Gone(msgspec.Struct, frozen=True):
    """In the inbox: the connection is closed."""


class _Connection:
    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.incoming = FrameBuffer()
        self.outgoing = bytearray()
        self.lock = threading.Lock()  # outgoing and the socket's sending side
        self.closed = False


class Link:
    """Accepts clients on a Unix socket at `path`."""

    def __init__(self, path: Path) -> None:
        self.inbox: deque[tuple[int, ToEngine | Gone]] = deque()
        self.wake = threading.Event()
        self._path = path
        self._server = listen(path)
        self._server.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._poke_read, self._poke_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._poke_read, selectors.EVENT_READ)
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0
        threading.Thread(target=self._serve, name="link", daemon=True).start()

    # ------------------------------------------------------------ the engine's thread

    def send(self, number: int, message: msgspec.Struct) -> None:
        """Send to one connection; a connection that is gone swallows it."""
        connection = self._connections.get(number)
        if connection is not None:
            self._send(connection, frame(message))

    def broadcast(self, message: msgspec.Struct) -> None:
        data = frame(message)
        for connection in list(self._connections.values()):
            self._send(connection, data)

    def close(self) -> None:
        """Write out what is left (for at most a second a client) and take the socket file away."""
        for connection in list(self._connections.values()):
            with connection.lock, contextlib.suppress(OSError):
                connection.sock.settimeout(1.0)
                connection.sock.sendall(connection.outgoing)
                connection.sock.close()
        self._path.unlink(missing_ok=True)

    def _send(self, connection: _Connection, data: bytes) -> None:
        with connection.lock:
            if connection.closed:
                return
            if not connection.outgoing:
                try:
                    sent = connection.sock.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    return  # the reading thread sees the end too and tells the loop
                if sent == len(data):
                    return
                data = data[sent:]
            connection.outgoing += data
        self._poke()

    def _poke(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._poke_write, b"x")

    # ------------------------------------------------------------ the link's own thread

    def _serve(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fileobj is self._server:
                    self._accept()
                elif key.fileobj == self._poke_read:
                    os.read(self._poke_read, 4096)
                    self._watch_writers()
                else:
                    connection: _Connection = key.data
                    if events & selectors.EVENT_WRITE:
                        self._flush(connection)
                    if events & selectors.EVENT_READ:
                        self._read(connection)

    def _accept(self) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._numbers += 1
        connection = _Connection(self._numbers, sock)
        self._connections[connection.number] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        try:
            for body in connection.incoming.feed(data):
                self.inbox.append((connection.number, decode_to_engine(body)))
        except (ProtocolError, msgspec.MsgspecError) as error:
            log.error("a client broke the protocol and is dropped: %s", error)
            self._drop(connection)
            return
        self.wake.set()

    def _watch_writers(self) -> None:
        for connection in list(self._connections.values()):
            if len(connection.outgoing) > MAX_BACKLOG:
                log.error("a client doesn't read its results and is dropped")
                self._drop(connection)
            elif connection.outgoing:
                self._selector.modify(
                    connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection
                )

    def _flush(self, connection: _Connection) -> None:
        with connection.lock:
            try:
                sent = connection.sock.send(connection.outgoing)
            except BlockingIOError:
                return
            except OSError:
                connection.outgoing.clear()
                return
            del connection.outgoing[:sent]
            if not connection.outgoing:
                self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        with connection.lock:
            if connection.closed:
                return
            connection.closed = True
            self._selector.unregister(connection.sock)
            connection.sock.close()
        self._connections.pop(connection.number, None)
        self.inbox.append((connection.number, Gone()))
        self.wake.set()
