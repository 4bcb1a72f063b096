"""A port that several processes of one account share, and that nobody else can take meanwhile."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

# Two that begin in the same moment may each see the other and give way.
_ATTEMPTS: Final = 5


@contextmanager
def claimed(host: str, port: int) -> Iterator[int]:
    """Hold a port for processes that listen on it with SO_REUSEPORT; which one 0 came to.

    Raises OSError while anybody listens on it or holds it. Who would listen on it without
    SO_REUSEPORT, or hold it likewise, is refused as long as it is held, also while nobody listens.
    """
    with ExitStack() as stack:
        for family, address in _addresses(host, port):
            held = stack.enter_context(_claim(family, address, port))
            port = int(held.getsockname()[1])
        yield port


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _claim(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    for _ in range(_ATTEMPTS - 1):
        try:
            return _claim_once(family, address, port)
        except OSError:
            time.sleep(os.urandom(1)[0] / 20_000)
    return _claim_once(family, address, port)


def _claim_once(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """Bind a socket that does not listen, and beside which only SO_REUSEPORT may bind.

    SO_REUSEADDR lets it pass by connections of an earlier server that are not quite over, but by
    other sockets that do not listen, too. So it listens for a moment, which the kernel grants to
    one alone, and closes the door behind itself before it stops listening.
    """
    held = _socket(family)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port or _free_port(family, address)))
        held.listen(1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.shutdown(socket.SHUT_RD)
    except OSError:
        held.close()
        raise
    return held


def _free_port(family: socket.AddressFamily, address: str) -> int:
    """Find one, to be asked for by its number: any other is lost at the end of listening."""
    with _socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _socket(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
