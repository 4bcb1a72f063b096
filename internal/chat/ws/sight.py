"""What each member of a guild may see of it: pure rules, advanced by the events of the log alone.

A sight is the state behind one position of the log and never changes; an event makes the next one.
So those who are told live, those who catch up and those who resume are each judged by what held
at their own position, and share what they have in common.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, TypeAlias

import msgspec

from internal.eventlog.model import Entry
from internal.guild.model import (
    ChannelOverwrite,
    GuildSources,
    GuildState,
    Thread,
    ThreadMember,
)
from internal.permission.model import Overwrite, Permission, Standing, in_channel
from internal.utils.json import decoder, encode
from internal.utils.snowflake import Snowflake

_VIEW: Final = int(Permission.VIEW_CHANNEL)
_ADMINISTRATOR: Final = int(Permission.ADMINISTRATOR)
_SEEING: Final = _VIEW | _ADMINISTRATOR
# Types that begin so tell of what GUILD_CREATE tells, too.
_STATE: Final = ("GUILD_ROLE_", "GUILD_MEMBER_", "GUILD_UPDATE", "CHANNEL_", "THREAD_")
_NO_NEWS: Final[tuple["News", ...]] = ()

# An event that follows from another one: its name and payload.
News: TypeAlias = tuple[str, bytes]
# A member's own roles, ascending.
Roles: TypeAlias = tuple[int, ...]
# What members have in common who see the same; the user where something is about that one alone.
Kind: TypeAlias = tuple[Roles, int]


class _RoleBody(msgspec.Struct):
    id: Snowflake
    permissions: str


class _RoleNews(msgspec.Struct):
    role: _RoleBody


class _RoleGone(msgspec.Struct):
    role_id: Snowflake


class _ChannelNews(msgspec.Struct):
    id: Snowflake
    permission_overwrites: tuple[ChannelOverwrite, ...] = ()


class _GuildNews(msgspec.Struct):
    owner_id: Snowflake


class _MemberNews(msgspec.Struct):
    roles: tuple[Snowflake, ...] = ()


class _ThreadGone(msgspec.Struct):
    id: Snowflake


class _MembersNews(msgspec.Struct):
    id: Snowflake
    member_count: int
    added_members: tuple[ThreadMember, ...] = ()
    removed_member_ids: tuple[Snowflake, ...] = ()


class _ListSync(msgspec.Struct):
    """The payload of THREAD_LIST_SYNC."""

    guild_id: Snowflake
    channel_ids: tuple[Snowflake, ...]
    threads: tuple[Thread, ...]
    members: tuple[ThreadMember, ...]


_read_role = decoder(_RoleNews)
_read_role_gone = decoder(_RoleGone)
_read_channel = decoder(_ChannelNews)
_read_guild = decoder(_GuildNews)
_read_member = decoder(_MemberNews)
_read_thread = decoder(Thread)
_read_thread_gone = decoder(_ThreadGone)
_read_members = decoder(_MembersNews)
_read_thread_member = decoder(ThreadMember)


class SeenChannel(NamedTuple):
    """A channel as far as sight needs it."""

    # Those of its overwrites that decide who sees it.
    rules: tuple[Overwrite, ...]
    # As events tell it.
    payload: bytes


class SeenThread(NamedTuple):
    """An active thread, and who is a member of it."""

    thread: Thread
    is_private: bool
    members: Mapping[int, ThreadMember]


class Tally:
    """What messages change, which is not kept for each position: being ahead of it does no harm."""

    __slots__ = ("ever", "last", "sent")

    def __init__(self) -> None:
        # The last message of a channel; how many more were sent in a thread than deleted, and how
        # many were ever sent.
        self.last: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self.ever: dict[int, int] = {}

    def count(self, entry: Entry) -> None:
        if entry.type == "MESSAGE_CREATE" and entry.channel_id and entry.subject:
            self.last[entry.channel_id] = max(self.last.get(entry.channel_id, 0), entry.subject)
        if entry.parent_id and entry.channel_id:
            thread_id = entry.channel_id
            # What a forum's post begins with has the id of the thread, and is not counted.
            came = int(entry.type == "MESSAGE_CREATE" and entry.subject != thread_id)
            gone = sum(one != thread_id for one in entry.retracts or ())
            self.sent[thread_id] = self.sent.get(thread_id, 0) + came - gone
            self.ever[thread_id] = self.ever.get(thread_id, 0) + came

    def forget(self, thread_id: int) -> None:
        """Begin anew: what was counted so far is in what is known of the thread."""
        self.sent.pop(thread_id, None)
        self.ever.pop(thread_id, None)


class Sight:
    """Who sees which channels of a guild, as of one position."""

    __slots__ = (
        "_restricted",
        "_special",
        "channels",
        "guild_id",
        "hidden_by_kind",
        "owner_id",
        "roles",
        "tally",
        "threads",
    )

    def __init__(
        self,
        guild_id: int,
        owner_id: int,
        roles: Mapping[int, int],
        channels: Mapping[int, SeenChannel],
        threads: Mapping[int, SeenThread],
        tally: Tally,
    ) -> None:
        self.guild_id = guild_id
        self.owner_id = owner_id
        # The bits of each role that decide about sight.
        self.roles = roles
        self.channels = channels
        self.threads = threads
        self.tally = tally
        self._restricted = {key: one.rules for key, one in channels.items() if one.rules}
        self._special = {
            rule.id for rules in self._restricted.values() for rule in rules if rule.is_member
        }
        self.hidden_by_kind: dict[Kind, frozenset[int]] = {}

    @classmethod
    def of(cls, sources: GuildSources) -> Self:
        """The sight of a guild as it was read from the database."""
        return cls(
            sources.guild_id,
            sources.owner_id,
            {role.id: int(role.permissions) & _SEEING for role in sources.roles},
            {
                channel.id: SeenChannel(_deciding(channel.permission_overwrites), encode(channel))
                for channel in sources.channels
            },
            {
                thread.id: _seen(thread, {member.user_id: member for member in members})
                for thread, members in sources.threads
            },
            Tally(),
        )

    # Who sees what.

    def kind_of(self, user_id: int, roles: Roles) -> Kind:
        """What a member sees as all others of this kind do."""
        is_special = user_id == self.owner_id or user_id in self._special
        return roles, user_id if is_special else 0

    def hidden(self, kind: Kind) -> frozenset[int]:
        """The channels that members of a kind don't see."""
        known = self.hidden_by_kind.get(kind)
        if known is None:
            known = self.hidden_by_kind[kind] = self._compute_hidden(kind)
        return known

    def sees(self, user_id: int, roles: Roles, channel_id: int) -> bool:
        """Whether a member sees a channel. Nobody sees one that is not there."""
        return channel_id in self.channels and channel_id not in self.hidden(
            self.kind_of(user_id, roles)
        )

    def would_see(self, user_id: int, roles: Roles, payload: bytes) -> bool:
        """Whether a member sees a channel of which there is only what an event says."""
        rules = _deciding(_read_channel(payload).permission_overwrites)
        return bool(in_channel(self._standing((roles, user_id)), rules) & _VIEW)

    def _compute_hidden(self, kind: Kind) -> frozenset[int]:
        standing = self._standing(kind)
        base = in_channel(standing, ())
        return self.find_hidden(kind, self._restricted if base & _VIEW else self.channels)

    def find_hidden(self, kind: Kind, channel_ids: Iterable[int]) -> frozenset[int]:
        """Those of some channels that members of a kind don't see."""
        standing = self._standing(kind)
        if in_channel(standing, ()) & _ADMINISTRATOR:
            return frozenset()
        return frozenset(
            channel_id
            for channel_id in channel_ids
            if not in_channel(standing, self.channels[channel_id].rules) & _VIEW
        )

    def _standing(self, kind: Kind) -> Standing:
        roles, user_id = kind
        bits = self.roles
        return Standing(
            user_id=user_id,
            guild_id=self.guild_id,
            everyone=bits.get(self.guild_id, 0),
            roles=[(role_id, bits[role_id]) for role_id in roles if role_id in bits],
            is_owner=user_id == self.owner_id,
        )

    # What comes next.

    def after(self, entry: Entry) -> "Sight":
        """The sight behind an event of the guild; itself where the event changes nothing of it."""
        change = _CHANGES.get(entry.type)
        if change is None or entry.payload is None:
            return self
        return change(self, entry)

    def with_threads(self, threads: Mapping[int, SeenThread]) -> "Sight":
        """The same sight of channels, with other threads in them."""
        return self._like(
            Sight(self.guild_id, self.owner_id, self.roles, self.channels, threads, self.tally)
        )

    def with_channels(self, channels: Mapping[int, SeenChannel]) -> "Sight":
        threads = {
            key: one for key, one in self.threads.items() if one.thread.parent_id in channels
        }
        changed = Sight(self.guild_id, self.owner_id, self.roles, channels, threads, self.tally)
        others = {
            key
            for key in self.channels.keys() | channels.keys()
            if _rules(self.channels.get(key)) != _rules(channels.get(key))
        }
        if not others:
            return self._like(changed)
        # What is known of the other channels holds: a guild may have thousands of kinds.
        changed.hidden_by_kind = {
            kind: (hidden - others) | changed.find_hidden(kind, others & channels.keys())
            for kind, hidden in self.hidden_by_kind.items()
        }
        return changed

    def with_rulers(self, owner_id: int, roles: Mapping[int, int]) -> "Sight":
        """The sight under another owner or with other roles."""
        if owner_id == self.owner_id and roles == self.roles:
            return self
        changed = Sight(self.guild_id, owner_id, roles, self.channels, self.threads, self.tally)
        others = {
            key for key in self.roles.keys() | roles.keys() if self.roles.get(key) != roles.get(key)
        }
        if owner_id == self.owner_id and self.guild_id not in others:
            # Those who have none of the changed roles see what they saw.
            changed.hidden_by_kind = {
                kind: hidden
                for kind, hidden in self.hidden_by_kind.items()
                if others.isdisjoint(kind[0])
            }
        return changed

    def is_like(self, other: "Sight") -> bool:
        """Whether everybody sees the same channels in both."""
        return self.hidden_by_kind is other.hidden_by_kind

    def _like(self, changed: "Sight") -> "Sight":
        changed.hidden_by_kind = self.hidden_by_kind
        return changed

    # What somebody is told whose sight is another.

    def lost(self, before: "Sight", old: Kind, new: Kind) -> list[News]:
        """CHANNEL_DELETE for what members of a kind saw before and see no more."""
        gone = self.hidden(new) - before.hidden(old)
        return [
            ("CHANNEL_DELETE", before.channels[channel_id].payload)
            for channel_id in sorted(gone)
            if channel_id in before.channels
        ]

    def gained(self, before: "Sight", old: Kind, new: Kind) -> list[int]:
        """The channels that members of a kind see now, and that were hidden before."""
        seen = before.hidden(old) - self.hidden(new)
        return [channel_id for channel_id in sorted(seen) if channel_id in self.channels]

    def introduce(self, channel_ids: Sequence[int], user_id: int | None) -> list[News]:
        """CHANNEL_CREATE of channels and the threads in them, as a member sees them.

        Without a member, as everyone does who is in none of the threads.
        """
        if not channel_ids:
            return []
        news: list[News] = [("CHANNEL_CREATE", self._payload(one)) for one in channel_ids]
        inside = [one for one in self.threads.values() if one.thread.parent_id in channel_ids]
        seen = [one for one in inside if not one.is_private or user_id in one.members]
        if seen:
            sync = _ListSync(
                guild_id=Snowflake(self.guild_id),
                channel_ids=tuple(map(Snowflake, channel_ids)),
                threads=tuple(self._counted(one.thread) for one in seen),
                members=tuple(
                    one.members[user_id] for one in seen if user_id and user_id in one.members
                ),
            )
            news.append(("THREAD_LIST_SYNC", encode(sync)))
        return news

    def is_in_threads(self, user_id: int, channel_ids: Sequence[int]) -> bool:
        """Whether somebody is a member of a thread in one of these channels."""
        return any(
            user_id in one.members
            for one in self.threads.values()
            if one.thread.parent_id in channel_ids
        )

    def _payload(self, channel_id: int) -> bytes:
        payload = self.channels[channel_id].payload
        last = self.tally.last.get(channel_id)
        if last is None:
            return payload
        fields: dict[str, Any] = msgspec.json.decode(payload)
        fields["last_message_id"] = str(max(last, int(fields.get("last_message_id") or 0)))
        return msgspec.json.encode(fields)

    def _counted(self, thread: Thread) -> Thread:
        """A thread with what was said in it since it was told of."""
        more = self.tally.sent.get(thread.id, 0)
        last = max(self.tally.last.get(thread.id, 0), thread.last_message_id or 0)
        return msgspec.structs.replace(
            thread,
            message_count=thread.message_count + more,
            total_message_sent=thread.total_message_sent + self.tally.ever.get(thread.id, 0),
            last_message_id=Snowflake(last) if last else None,
        )


def is_state(kind: str) -> bool:
    """Whether an event tells of what GUILD_CREATE tells, too."""
    return kind.startswith(_STATE)


def gate_of(entry: Entry) -> int | None:
    """The channel that one has to see in order to hear of an entry; None for the whole guild."""
    return entry.parent_id or entry.channel_id


def own_roles(guild: GuildState, user_id: int) -> Roles:
    """The roles of the member that a guild is told to."""
    own = next(member for member in guild.members if member.user.id == user_id)
    return tuple(sorted(map(int, own.roles)))


def roles_of(entry: Entry) -> Roles:
    """The roles that a member has behind GUILD_MEMBER_UPDATE."""
    return tuple(sorted(map(int, _read_member(entry.payload or b"{}").roles)))


def is_about_sight(entry: Entry, user_id: int) -> bool:
    """Whether a member may see other channels behind an entry than before it."""
    return entry.reshapes is not None and entry.reshapes in {0, user_id}


def news_for(before: Sight, after: Sight, user_id: int, old: Roles, new: Roles) -> Sequence[News]:
    """What one member is told ahead of an event that made the second sight of the first."""
    kind_before, kind_after = before.kind_of(user_id, old), after.kind_of(user_id, new)
    if before.is_like(after) and kind_before == kind_after:
        return _NO_NEWS
    gained = after.gained(before, kind_before, kind_after)
    return [*after.lost(before, kind_before, kind_after), *after.introduce(gained, user_id)]


def _rules(channel: SeenChannel | None) -> tuple[Overwrite, ...] | None:
    return None if channel is None else channel.rules


def _deciding(overwrites: Iterable[ChannelOverwrite]) -> tuple[Overwrite, ...]:
    rules = (one.rule() for one in overwrites)
    return tuple(rule for rule in rules if (rule.allow | rule.deny) & _VIEW)


def _seen(thread: Thread, members: Mapping[int, ThreadMember]) -> SeenThread:
    # 12 is the documented number of private threads.
    return SeenThread(thread, thread.type == 12, members)  # noqa: PLR2004


# Each of these makes a sight out of the one before.


def _role_put(sight: Sight, entry: Entry) -> Sight:
    role = _read_role(entry.payload or b"").role
    bits = int(role.permissions) & _SEEING
    return sight.with_rulers(sight.owner_id, {**sight.roles, role.id: bits})


def _role_gone(sight: Sight, entry: Entry) -> Sight:
    gone = _read_role_gone(entry.payload or b"").role_id
    roles = {key: bits for key, bits in sight.roles.items() if key != gone}
    return sight.with_rulers(sight.owner_id, roles)


def _guild_changed(sight: Sight, entry: Entry) -> Sight:
    return sight.with_rulers(_read_guild(entry.payload or b"").owner_id, sight.roles)


def _channel_put(sight: Sight, entry: Entry) -> Sight:
    payload = entry.payload or b""
    channel = _read_channel(payload)
    seen = SeenChannel(_deciding(channel.permission_overwrites), payload)
    return sight.with_channels({**sight.channels, channel.id: seen})


def _channel_gone(sight: Sight, entry: Entry) -> Sight:
    gone = entry.channel_id
    return sight.with_channels({key: one for key, one in sight.channels.items() if key != gone})


def _thread_put(sight: Sight, entry: Entry) -> Sight:
    thread = _read_thread(entry.payload or b"")
    if thread.thread_metadata.archived:
        return _without(sight, thread.id)
    known = sight.threads.get(thread.id)
    members: dict[int, ThreadMember] = dict(known.members) if known else {}
    if thread.member is not msgspec.UNSET:
        # It is told to one member, with the own membership.
        members[thread.member.user_id] = thread.member
    plain = msgspec.structs.replace(thread, member=msgspec.UNSET, newly_created=msgspec.UNSET)
    # What was counted so far is in what the event says.
    sight.tally.forget(thread.id)
    return sight.with_threads({**sight.threads, thread.id: _seen(plain, members)})


def _thread_gone(sight: Sight, entry: Entry) -> Sight:
    return _without(sight, _read_thread_gone(entry.payload or b"").id)


def _without(sight: Sight, thread_id: int) -> Sight:
    return sight.with_threads({key: one for key, one in sight.threads.items() if key != thread_id})


def _thread_members(sight: Sight, entry: Entry) -> Sight:
    news = _read_members(entry.payload or b"")
    known = sight.threads.get(news.id)
    if known is None:
        return sight
    gone = set(news.removed_member_ids)
    members = {key: one for key, one in known.members.items() if key not in gone}
    members.update((one.user_id, one) for one in news.added_members)
    thread = msgspec.structs.replace(known.thread, member_count=news.member_count)
    return sight.with_threads({**sight.threads, news.id: _seen(thread, members)})


def _own_thread_member(sight: Sight, entry: Entry) -> Sight:
    own = _read_thread_member(entry.payload or b"")
    known = sight.threads.get(own.id)
    if known is None:
        return sight
    members = {**known.members, own.user_id: own}
    return sight.with_threads({**sight.threads, own.id: _seen(known.thread, members)})


_CHANGES: Final = {
    "GUILD_ROLE_CREATE": _role_put,
    "GUILD_ROLE_UPDATE": _role_put,
    "GUILD_ROLE_DELETE": _role_gone,
    "GUILD_UPDATE": _guild_changed,
    "CHANNEL_CREATE": _channel_put,
    "CHANNEL_UPDATE": _channel_put,
    "CHANNEL_DELETE": _channel_gone,
    "THREAD_CREATE": _thread_put,
    "THREAD_UPDATE": _thread_put,
    "THREAD_DELETE": _thread_gone,
    "THREAD_MEMBERS_UPDATE": _thread_members,
    "THREAD_MEMBER_UPDATE": _own_thread_member,
}
# The events that may change a sight, a member's roles among them; those that count messages.
SIGHT_TYPES: Final = frozenset({*_CHANGES, "GUILD_MEMBER_UPDATE"})
COUNTED_TYPES: Final = frozenset({"MESSAGE_CREATE", "MESSAGE_DELETE", "MESSAGE_DELETE_BULK"})
