"""Members over the gateway: chunks that a client asks for, and lists of what it looks at.

Both are told to one socket and not logged. Neither costs in proportion to members who are offline,
but for a chunk of all of them, which is read and sent piece by piece as fast as the client reads.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

import msgspec
import structlog

from internal.chat.ws import events
from internal.chat.ws.client import Client
from internal.chat.ws.events import Op
from internal.chat.ws.hub import Hub
from internal.chat.ws.model import (
    ListedMember,
    ListGroup,
    ListItem,
    ListOfMembers,
    ListOp,
    ListRange,
    LookAtMembers,
    MemberDoors,
    MembersChunk,
    RateLimitOf,
    RequestLimited,
    RequestMembers,
)
from internal.chat.ws.session import Allowance
from internal.chat.ws.sight import Roles, Sight
from internal.db.postgres import Conn, Database
from internal.errors import Unavailable
from internal.eventlog import repository
from internal.eventlog.model import Entry
from internal.eventlog.tailer import Tailer
from internal.guild.model import Member, Role
from internal.presence.service import PresenceService
from internal.utils.json import decoder, encode
from internal.utils.snowflake import MAX_SNOWFLAKE, Snowflake

_log = structlog.get_logger(__name__)

CHUNK: Final = 1000
# A search by name finds no more.
_FOUND: Final = 100
_NONCE_BYTES: Final = 32
# Requests of one socket that wait for the one before; how many may come at once, and each second;
# and how often all members of one guild are told.
_WAITING: Final = 16
_BURST, _PER_S = 30.0, 1.0
_WHOLE_BURST, _WHOLE_PER_S = 2.0, 1 / 30
# Chunks that are read at once on this node.
_READS: Final = 2
_READ_TRIES: Final = 5
_LIVE_S: Final = 0.05

# Lists that one socket looks at.
MOST_LISTS: Final = 5
# In a guild with no more members, those who are offline are listed, too.
LISTED_OFFLINE: Final = 1000
_TICK_S: Final = 0.1
_PAUSE_S: Final = 1.0
# After a list was made there is a rest of so many times as long: together they take no more than a
# tenth of the node's time.
_REST: Final = 10.0
_STEP: Final = 2000
_SLICE: Final = 100

_ADDED, _CHANGED, _GONE = "GUILD_MEMBER_ADD", "GUILD_MEMBER_UPDATE", "GUILD_MEMBER_REMOVE"
_OF_MEMBERS: Final = frozenset({_ADDED, _CHANGED, _GONE})

Spawn: TypeAlias = Callable[[Client, Coroutine[None, None, None]], None]
_Find: TypeAlias = Callable[[Conn], Awaitable[list[Member]]]


class _SomeUser(msgspec.Struct):
    id: Snowflake


class _SomeMember(msgspec.Struct):
    user: _SomeUser


_read_member = decoder(_SomeMember)


def _member_of(entry: Entry) -> int:
    return _read_member(entry.payload or b"").user.id


# Chunks.


class _Asked:
    """What a socket asked for and has not been told yet."""

    __slots__ = ("allowance", "is_answered", "queue", "wholes")

    def __init__(self, scale: float, now: float) -> None:
        self.queue: deque[RequestMembers] = deque()
        self.is_answered = False
        self.allowance = Allowance(_BURST * scale, _PER_S * scale, now)
        self.wholes: dict[int, Allowance] = {}


class MemberRequests:
    """Answers opcode 8: one request of a socket after the other, a chunk at a time."""

    def __init__(  # noqa: PLR0913  # where the log, the hub and the database meet
        self,
        db: Database,
        tailer: Tailer,
        hub: Hub,
        presence: PresenceService,
        doors: MemberDoors,
        *,
        spawn: Spawn,
        scale: float,
        is_shed: Callable[[], bool],
    ) -> None:
        """`scale` multiplies the limits; while `is_shed` says so, nobody is answered."""
        self._db = db
        self._tailer = tailer
        self._hub = hub
        self._presence = presence
        self._doors = doors
        self._spawn = spawn
        self._scale = scale
        self._is_shed = is_shed
        self._asked: dict[Client, _Asked] = {}
        self._reads = asyncio.Semaphore(_READS)
        self._loop = asyncio.get_running_loop()

    def ask(self, client: Client, wish: RequestMembers) -> None:
        """Answer as soon as it is this request's turn; who is not in the guild is told nothing."""
        now = self._loop.time()
        asked = self._asked.setdefault(client, _Asked(self._scale, now))
        if not self._may(asked, wish, now):
            self._refuse(client, wish)
            return
        asked.queue.append(wish)
        if not asked.is_answered:
            asked.is_answered = True
            self._spawn(client, self._answer_in_order(client, asked))

    def gone(self, client: Client) -> None:
        """A socket has been lost: what it asked for is not read any further."""
        asked = self._asked.pop(client, None)
        if asked is not None:
            asked.queue.clear()

    def _may(self, asked: _Asked, wish: RequestMembers, now: float) -> bool:
        if len(asked.queue) >= _WAITING or self._is_shed() or not asked.allowance.take(now):
            return False
        if not wish.is_for_all:
            return True
        if len(asked.wholes) > MAX_WHOLES:
            asked.wholes.clear()
        whole = asked.wholes.setdefault(
            wish.guild_id, Allowance(_WHOLE_BURST * self._scale, _WHOLE_PER_S * self._scale, now)
        )
        return whole.take(now)

    def _refuse(self, client: Client, wish: RequestMembers) -> None:
        if not client.is_live:
            return
        retry_after = 1 / ((_WHOLE_PER_S if wish.is_for_all else _PER_S) * self._scale)
        refusal = RequestLimited(
            opcode=Op.REQUEST_GUILD_MEMBERS,
            retry_after=retry_after,
            meta=RateLimitOf(guild_id=wish.guild_id, nonce=_nonce(wish)),
        )
        client.push(events.dispatch("RATE_LIMITED", self._hub.pos, encode(refusal)))

    async def _answer_in_order(self, client: Client, asked: _Asked) -> None:
        try:
            while asked.queue and client.is_open:
                wish = asked.queue.popleft()
                if await self._is_in(client, wish.guild_id):
                    await self._answer(client, wish)
        finally:
            asked.is_answered = False

    async def _answer(self, client: Client, wish: RequestMembers) -> None:
        guild_id, doors = wish.guild_id, self._doors
        if wish.user_ids is not None:
            ids = list(dict.fromkeys(wish.ids))
            members = await self._read(client, guild_id, lambda c: doors.among(c, guild_id, ids))
            if members is not None:
                there = {_id_of(member) for member in members}
                missing = [one for one in ids if one not in there]
                self._push(client, wish, members, not_found=missing or msgspec.UNSET)
            return
        if not wish.is_for_all:
            members = await self._read(client, guild_id, self._search(wish))
            if members is not None:
                self._push(client, wish, members)
            return
        await self._answer_all(client, wish)

    def _search(self, wish: RequestMembers) -> _Find:
        query, limit = wish.query or "", wish.limit
        if query:
            limit = min(limit or _FOUND, _FOUND)
            return lambda c: self._doors.starting_with(c, wish.guild_id, query, limit)
        limit = min(limit, CHUNK)
        return lambda c: self._doors.between(c, wish.guild_id, _FIRST, _LAST, limit)

    async def _answer_all(self, client: Client, wish: RequestMembers) -> None:
        """Tell all members. Where chunks begin and end is settled first, so none is left out.

        Who joins meanwhile is told by an event, and may stand in a chunk as well.
        """
        async with self._reads, self._db.read() as conn:
            ends = await self._doors.bounds(conn, wish.guild_id, CHUNK)
        starts = [_FIRST, *ends]
        for index, (start, end) in enumerate(zip(starts, [*ends, _LAST], strict=True)):
            members = await self._read(client, wish.guild_id, self._span(wish, start, end))
            if members is None:
                return
            self._push(client, wish, members, index=index, count=len(starts))
            # Written at once: the transport then shows whether the client keeps up.
            client.write_out()
            await asyncio.sleep(0)

    def _span(self, wish: RequestMembers, start: Snowflake, end: Snowflake) -> _Find:
        # Some more than were there a moment ago, if they joined since.
        return lambda c: self._doors.between(c, wish.guild_id, start, end, 2 * CHUNK)

    async def _read(
        self, client: Client, guild_id: Snowflake, find: _Find
    ) -> list[Member | msgspec.Raw] | None:
        """Members as the socket's other news leave them; None when it has gone or left the guild.

        Nothing is waited for between this and the push: what the socket has been told since the
        reading counts, lest an older state come behind a newer one.
        """
        for _ in range(_READ_TRIES):
            async with self._reads, self._db.snapshot() as conn:
                pos, _ = await repository.head(conn)
                members = await find(conn)
            if not await self._is_in(client, guild_id):
                return None
            if self._hub.pos <= pos:
                return list(members)
            since = self._tailer.ring.after(pos, self._hub.pos)
            if since is not None:
                return _brought_up(members, guild_id, since)
        raise Unavailable

    async def _is_in(self, client: Client, guild_id: int) -> bool:
        """Wait until the socket hears of events as they come: what it is told belongs among them.

        A slow reader is caught up first, and closed if it takes too long.
        """
        while client.is_open and not client.is_live:  # noqa: ASYNC110  # rare, and no event tells
            await asyncio.sleep(_LIVE_S)
        return client.is_open and guild_id in client.guilds

    def _push(
        self,
        client: Client,
        wish: RequestMembers,
        members: Sequence[Member | msgspec.Raw],
        *,
        index: int = 0,
        count: int = 1,
        not_found: Sequence[Snowflake] | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        chunk = MembersChunk(
            guild_id=wish.guild_id,
            members=members,
            chunk_index=index,
            chunk_count=count,
            not_found=not_found,
            presences=self._presence.among(wish.guild_id, map(_id_of, members))
            if wish.presences
            else msgspec.UNSET,
            nonce=_nonce(wish),
        )
        client.push(events.dispatch("GUILD_MEMBERS_CHUNK", self._hub.pos, encode(chunk)))


_FIRST: Final = Snowflake(0)
_LAST: Final = Snowflake(MAX_SNOWFLAKE)
# Guilds whose limit a socket's memory holds; nobody is in more.
MAX_WHOLES: Final = 200


def _nonce(wish: RequestMembers) -> str | msgspec.UnsetType:
    """The nonce to give back; one that is too long is as if there were none."""
    nonce = wish.nonce
    return msgspec.UNSET if nonce is None or len(nonce.encode()) > _NONCE_BYTES else nonce


def _id_of(member: Member | msgspec.Raw) -> int:
    if isinstance(member, Member):
        return member.user.id
    return _read_member(bytes(member)).user.id


def _brought_up(
    members: Sequence[Member], guild_id: int, since: Iterable[Entry]
) -> list[Member | msgspec.Raw]:
    """Members as they are behind what happened since they were read."""
    known: dict[int, Member | msgspec.Raw] = {member.user.id: member for member in members}
    for entry in since:
        if entry.guild_id != guild_id or entry.payload is None:
            continue
        if entry.type == _GONE:
            known.pop(_member_of(entry), None)
        elif entry.type == _CHANGED and (user_id := _member_of(entry)) in known:
            known[user_id] = msgspec.Raw(entry.payload)
    return list(known.values())


# Lists.


class _Row(NamedTuple):
    """A member as lists need it."""

    # By what they are sorted.
    name: tuple[str, int]
    roles: Roles
    member: Member


class _Roster:
    """What is known of the members of a guild that somebody looks at."""

    __slots__ = (
        "has_all",
        "hoisted",
        "is_stale",
        "member_count",
        "members_are_stale",
        "rows",
        "touched",
    )

    def __init__(self) -> None:
        self.member_count = 0
        # The roles that are shown apart, the highest first, with their places.
        self.hoisted: dict[int, int] = {}
        self.rows: dict[int, _Row] = {}
        # Whether the rows are those of all members, as the guild is small.
        self.has_all = False
        self.is_stale = True
        self.members_are_stale = True
        # Whose rows became old while others were read.
        self.touched: set[int] = set()

    def hear(self, entry: Entry) -> None:
        """Forget what an event of the guild makes old."""
        if entry.type in _OF_MEMBERS:
            user_id = _member_of(entry)
            self.rows.pop(user_id, None)
            self.touched.add(user_id)
            self.is_stale = self.is_stale or entry.type != _CHANGED
            self.members_are_stale = True
        elif entry.type.startswith("GUILD_ROLE_"):
            self.is_stale = True


class _Look:
    """What one socket looks at, and what it has been told of that."""

    __slots__ = ("groups", "ops", "ranges", "version")

    def __init__(self, ranges: tuple[ListRange, ...]) -> None:
        self.ranges = ranges
        self.version = 0
        self.groups = b""
        self.ops: dict[ListRange, bytes] = {}


class _List:
    """The members who see a channel, in order, for all who look at it."""

    __slots__ = (
        "_encoded",
        "channel_id",
        "flat",
        "guild_id",
        "head",
        "is_behind",
        "is_dirty",
        "looks",
        "next_at",
        "version",
    )

    def __init__(self, guild_id: Snowflake, channel_id: Snowflake) -> None:
        self.guild_id = guild_id
        self.channel_id = channel_id
        self.looks: dict[Client, _Look] = {}
        self.is_dirty = True
        # Somebody has not been told the newest state.
        self.is_behind = False
        self.next_at = 0.0
        self.version = 0
        self.head: ListOfMembers | None = None
        # Headings and members as they stand below one another.
        self.flat: list[ListGroup | _Row] = []
        self._encoded: dict[ListRange, bytes] = {}

    def put(self, head: ListOfMembers, flat: list[ListGroup | _Row]) -> None:
        self.head, self.flat = head, flat
        self.version += 1
        self.is_behind = True
        self._encoded.clear()

    def op(self, place: ListRange, listed: Callable[[_Row], ListedMember]) -> bytes:
        """A range of the list, as it is told. The same bytes for all who look at it."""
        known = self._encoded.get(place)
        if known is None:
            start, end = place
            items = [
                ListItem(group=one) if isinstance(one, ListGroup) else ListItem(member=listed(one))
                for one in islice(self.flat, start, end + 1)
            ]
            known = self._encoded[place] = encode(ListOp(range=place, items=items))
        return known


class MemberLists:
    """Tells sockets of the members that they look at (opcode 102), a little behind the events."""

    def __init__(
        self, db: Database, hub: Hub, presence: PresenceService, doors: MemberDoors
    ) -> None:
        # No list is told more often.
        self.pause_s = _PAUSE_S
        self._db = db
        self._hub = hub
        self._presence = presence
        self._doors = doors
        self._lists: dict[int, _List] = {}
        self._of_client: dict[Client, dict[int, None]] = {}
        self._rosters: dict[int, _Roster] = {}
        self._of_guild: dict[int, list[int]] = {}
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def lists(self) -> int:
        """How many are kept up to date."""
        return len(self._lists)

    def look(self, client: Client, wish: LookAtMembers) -> None:
        """Tell a socket of some ranges of a list from now on; of none, when there are no ranges.

        Of more lists than it may look at, it stops looking at the first. Who can't see the channel
        is told nothing.
        """
        if not wish.ranges:
            self._drop(client, wish.channel_id)
            return
        if not self._sees(client, wish.guild_id, wish.channel_id):
            self._drop(client, wish.channel_id)
            return
        looked_at = self._of_client.setdefault(client, {})
        looked_at.pop(wish.channel_id, None)
        while len(looked_at) >= MOST_LISTS:
            self._drop(client, next(iter(looked_at)))
            looked_at = self._of_client.setdefault(client, {})
        looked_at[wish.channel_id] = None
        members = self._lists.get(wish.channel_id)
        if members is None:
            members = self._lists[wish.channel_id] = _List(wish.guild_id, wish.channel_id)
            insort(self._of_guild.setdefault(wish.guild_id, []), wish.channel_id)
            self._rosters.setdefault(wish.guild_id, _Roster())
            self._presence.watched.add(wish.guild_id)
        members.looks[client] = _Look(tuple(dict.fromkeys(wish.ranges)))
        members.is_behind = True
        self._news.set()

    def gone(self, client: Client) -> None:
        """A socket has been lost: it looks at nothing any more."""
        for channel_id in list(self._of_client.get(client, ())):
            self._drop(client, channel_id)

    def follow(self, entries: Sequence[Entry]) -> None:
        """Events of guilds change what is listed of them."""
        if not self._rosters:
            return
        for entry in entries:
            roster = self._rosters.get(entry.guild_id or 0)
            if roster is None or not entry.type.startswith(("GUILD_", "CHANNEL_", "THREAD_")):
                continue
            roster.hear(entry)
            self._stir(entry.guild_id or 0)

    async def run(self) -> None:
        """Keep the lists up to date, until cancelled. Without anybody who looks it rests."""
        while True:
            if not self._lists:
                await self._news.wait()
            self._news.clear()
            try:
                await self.refresh()
            except Unavailable:
                _log.warning("member_lists_postponed")
            except Exception:  # noqa: BLE001  # the next round goes on with the others
                _log.exception("member_lists_not_told")
            await asyncio.sleep(_TICK_S)

    async def refresh(self) -> None:
        """Make the lists anew that are others now and whose time has come, and tell of them."""
        stirred, self._presence.stirred = self._presence.stirred, set()
        for guild_id in stirred:
            self._stir(guild_id)
        for members in list(self._lists.values()):
            if members.is_dirty and self._loop.time() >= members.next_at:
                await self._make(members)
            if members.is_behind and members.head is not None:
                await self._tell(members)

    def _stir(self, guild_id: int) -> None:
        for channel_id in self._of_guild.get(guild_id, ()):
            self._lists[channel_id].is_dirty = True

    def _drop(self, client: Client, channel_id: int) -> None:
        looked_at = self._of_client.get(client)
        if looked_at is None or channel_id not in looked_at:
            return
        del looked_at[channel_id]
        if not looked_at:
            del self._of_client[client]
        members = self._lists[channel_id]
        del members.looks[client]
        if members.looks:
            return
        del self._lists[channel_id]
        channels = self._of_guild[members.guild_id]
        channels.remove(channel_id)
        if not channels:
            del self._of_guild[members.guild_id], self._rosters[members.guild_id]
            self._presence.watched.discard(members.guild_id)

    def _sees(self, client: Client, guild_id: int, channel_id: int) -> bool:
        """Whether a socket may look at a channel. While it is not live, that is yet to be seen."""
        if not client.is_live:
            known = self._hub.sight_at(guild_id, self._hub.pos)
            is_of_it = known is None or channel_id in known.channels or channel_id in known.threads
            return client.is_open and guild_id in client.guilds and is_of_it
        roles = client.guilds.get(guild_id)
        sight = self._hub.sight_at(guild_id, self._hub.pos)
        if roles is None or sight is None:
            return False
        return _sees(sight, client.user_id, roles, channel_id)

    # Making a list.

    async def _make(self, members: _List) -> None:
        members.is_dirty = False
        members.next_at = self._loop.time() + self.pause_s
        roster = self._rosters.get(members.guild_id)
        if roster is None:
            return
        online = self._presence.who_is_in(members.guild_id)
        try:
            await self._load(members.guild_id, roster, online)
        except BaseException:
            members.is_dirty = True
            raise
        sight = self._hub.sight_at(members.guild_id, self._hub.pos)
        if sight is None:
            # Nobody here is in the guild, unless it is one who is not live at the moment.
            members.is_dirty = True
            for client in [one for one in members.looks if one.is_live]:
                self._drop(client, members.channel_id)
            return
        began = self._loop.time()
        await self._put(members, roster, sight, online)
        took_s = self._loop.time() - began
        members.next_at = max(members.next_at, self._loop.time() + 2 * _REST * took_s)
        await asyncio.sleep(min(_REST * took_s, _PAUSE_S))

    async def _load(self, guild_id: Snowflake, roster: _Roster, online: frozenset[int]) -> None:
        """Read what is not known yet of the guild, and of those members who are listed."""
        if not roster.is_stale and not roster.members_are_stale and online <= roster.rows.keys():
            return
        roster.touched.clear()
        async with self._db.read() as conn:
            if roster.is_stale:
                roster.is_stale = False
                try:
                    count, roles = await self._doors.rolls(conn, guild_id)
                except BaseException:
                    roster.is_stale = True
                    raise
                roster.member_count, roster.hoisted = count, _hoisted(roles)
                was_whole, roster.has_all = roster.has_all, count <= LISTED_OFFLINE
                roster.members_are_stale = roster.members_are_stale or not was_whole
            if roster.has_all and roster.members_are_stale:
                found = await self._doors.between(
                    conn, guild_id, _FIRST, _LAST, LISTED_OFFLINE + _SLICE
                )
                roster.rows = {}
                _take_in(roster, found)
            else:
                await self._load_some(conn, guild_id, roster, online)
        roster.members_are_stale = bool(roster.touched)

    async def _load_some(
        self, conn: Conn, guild_id: Snowflake, roster: _Roster, online: frozenset[int]
    ) -> None:
        missing = iter([Snowflake(one) for one in online if one not in roster.rows])
        while some := list(islice(missing, CHUNK)):
            _take_in(roster, await self._doors.among(conn, guild_id, some))
        if not roster.has_all and len(roster.rows) > 2 * len(online) + CHUNK:
            roster.rows = {one: row for one, row in roster.rows.items() if one in online}

    async def _put(
        self, members: _List, roster: _Roster, sight: Sight, online: frozenset[int]
    ) -> None:
        """Put those who see the channel in order: by the highest role that is shown apart."""
        hoisted = roster.hoisted
        shown: list[list[tuple[tuple[str, int], _Row]]] = [[] for _ in range(len(hoisted) + 2)]
        listed = roster.rows if roster.has_all else online
        for number, user_id in enumerate(list(listed), 1):
            row = roster.rows.get(user_id)
            if row is not None and _sees(sight, user_id, row.roles, members.channel_id):
                place = len(hoisted) + 1
                if user_id in online:
                    places = (hoisted[role] for role in row.roles if role in hoisted)
                    place = min(places, default=len(hoisted))
                shown[place].append((row.name, row))
            if number % _STEP == 0:
                await asyncio.sleep(0)
        names = [*map(str, hoisted), "online", "offline"]
        flat: list[ListGroup | _Row] = []
        groups: list[ListGroup] = []
        for name, rows in zip(names, shown, strict=True):
            if rows:
                groups.append(ListGroup(id=name, count=len(rows)))
                flat.append(groups[-1])
                flat += [row for _, row in sorted(rows)]
        head = ListOfMembers(
            guild_id=members.guild_id,
            channel_id=members.channel_id,
            member_count=roster.member_count,
            online_count=sum(len(rows) for rows in shown[:-1]),
            groups=groups,
        )
        members.put(head, flat)

    # Telling of it.

    async def _tell(self, members: _List) -> None:
        """Tell those who look at a list what of their ranges is another than they know."""
        members.is_behind = False
        head = encode(members.head)
        for number, (client, look) in enumerate(list(members.looks.items()), 1):
            if members.looks.get(client) is not look or look.version == members.version:
                continue
            if not client.is_live:
                members.is_behind = True
            elif self._sees(client, members.guild_id, members.channel_id):
                look.version = members.version
                self._tell_one(client, members, look, head)
            else:
                self._drop(client, members.channel_id)
            if number % _SLICE == 0:
                await asyncio.sleep(0)

    def _tell_one(self, client: Client, members: _List, look: _Look, head: bytes) -> None:
        def listed(row: _Row) -> ListedMember:
            presence = self._presence.presence_of(row.member.user.id, members.guild_id)
            return ListedMember(presence=presence, **msgspec.structs.asdict(row.member))

        ops = {place: members.op(place, listed) for place in look.ranges}
        other = [op for place, op in ops.items() if look.ops.get(place) != op]
        if not other and look.groups == head:
            return
        look.ops, look.groups = ops, head
        payload = b'%b,"ops":[%b]}' % (head[:-1], b",".join(other))
        client.push(events.dispatch("GUILD_MEMBER_LIST_UPDATE", self._hub.pos, payload))


def _sees(sight: Sight, user_id: int, roles: Roles, channel_id: int) -> bool:
    """Whether a member sees a channel or a thread."""
    seen = sight.threads.get(channel_id)
    if seen is None:
        return sight.sees(user_id, roles, channel_id)
    is_let_in = not seen.is_private or user_id in seen.members
    return is_let_in and sight.sees(user_id, roles, seen.thread.parent_id)


def _hoisted(roles: Sequence[Role]) -> dict[int, int]:
    """The roles that are shown apart, the highest first, with their places."""
    apart = sorted((role for role in roles if role.hoist), key=lambda r: (-r.position, r.id))
    return {role.id: place for place, role in enumerate(apart)}


def _take_in(roster: _Roster, members: Iterable[Member]) -> None:
    for user_id, row in _rows(members):
        if user_id not in roster.touched:
            roster.rows[user_id] = row


def _rows(members: Iterable[Member]) -> Iterator[tuple[int, _Row]]:
    for member in members:
        user = member.user
        name = (member.nick or user.global_name or user.username).casefold()
        roles = tuple(sorted(map(int, member.roles)))
        yield int(user.id), _Row((name, int(user.id)), roles, member)
