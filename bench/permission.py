"""Measures how fast it is decided what a member with 20 roles may do in a guild of 500 channels.

Every channel has overwrites: of @everyone, of some of the guild's roles, and of some members. No
server and no database: only what is computed.
"""

import argparse
import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from internal.chat.ws.sight import Sight
from internal.guild.model import ChannelOverwrite, GuildChannel, GuildSources, Role, RoleColors
from internal.permission.model import (
    ALL,
    EVERYONE_DEFAULT,
    Overwrite,
    Permission,
    Standing,
    Step,
    in_channel,
    in_guild,
)
from internal.utils.snowflake import Snowflake

GUILD, MEMBER, OWNER, FIRST_ROLE, FIRST_CHANNEL = 1, 2, 3, 1_000, 100_000
ADMINISTRATOR = int(Permission.ADMINISTRATOR)


class Figures(msgspec.Struct, kw_only=True):
    """What was measured."""

    channels: int
    roles: int
    overwrites_per_channel: float
    in_guild_per_s: float
    in_channel_per_s: float
    explained_per_s: float
    # All channels, for one member.
    whole_guild_ms: float
    # The same as the gateway works it out, once for all members who have the same roles.
    sight_ms: float
    memory_mb: float


class Drawn(msgspec.Struct):
    """A guild as it was drawn."""

    standing: Standing
    channels: list[tuple[Overwrite, ...]]
    roles: dict[int, int]

    def sight(self) -> Sight:
        """The guild as the gateway holds it."""
        roles = tuple(
            Role(id=Snowflake(key), name="role", colors=RoleColors(), permissions=str(bits))
            for key, bits in self.roles.items()
        )
        channels = tuple(
            GuildChannel(
                id=Snowflake(FIRST_CHANNEL + number),
                guild_id=Snowflake(GUILD),
                name="channel",
                position=number,
                permission_overwrites=tuple(
                    ChannelOverwrite(
                        id=Snowflake(one.id),
                        type=int(one.is_member),
                        allow=str(one.allow),
                        deny=str(one.deny),
                    )
                    for one in rules
                ),
            )
            for number, rules in enumerate(self.channels)
        )
        return Sight.of(
            GuildSources(
                guild_id=Snowflake(GUILD),
                owner_id=Snowflake(OWNER),
                roles=roles,
                channels=channels,
                threads=(),
            )
        )


def draw(options: argparse.Namespace) -> Drawn:
    """A guild with twice as many roles as the member has."""
    chance = random.Random(options.seed)

    def some() -> int:
        return chance.getrandbits(53) & ALL & ~ADMINISTRATOR

    roles = {FIRST_ROLE + number: some() & some() for number in range(2 * options.roles)}
    own = sorted(chance.sample(sorted(roles), options.roles))
    channels = []
    for _ in range(options.channels):
        targets = chance.sample(sorted(roles), chance.randint(1, 10))
        rules = [Overwrite(GUILD, False, 0, some())]  # noqa: FBT003  # not of a member
        rules += [Overwrite(one, False, some(), some()) for one in targets]  # noqa: FBT003
        if chance.random() < 0.2:
            rules.append(Overwrite(MEMBER, True, some(), some()))  # noqa: FBT003
        channels.append(tuple(rules))
    standing = Standing(
        user_id=MEMBER,
        guild_id=GUILD,
        everyone=EVERYONE_DEFAULT,
        roles=tuple((one, roles[one]) for one in own),
    )
    return Drawn(standing, channels, {GUILD: EVERYONE_DEFAULT, **roles})


def per_second(work: Callable[[], int], seconds: float) -> float:
    """How many a second; the best of three windows, as others on the machine only slow it down."""
    best = 0.0
    for _ in range(3):
        done, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < seconds / 3:
            done += work()
        best = max(best, done / spent)
    return best


def measure(options: argparse.Namespace) -> Figures:
    drawn = draw(options)
    standing, channels = drawn.standing, drawn.channels

    def guilds() -> int:
        for _ in range(1000):
            in_guild(standing)
        return 1000

    def all_channels() -> int:
        for rules in channels:
            in_channel(standing, rules)
        return len(channels)

    def explained() -> int:
        for rules in channels:
            steps: list[Step] = []
            in_channel(standing, rules, trace=steps.append)
        return len(channels)

    sight = drawn.sight()
    kind = sight.kind_of(MEMBER, tuple(role_id for role_id, _ in standing.roles))

    def seen() -> int:
        sight.hidden_by_kind.clear()
        sight.hidden(kind)
        return 1

    works: Sequence[tuple[str, Callable[[], int]]] = (
        ("in_guild", guilds),
        ("in_channel", all_channels),
        ("in_channel, explained", explained),
        ("what the gateway works out", seen),
    )
    rates = []
    for name, work in works:
        print(f"  {time.strftime('%H:%M:%S')} {name}: {options.seconds} s", flush=True)
        rates.append(per_second(work, options.seconds))
    return Figures(
        channels=len(channels),
        roles=len(standing.roles),
        overwrites_per_channel=round(sum(map(len, channels)) / len(channels), 1),
        in_guild_per_s=round(rates[0]),
        in_channel_per_s=round(rates[1]),
        explained_per_s=round(rates[2]),
        whole_guild_ms=round(len(channels) / rates[1] * 1000, 3),
        sight_ms=round(1000 / rates[3], 3),
        memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def show(found: Figures) -> None:
    rows = (
        ("decisions about the guild a second", f"{found.in_guild_per_s:,.0f}"),
        ("decisions about a channel a second", f"{found.in_channel_per_s:,.0f}"),
        ("explained decisions a second", f"{found.explained_per_s:,.0f}"),
        (f"ms for all {found.channels} channels, one member", f"{found.whole_guild_ms:.2f}"),
        ("ms as the gateway works them out", f"{found.sight_ms:.2f}"),
    )
    print(
        f"\nA member with {found.roles} roles, {found.channels} channels with "
        f"{found.overwrites_per_channel} overwrites each"
    )
    for name, value in rows:
        print(f"{name:44} {value:>12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=500)
    parser.add_argument("--roles", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured, of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    print("Measuring the arithmetic of permissions; this takes some seconds", flush=True)
    found = measure(options)
    show(found)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
