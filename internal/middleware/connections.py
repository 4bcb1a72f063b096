"""All open HTTP connections: how many there may be, and which have kept the server waiting."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from internal.utils.address import Network, is_among, network_of

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
# A second more or less is nobody's concern, and a look at all connections is dear.
_SWEEP_S: Final = 1.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client may take, and how many connections there may be."""

    # From the connection, or from the first byte of a later request, to the end of the head.
    head_s: float = 10.0
    # Between two requests. Longer than proxies keep theirs (60 s), so that it is they who close.
    idle_s: float = 75.0
    # From the end of the head to the end of the body, and so much longer by the body's size.
    body_s: float = 30.0
    body_bytes_per_s: float = 10_000.0
    max_body_size: int = 1 << 20
    # How long a client may leave an answer unread.
    unread_s: float = 60.0
    connections: int = 10_000
    # So many more may come in to ask for the server's health, and have so long to do so.
    reserve: int = 64
    reserve_head_s: float = 2.0
    # Connections of one IPv4 address or one /64, unless it is a trusted proxy's.
    per_address: int = 500
    trusted_proxies: Sequence[Network] = ()
    sweep_s: float = _SWEEP_S
    # How long requests that are under way may take to end at a stop.
    shutdown_s: float = 10.0
    # How long idle connections stay open then, so that busy clients hear that they end.
    linger_s: float = 1.0


# Of a listener that nobody is waited for on.
BRIEF: Final = Limits(shutdown_s=1.0, linger_s=0.0)


class Overdue(Protocol):
    """A connection that says until when it may wait; both times are of the loop's clock."""

    @property
    def deadline(self) -> float: ...
    @property
    def read_by(self) -> float: ...
    @property
    def is_at_rest(self) -> bool: ...

    def force_close(self) -> None:
        """End it, whatever is under way."""

    def expire(self, now: float) -> None:
        """One of the two has passed."""

    def refuse(self) -> None:
        """Send away one who has got no further than the reserve."""


class Connections:
    """Counts connections, and tells those that are overdue, once a second in one go.

    A timer for each would be set and cancelled with every request.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Overdue, str] = {}
        # Those beyond the limit, and those of them that have not said what they want.
        self._spare: set[Overdue] = set()
        self._silent: dict[Overdue, None] = {}
        self._by_network: Counter[str] = Counter()
        self._refused = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # When nobody was let in any more.
        self._ending_since = math.inf
        # Set while there is none.
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Overdue, peer: Any) -> bool:
        """Count a new connection; False when there is no room for it.

        Beyond the limit there is a reserve, for those who ask for the server's health: whoever
        watches over it must not take a crowd for an illness.
        """
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        network = network_of(address)
        if self._is_crowded(network, address) or not self._has_room():
            self._refused += 1
            return False
        if len(self._open) - len(self._spare) >= self.limits.connections:
            self._spare.add(connection)
            self._silent[connection] = None
        self._open[connection] = network
        self._is_empty.clear()
        self._by_network[network] += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self.limits.sweep_s, self._sweep)
        return True

    def leave(self, connection: Overdue) -> None:
        """Let go of a connection: it has ended, or is no HTTP any more."""
        network = self._open.pop(connection, None)
        if network is None:
            return
        self._spare.discard(connection)
        self._silent.pop(connection, None)
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]
        if not self._open:
            self._is_empty.set()

    def is_spare(self, connection: Overdue) -> bool:
        """Whether a connection came into the reserve."""
        return connection in self._spare

    def keep(self, connection: Overdue) -> None:
        """One in the reserve has asked for what that is for: nobody takes its place now."""
        self._silent.pop(connection, None)

    def count_refused(self) -> None:
        """One was sent away after all."""
        self._refused += 1

    def end(self) -> None:
        """Nobody is let in any more; those who are there are still served."""
        self._ending_since = self._loop.time()

    async def finish(self) -> None:
        """Let clients leave: nobody is cut off in the middle of a request, as far as time allows.

        Whoever asks once more is answered and told that the connection ends. The others are closed
        after a while, and those who keep the server waiting are left to be cut.
        """
        linger_s = min(self.limits.linger_s, self.limits.shutdown_s)
        if await self._have_left(self._ending_since + linger_s - self._loop.time()):
            return
        # What has arrived is read first: a request that has begun is no rest.
        await asyncio.sleep(0)
        for connection in [c for c in self._open if c.is_at_rest]:
            connection.force_close()
        await self._have_left(self.limits.shutdown_s)

    async def _have_left(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True

    def _has_room(self) -> bool:
        """Whether one more may come in. Whoever is silent in the reserve makes way."""
        if len(self._open) < self.limits.connections + self.limits.reserve:
            return True
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        oldest.refuse()
        return True

    def _is_crowded(self, network: str, address: str) -> bool:
        return self._by_network[network] >= self.limits.per_address and not is_among(
            address, self.limits.trusted_proxies
        )

    def _sweep(self) -> None:
        self._timer = None
        if self._open:
            self._timer = self._loop.call_later(self.limits.sweep_s, self._sweep)
        if self._refused:
            # One line for all: a flood of connections must be none of lines.
            _log.warning("connections_refused", count=self._refused, open=len(self._open))
            self._refused = 0
        now = self._loop.time()
        for connection in [c for c in self._open if c.deadline < now or c.read_by < now]:
            connection.expire(now)
