"""Measures the hub in a guild with 10,000 connected members and 200 restricted channels.

The hub itself, in this process, writing to sinks instead of sockets: what is measured is finding
out who hears of what, joining the frames and handing them over. What the kernel takes for writing
to real sockets comes on top; bench/fanout.py has that in it.
"""

import argparse
import asyncio
import itertools
import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec
from typing_extensions import override

from internal.chat.ws.client import Client, Conversation
from internal.chat.ws.hub import Hub
from internal.chat.ws.sight import Sight
from internal.eventlog.model import Entry
from internal.guild.model import ChannelOverwrite, GuildChannel, GuildSources, Role, RoleColors
from internal.permission.model import EVERYONE_DEFAULT, Permission
from internal.utils.json import encode
from internal.utils.snowflake import Snowflake
from tests.support.entries import entry

if TYPE_CHECKING:
    from internal.chat.ws.session import Session

VIEW: Final = int(Permission.VIEW_CHANNEL)
# Ids tell what they are by where they lie.
GUILD, OWNER, FIRST_ROLE, FIRST_CHANNEL, FIRST_MEMBER = 1, 2, 1_000, 100_000, 1_000_000
MESSAGE: Final = b'{"id":"1","content":"%s"}' % (b"x" * 220)
# So many come together before what is pending is written.
BATCH: Final = 8


def say(progress: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {progress}", flush=True)


class Figures(msgspec.Struct, kw_only=True):
    """What was measured. Times of changes are of the whole hub, everyone told included."""

    members: int
    channels: int
    kinds: int
    members_seeing: float
    open_deliveries_per_s: float
    open_us_per_message: float
    restricted_deliveries_per_s: float
    restricted_us_per_message: float
    mixed_deliveries_per_s: float
    attach_ms: float
    role_of_member_ms: float
    role_ms: float
    overwrites_ms: float
    memory_mb: float


class Sink(asyncio.Transport):
    """Where bytes end. One for all, which counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)


class Crowd:
    """The guild, its members, and the hub that tells them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.chance = random.Random(options.seed)
        self.options = options
        self.hub = Hub()
        self.sink = Sink()
        self.roles = {FIRST_ROLE + number: 0 for number in range(options.roles)}
        # Each is for those who have one of two roles.
        self.allowed = {
            FIRST_CHANNEL + number: self.chance.sample(sorted(self.roles), 2)
            for number in range(options.channels)
        }
        self.open = [FIRST_CHANNEL + options.channels + number for number in range(20)]
        self.sight = self._sight()
        self.clients = [self._client(FIRST_MEMBER + number) for number in range(options.members)]
        self._positions = itertools.count(1)

    def channel(self, channel_id: int, roles: Sequence[int]) -> GuildChannel:
        denied = [self._overwrite(GUILD, 0, VIEW)] if roles else []
        return GuildChannel(
            id=Snowflake(channel_id),
            guild_id=Snowflake(GUILD),
            name="channel",
            position=0,
            permission_overwrites=(*denied, *(self._overwrite(one, VIEW, 0) for one in roles)),
        )

    def attach(self) -> float:
        begun = time.perf_counter()
        for client in self.clients:
            self.hub.attach(client, {GUILD: self.sight})
        # The first that is told asks who hears of it.
        self.tell([*self.allowed, *self.open])
        return time.perf_counter() - begun

    def tell(self, channels: Sequence[int]) -> int:
        """One message in each channel; gives how many were delivered."""
        before = self.hub.deliveries
        for start in range(0, len(channels), BATCH):
            batch = channels[start : start + BATCH]
            self.hub.publish([self._entry("MESSAGE_CREATE", MESSAGE, channel=one) for one in batch])
            self.hub.flush()
        return self.hub.deliveries - before

    def change_roles_of_member(self) -> None:
        client = self.chance.choice(self.clients)
        roles = self._some_roles()
        body = {"user": {"id": str(client.user_id)}, "roles": [str(one) for one in roles]}
        self._change("GUILD_MEMBER_UPDATE", encode(body), reshapes=client.user_id)

    def change_role(self) -> None:
        """A role comes to see everything, or no longer does."""
        role = self.chance.choice(sorted(self.roles))
        self.roles[role] ^= VIEW | int(Permission.ADMINISTRATOR)
        body = {"guild_id": "1", "role": {"id": str(role), "permissions": str(self.roles[role])}}
        self._change("GUILD_ROLE_UPDATE", encode(body), reshapes=0)

    def change_overwrites(self) -> None:
        """Another two roles may see a channel."""
        one = self.chance.choice(sorted(self.allowed))
        self.allowed[one] = self.chance.sample(sorted(self.roles), 2)
        payload = encode(self.channel(one, self.allowed[one]))
        self._change("CHANNEL_UPDATE", payload, reshapes=0, channel=one)

    def _change(
        self, kind: str, payload: bytes, *, reshapes: int, channel: int | None = None
    ) -> None:
        self.hub.publish([self._entry(kind, payload, channel=channel, reshapes=reshapes)])
        self.hub.flush()

    def _entry(
        self, kind: str, payload: bytes, *, channel: int | None, reshapes: int | None = None
    ) -> Entry:
        pos = next(self._positions)
        return entry(
            pos, kind, guild=GUILD, payload=payload, channel=channel, subject=pos, reshapes=reshapes
        )

    def _sight(self) -> Sight:
        bits = {GUILD: EVERYONE_DEFAULT, **self.roles}
        channels = [
            *(self.channel(one, roles) for one, roles in self.allowed.items()),
            *(self.channel(one, ()) for one in self.open),
        ]
        return Sight.of(
            GuildSources(
                guild_id=Snowflake(GUILD),
                owner_id=Snowflake(OWNER),
                roles=tuple(
                    Role(id=Snowflake(k), name="role", colors=RoleColors(), permissions=str(v))
                    for k, v in bits.items()
                ),
                channels=tuple(channels),
                threads=(),
            )
        )

    def _client(self, user_id: int) -> Client:
        # The hub asks a client neither what its session is at nor who acts for it.
        nobody = cast("Conversation", None)
        nothing = cast("Session", None)
        client = Client(nothing, nobody, self.hub, max_message=4096, address="")
        client.user_id = user_id
        client.transport = self.sink
        client.guilds = {GUILD: self._some_roles()}
        return client

    def _some_roles(self) -> tuple[int, ...]:
        count = self.chance.randint(0, self.options.of_member)
        return tuple(sorted(self.chance.sample(sorted(self.roles), count)))

    @staticmethod
    def _overwrite(target: int, allow: int, deny: int) -> ChannelOverwrite:
        return ChannelOverwrite(id=Snowflake(target), type=0, allow=str(allow), deny=str(deny))


class Rate(msgspec.Struct):
    per_s: float
    us_per_message: float


def spread(crowd: Crowd, channels: Sequence[int], seconds: float) -> Rate:
    """Messages in these channels, by chance, for a while."""
    deliveries = messages = 0
    begun = time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        chosen = crowd.chance.choices(channels, k=64)
        deliveries += crowd.tell(chosen)
        messages += len(chosen)
    return Rate(deliveries / spent, spent / messages * 1e6)


def median_ms(work: Callable[[], None], count: int) -> float:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return sorted(times)[count // 2] * 1000


async def measure(options: argparse.Namespace) -> Figures:
    say(f"{options.members} members come")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crowd = Crowd(options)
    attach_s = crowd.attach()
    memory_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    restricted = sorted(crowd.allowed)
    seeing = sum(crowd.tell([one]) for one in restricted) / len(restricted)
    kinds = {crowd.sight.kind_of(client.user_id, client.guilds[GUILD]) for client in crowd.clients}
    say(f"messages in channels that all see: {options.seconds} s")
    everyone = spread(crowd, crowd.open, options.seconds)
    say(f"messages in {len(restricted)} restricted channels: {options.seconds} s")
    few = spread(crowd, restricted, options.seconds)
    say(f"messages in both: {options.seconds} s")
    mixed = spread(crowd, [*crowd.open, *restricted], options.seconds)
    say("changes of roles and overwrites")
    return Figures(
        members=options.members,
        channels=len(restricted),
        kinds=len(kinds),
        members_seeing=round(seeing, 1),
        open_deliveries_per_s=round(everyone.per_s),
        open_us_per_message=round(everyone.us_per_message, 1),
        restricted_deliveries_per_s=round(few.per_s),
        restricted_us_per_message=round(few.us_per_message, 1),
        mixed_deliveries_per_s=round(mixed.per_s),
        attach_ms=round(attach_s * 1000, 1),
        role_of_member_ms=round(median_ms(crowd.change_roles_of_member, options.changes), 3),
        overwrites_ms=round(median_ms(crowd.change_overwrites, options.changes), 1),
        role_ms=round(median_ms(crowd.change_role, options.changes), 1),
        memory_mb=round(memory_mb, 1),
    )


def show(found: Figures) -> None:
    rows = (
        ("deliveries a second, channels that all see", f"{found.open_deliveries_per_s:,.0f}"),
        ("us for a message there", f"{found.open_us_per_message:,.1f}"),
        ("deliveries a second, restricted channels", f"{found.restricted_deliveries_per_s:,.0f}"),
        ("us for a message there", f"{found.restricted_us_per_message:,.1f}"),
        ("deliveries a second, both", f"{found.mixed_deliveries_per_s:,.0f}"),
        ("ms until all have come", f"{found.attach_ms:,.1f}"),
        ("ms for other roles of a member", f"{found.role_of_member_ms:.2f}"),
        ("ms for other overwrites of a channel", f"{found.overwrites_ms:.1f}"),
        ("ms for a role that sees everything, or no more", f"{found.role_ms:.1f}"),
        ("MB of memory", f"{found.memory_mb:.1f}"),
    )
    print(
        f"\n{found.members:,} members who see {found.kinds:,} different things; "
        f"{found.channels} restricted channels, each seen by {found.members_seeing:,.0f}\n"
        "The hub alone, without the kernel's part of writing to sockets"
    )
    for name, value in rows:
        print(f"{name:48} {value:>14}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--channels", type=int, default=200, help="that not everyone sees")
    parser.add_argument("--roles", type=int, default=40)
    parser.add_argument("--of-member", type=int, default=3, help="roles, at most, of a member")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, in each phase")
    parser.add_argument("--changes", type=int, default=5, help="of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    print("Measuring the hub with restricted channels; this takes some seconds", flush=True)
    found = asyncio.run(measure(options))
    show(found)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
