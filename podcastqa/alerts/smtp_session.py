"""One conversation with a mail server ends in time, from looking up its name to its last word.

Every wait gets only what is left, so that a server that dribbles cannot hold us. RFC 5321 (SMTP), 3207 (STARTTLS).
"""

from __future__ import annotations

import io
import queue
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

#: The whole call ends within five seconds; the rest is for what surrounds the conversation.
_SECONDS = 4.5


class Unanswered(smtplib.SMTPServerDisconnected):
    """The message was sent to its end, and the server did not say whether it took it."""


class Session(smtplib.SMTP):
    """One conversation that ends in time, whatever the server does; `wrap` puts all of it under TLS."""

    def __init__(self, host: str, port: int, wrap: ssl.SSLContext | None) -> None:
        self._end, self._wrap = time.monotonic() + _SECONDS, wrap
        super().__init__(host, port, "localhost", _SECONDS)
        # RFC 5321, 4.1.3: who has no name of its own says its address, and looking one up could take long.
        address = self._socket().getsockname()[0]
        self.local_hostname = f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def hand_over(self, raw: bytes) -> tuple[int, bytes]:
        """Send the message and its final dot; before the dot no server may deliver, after it Unanswered is raised."""
        stuffed = re.sub(rb"(?m)^\.", b"..", raw)
        self.send(stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n")
        try:
            self.send(b".\r\n")
            code, said = self.getreply()
        except OSError as problem:
            raise Unanswered from problem
        if code != 250 and not 400 <= code < 600:
            raise Unanswered
        return code, said

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        """Where smtplib connects, as SMTP_SSL overrides it too."""
        connected = _connected(host, port, self._left)
        if self._wrap is None:
            return connected
        connected.settimeout(self._left())
        with connected:  # wrapping takes the connection out of it
            return self._wrap.wrap_socket(connected, server_hostname=host)

    def send(self, s: Any) -> None:
        """Send within the time that is left."""
        self._socket().settimeout(self._left())
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        """The server's answer, if it comes whole within the time that is left."""
        if self.file is None:
            self.file = io.BufferedReader(_InTime(self._socket(), self._left))
        reply = super().getreply()
        self._socket().settimeout(max(self._end - time.monotonic(), 0.001))  # for a TLS handshake that may follow
        return reply

    def _socket(self) -> socket.socket:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        return self.sock

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is up")
        return left


class _InTime(io.RawIOBase):
    """Reads from a socket; each wait gets only what is left, so that a server that dribbles cannot hold us."""

    def __init__(self, source: socket.socket, left: Callable[[], float]) -> None:
        self._source, self._left = source, left

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What has come, 0 at the end."""
        self._source.settimeout(self._left())
        return self._source.recv_into(buffer)


def _connected(host: str, port: int, left: Callable[[], float]) -> socket.socket:
    """A connection to the first of the host's addresses that takes one; each gets its share of the time."""
    found = _looked_up(host, port, left())
    problem: OSError = socket.gaierror("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(found):
        try:
            return _connected_to(socket.socket(family, kind, protocol), address, left() / (len(found) - number))
        except OSError as said:
            problem = said
    raise problem


def _connected_to(trying: socket.socket, address: Any, seconds: float) -> socket.socket:
    try:
        trying.settimeout(seconds)
        trying.connect(address)
    except OSError:
        trying.close()
        raise
    return trying


def _looked_up(host: str, port: int, seconds: float) -> list[Any]:
    """The host's addresses; asked in a thread of its own, for the system's resolver knows no time limit."""
    answers: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def look() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as problem:
            answers.put(problem)
        except UnicodeError:  # no name can be written so
            answers.put(socket.gaierror("it is not the name of a host"))

    threading.Thread(target=look, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("the name was not looked up in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer
