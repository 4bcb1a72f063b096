"""What tests of presence share: sockets that only listen, and parts of users."""

from collections.abc import Sequence

from internal.presence.model import (
    Presence,
    PresenceLimits,
    PresenceUpdated,
    SessionPresence,
    Showing,
    Status,
    UserPresence,
)
from internal.presence.repository import Presences
from internal.presence.service import PresenceService
from tests.support.clock import StandingClock

GUILD = 9


class Listeners:
    """Stands for the live sockets of a node; keeps what they are told."""

    def __init__(self, reach: int = 1) -> None:
        self.size = reach
        self.told: list[Presence] = []
        self.privately: list[tuple[int, Presence]] = []

    def reach(self, guild_id: int) -> int:
        assert guild_id
        return self.size

    async def tell_guild(self, guild_id: int, events: Sequence[PresenceUpdated]) -> None:
        assert all(event.presence.guild_id == guild_id for event in events)
        self.told += [event.presence for event in events]

    def tell_user(self, user_id: int, events: Sequence[PresenceUpdated]) -> None:
        self.privately += [(user_id, event.presence) for event in events]

    def statuses(self, user_id: int) -> list[Status]:
        """What was told of a user since this was asked last."""
        found = [one.status for one in self.told if one.user.id == user_id]
        self.told = [one for one in self.told if one.user.id != user_id]
        return found


class Node:
    """A node's presence, worked by hand."""

    def __init__(
        self, name: str, store: Presences, clock: StandingClock, limits: PresenceLimits
    ) -> None:
        self.listeners = Listeners()
        self.is_shedding = False
        self.service = PresenceService(
            store,
            self.listeners,
            clock,
            node=name,
            shed=lambda: self.is_shedding,
            limits=limits,
        )

    def come(
        self,
        user_id: int,
        *,
        key: int = 0,
        guilds: Sequence[int] = (GUILD,),
        status: Status = "online",
    ) -> None:
        """A session identifies and is live."""
        self.service.opening(key or user_id, Showing(status))
        self.service.live(key or user_id, user_id, guilds)

    async def work(self) -> None:
        """One round of everything that goes on in the background."""
        await self.service.beat()
        await self.service.exchange()
        await self.service.tell()


def part(status: Status = "online", *, key: int = 1, at: int = 1) -> UserPresence:
    return UserPresence((GUILD,), (SessionPresence(key, status, "web", (), at),))
