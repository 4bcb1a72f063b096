"""Who saw which channel behind each position of the log: the checker's own account of it.

It is worked out anew from what the log tells of roles, members and channels. Nothing of how the
server works it out is used, so that both can't be wrong in the same way.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from tests.fault.evidence import Row

Json = Any

VIEW: Final = 1 << 10
ADMINISTRATOR: Final = 1 << 3
_CHANNELS: Final = {"CHANNEL_CREATE", "CHANNEL_UPDATE", "CHANNEL_DELETE"}
_ROLES: Final = {"GUILD_ROLE_CREATE", "GUILD_ROLE_UPDATE"}
_OF_MEMBERS: Final = {"GUILD_MEMBER_ADD", "GUILD_MEMBER_UPDATE"}


class Rule(NamedTuple):
    """What a channel allows and denies to somebody, or to those who have a role."""

    target: str
    is_member: bool
    allow: int
    deny: int


What: TypeAlias = Literal["owner", "role", "rules", "held"]


class Change(NamedTuple):
    """Something about sight that is so from a position on."""

    pos: int
    what: What
    # The role that it is about; of the others there is only the one that is asked for.
    about: str
    # The owner's id, the bits of a role, the rules of a channel or the roles of a member. None for
    # a role or a channel that is no more.
    value: Json


class Timeline(NamedTuple):
    """Whether somebody saw a channel: from each of these positions on, in turn."""

    positions: Sequence[int]
    values: Sequence[bool]

    def at(self, pos: int) -> bool:
        place = bisect_right(self.positions, pos)
        return self.values[place - 1] if place else False


class _Guild(msgspec.Struct):
    """What the log tells of a guild, by what it is about."""

    ruling: list[Change] = []
    channels: dict[str, list[Change]] = {}
    members: dict[str, list[Change]] = {}
    # The channels that were hidden from anybody at any time.
    restricted: set[str] = set()
    is_known: bool = False


class _State:
    """Sight of one member and one channel, while its changes are gone through."""

    def __init__(self, guild: str, user: str) -> None:
        self._guild = guild
        self._user = user
        self._owner = ""
        self._bits: dict[str, int] = {}
        self._held: Sequence[str] = ()
        self._rules: Sequence[Rule] | None = None

    def take(self, change: Change) -> None:
        match change.what:
            case "owner":
                self._owner = change.value
            case "role" if change.value is None:
                self._bits.pop(change.about, None)
            case "role":
                self._bits[change.about] = change.value
            case "rules":
                self._rules = change.value
            case "held":
                self._held = change.value

    def sees(self) -> bool:
        if self._rules is None:
            return False
        held = [role for role in self._held if role in self._bits]
        base = self._bits.get(self._guild, 0)
        for role in held:
            base |= self._bits[role]
        if self._user == self._owner or base & ADMINISTRATOR:
            return True
        sees = bool(base & VIEW)
        # Each tier overrules the one before; within one, what is allowed counts more.
        for tier in (
            [one for one in self._rules if one.target == self._guild],
            [one for one in self._rules if not one.is_member and one.target in held],
            [one for one in self._rules if one.is_member and one.target == self._user],
        ):
            if any(one.allow & VIEW for one in tier):
                sees = True
            elif any(one.deny & VIEW for one in tier):
                sees = False
        return sees


class Entitlement:
    """Sight of all guilds, made from the rows of the log."""

    def __init__(self, rows: Iterable["Row"]) -> None:
        self._guilds: dict[str, _Guild] = {}
        self._timelines: dict[tuple[str, str, str], Timeline] = {}
        self._switches: dict[tuple[str, str, str], dict[int, bool]] = {}
        for row in rows:
            if row.guild is not None and row.payload is not None:
                self._note(self._guilds.setdefault(row.guild, _Guild()), row.guild, row)

    def _note(self, guild: _Guild, guild_id: str, row: "Row") -> None:
        d, pos = row.payload, row.pos
        if row.type == "GUILD_CREATE" and row.users is not None:
            if not guild.is_known:
                # Whoever made the guild sees all that is in it; who joins is shown a part.
                guild.is_known = True
                self._found(guild, guild_id, row)
            for user in row.users:
                _add(guild.members, user, Change(pos, "held", user, ()))
        elif row.type == "GUILD_UPDATE":
            guild.ruling.append(Change(pos, "owner", "", d["owner_id"]))
        elif row.type in _ROLES:
            role = d["role"]
            guild.ruling.append(Change(pos, "role", role["id"], int(role["permissions"])))
        elif row.type == "GUILD_ROLE_DELETE":
            guild.ruling.append(Change(pos, "role", d["role_id"], None))
        elif row.type in _OF_MEMBERS:
            user = d["user"]["id"]
            _add(guild.members, user, Change(pos, "held", user, tuple(d["roles"])))
        elif row.type in _CHANNELS:
            self._rule(guild, pos, d, is_gone=row.type == "CHANNEL_DELETE")

    def _found(self, guild: _Guild, guild_id: str, row: "Row") -> None:
        d, pos = row.payload, row.pos
        guild.ruling.append(Change(pos, "owner", "", d["owner_id"]))
        for role in d["roles"]:
            guild.ruling.append(Change(pos, "role", role["id"], int(role["permissions"])))
        for channel in d["channels"]:
            self._rule(guild, pos, channel)
        if not any(int(r["permissions"]) & VIEW for r in d["roles"] if r["id"] == guild_id):
            guild.restricted.update(guild.channels)

    def _rule(self, guild: _Guild, pos: int, channel: Json, *, is_gone: bool = False) -> None:
        rules = [
            Rule(one["id"], one["type"] == 1, int(one["allow"]), int(one["deny"]))
            for one in channel.get("permission_overwrites", ())
        ]
        if any((rule.allow | rule.deny) & VIEW for rule in rules):
            guild.restricted.add(channel["id"])
        told = Change(pos, "rules", channel["id"], None if is_gone else rules)
        _add(guild.channels, channel["id"], told)

    def restricted(self) -> Iterator[tuple[str, str]]:
        """The channels that were hidden from anybody at any time, each with its guild before it."""
        for guild_id, guild in self._guilds.items():
            for channel_id in sorted(guild.restricted):
                yield guild_id, channel_id

    def is_restricted(self, guild_id: str, channel_id: str) -> bool:
        guild = self._guilds.get(guild_id)
        return guild is not None and channel_id in guild.restricted

    def exists(self, guild_id: str, channel_id: str, pos: int) -> bool:
        """Whether there was such a channel behind a position."""
        changes = self._guilds[guild_id].channels.get(channel_id, ())
        last = [change for change in changes if change.pos <= pos][-1:]
        return bool(last) and last[0].value is not None

    def sees(self, user: str, guild_id: str, channel_id: str, pos: int) -> bool:
        """Whether a member saw a channel behind a position, if it was a member then."""
        if not self.is_restricted(guild_id, channel_id):
            return True
        return self.timeline(user, guild_id, channel_id).at(pos)

    def sees_row(self, user: str, row: "Row") -> bool:
        """Whether a member saw the channel that an entry is about when it came about."""
        gate = row.parent or row.channel
        if gate is None or row.guild is None:
            return True
        # The end of a channel is for those who saw it.
        pos = row.pos - 1 if row.type == "CHANNEL_DELETE" else row.pos
        return self.sees(user, row.guild, gate, pos)

    def timeline(self, user: str, guild_id: str, channel_id: str) -> Timeline:
        key = user, guild_id, channel_id
        known = self._timelines.get(key)
        if known is None:
            known = self._timelines[key] = self._follow(*key)
        return known

    def switches(self, user: str, guild_id: str, channel_id: str) -> Mapping[int, bool]:
        """Where somebody came to see a channel, and where no more."""
        key = user, guild_id, channel_id
        known = self._switches.get(key)
        if known is None:
            known = self._switches[key] = {}
            before = False
            for pos, value in zip(*self.timeline(*key), strict=True):
                if value != before:
                    known[pos] = before = value
        return known

    def _follow(self, user: str, guild_id: str, channel_id: str) -> Timeline:
        guild = self._guilds[guild_id]
        changes = [
            *guild.ruling,
            *guild.channels.get(channel_id, ()),
            *guild.members.get(user, ()),
        ]
        state = _State(guild_id, user)
        found: dict[int, bool] = {}
        for change in sorted(changes, key=lambda change: change.pos):
            state.take(change)
            found[change.pos] = state.sees()
        return Timeline(list(found), list(found.values()))


def _add(table: "dict[str, list[Change]]", key: str, change: Change) -> None:
    table.setdefault(key, []).append(change)


def channels_of(guild: Mapping[str, Json]) -> set[str]:
    """The channels that GUILD_CREATE shows."""
    return {channel["id"] for channel in guild.get("channels", ())}
