"""A port that is held for several processes: who may listen on it, and who may not."""

import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING

import pytest

from internal.utils.port import claimed
from tests.support.process import free_port

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

HOST = "127.0.0.1"
RIVALS = 6
ROUNDS = 20


@contextmanager
def listening(port: int, *, shared: bool) -> Iterator[socket.socket]:
    """Listen as servers do: earlier connections are no hindrance."""
    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((HOST, port))
        listener.listen(16)
        yield listener


def test_only_those_who_share_may_listen_on_a_held_port() -> None:
    with claimed(HOST, 0) as port:
        assert port
        with pytest.raises(OSError, match="in use"), listening(port, shared=False):
            pass
        with listening(port, shared=True), listening(port, shared=True):
            with pytest.raises(OSError, match="in use"), listening(port, shared=False):
                pass
            with pytest.raises(OSError, match="in use"), claimed(HOST, port):
                pass
    with listening(port, shared=False):
        pass


def test_a_held_port_refuses_connections_until_somebody_listens() -> None:
    with claimed(HOST, 0) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))
        with listening(port, shared=True), socket.create_connection((HOST, port)):
            pass


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_that_somebody_listens_on_is_not_held(*, shared: bool) -> None:
    port = free_port()
    with (
        listening(port, shared=shared),
        pytest.raises(OSError, match="in use"),
        claimed(HOST, port),
    ):
        pass


def test_connections_of_an_earlier_server_are_no_hindrance() -> None:
    with claimed(HOST, 0) as port, listening(port, shared=True) as listener:
        client = socket.create_connection((HOST, port))
        # Who closes first keeps the port in TIME_WAIT.
        listener.accept()[0].close()
        client.close()
    with claimed(HOST, port) as again:
        assert again == port


def test_every_address_of_a_name_is_held() -> None:
    with claimed("localhost", 0) as port:
        for family, _, _, _, address in socket.getaddrinfo("localhost", port, type=1):
            with (
                closing(socket.socket(family)) as other,
                pytest.raises(OSError, match="in use"),
            ):
                other.bind(address)


def rival(ports: list[int], start: Barrier, wins: "SimpleQueue[int]") -> None:
    for port in ports:
        start.wait()
        try:
            with claimed(HOST, port):
                wins.put(port)
                start.wait()
        except OSError:
            start.wait()


def test_of_several_at_once_exactly_one_holds_it() -> None:
    spawn = multiprocessing.get_context("spawn")
    ports = [free_port() for _ in range(ROUNDS)]
    start, wins = spawn.Barrier(RIVALS), spawn.SimpleQueue()
    rivals = [spawn.Process(target=rival, args=(ports, start, wins)) for _ in range(RIVALS)]
    for process in rivals:
        process.start()
    for process in rivals:
        process.join()
    won = []
    while not wins.empty():
        won.append(wins.get())
    assert won == ports
