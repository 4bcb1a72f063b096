"""Who is in threads, who comes and goes, and what is counted when something is said there."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import msgspec

from internal.channel import repository as channels_repository
from internal.channel.model import THREAD_PARENTS, ChannelAccess, ChannelType
from internal.channel.service import ChannelService
from internal.channel.thread import repository
from internal.channel.thread.model import (
    MAX_ACTIVE_THREADS,
    MAX_PRIVATE_MEMBERS,
    MAX_REMINDED,
    OwnThreadMember,
    ThreadCreated,
    ThreadMemberPage,
    ThreadMemberQuery,
    ThreadMemberUpdated,
    ThreadParticipant,
    ThreadUpdated,
)
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    MissingPermissions,
    ThreadArchived,
    ThreadLocked,
    TooManyThreadMembers,
    TooManyThreads,
    UnknownChannel,
    UnknownMember,
    WrongChannelType,
)
from internal.events import Audience
from internal.guild.model import (
    AddedThreadMember,
    GuildChannel,
    Member,
    Thread,
    ThreadMember,
    ThreadMembers,
    ThreadMembersUpdated,
)
from internal.guild.service import GuildService
from internal.permission.model import Permission, allows
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

_VIEW: Final = Permission.VIEW_CHANNEL
_SEND: Final = int(Permission.SEND_MESSAGES)
_MANAGE: Final = int(Permission.MANAGE_THREADS)


class ThreadMembership:
    """Who is in threads, and who comes and goes."""

    def __init__(
        self, db: Database, guilds: GuildService, channels: ChannelService, clock: Clock
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._channels = channels
        self._clock = clock

    async def page(
        self, actor: Snowflake, thread_id: Snowflake, page: ThreadMemberPage
    ) -> list[ThreadParticipant]:
        """The members of a thread, in the order of their ids."""
        async with self._db.read() as conn:
            await self._access(conn, actor, thread_id)
            return await repository.members_after(
                conn,
                thread_id,
                page.after or Snowflake(0),
                page.limit,
                with_member=page.with_member,
            )

    async def get(
        self,
        actor: Snowflake,
        thread_id: Snowflake,
        user_id: Snowflake,
        query: ThreadMemberQuery,
    ) -> ThreadParticipant:
        async with self._db.read() as conn:
            await self._access(conn, actor, thread_id)
            found = await repository.members_after(
                conn, thread_id, Snowflake(user_id - 1), 1, with_member=query.with_member
            )
        if not found or found[0].user_id != user_id:
            raise UnknownMember
        return found[0]

    async def join(self, actor: Snowflake, thread_id: Snowflake) -> None:
        """Join a thread. Joining twice changes nothing and tells nobody."""
        async with self.change(actor, thread_id) as (tx, access, thread):
            refuse_archived(thread)
            await add_member(tx, thread, as_member(access), _members(access), self._clock.now())

    async def add(self, actor: Snowflake, thread_id: Snowflake, user_id: Snowflake) -> None:
        """Bring somebody into a thread who may see its channel. Done twice, it is done once."""
        async with self.change(actor, thread_id) as (tx, access, thread):
            refuse_archived(thread)
            refuse_locked(access)
            if not allows(access.permissions, _SEND) or not _may_invite(access, thread):
                raise MissingPermissions
            found = await self._channels.access_of(tx.conn, [(user_id, thread.parent_id)])
            theirs = found.get((user_id, thread.parent_id))
            if theirs is None or not allows(theirs.permissions, int(_VIEW)):
                raise UnknownMember
            await add_member(tx, thread, as_member(theirs), _members(access), self._clock.now())

    async def leave(self, actor: Snowflake, thread_id: Snowflake) -> None:
        """Leave a thread. Done twice, it is done once."""
        async with self.change(actor, thread_id) as (tx, access, thread):
            refuse_archived(thread)
            await _remove(tx, access, actor)

    async def remove(self, actor: Snowflake, thread_id: Snowflake, user_id: Snowflake) -> None:
        """Take somebody out of a thread; moderators may, and who started a private one."""
        async with self.change(actor, thread_id) as (tx, access, thread):
            refuse_archived(thread)
            is_own = thread.owner_id == actor and thread.type == ChannelType.PRIVATE_THREAD
            if not is_own and not allows(access.permissions, _MANAGE):
                raise MissingPermissions
            await _remove(tx, access, user_id)

    async def make_ready(self, actor: Snowflake, thread_id: Snowflake) -> None:
        """Take a thread out of the archive, or let the actor into a private one, to send there."""
        async with self.change(actor, thread_id) as (tx, access, found):
            if not allows(access.permissions, _SEND):
                raise MissingPermissions
            refuse_locked(access)
            now, thread = self._clock.now(), found
            if thread.thread_metadata.archived:
                await refuse_more_active(tx.conn, thread.guild_id)
                await repository.reopen(tx.conn, thread.id, now)
                thread = await tell_reopened(tx, access, actor)
            if access.thread is not None and access.thread.members is not None:
                await add_member(tx, thread, as_member(access), _members(access), now)

    @asynccontextmanager
    async def change(
        self, actor: Snowflake, thread_id: Snowflake
    ) -> AsyncIterator[tuple[Transaction, ChannelAccess, Thread]]:
        """A transaction with a thread that the actor sees, its guild locked."""
        async with self._db.read() as conn:
            guild_id = (await self._access(conn, actor, thread_id)).guild_id
        if guild_id is None:
            raise WrongChannelType
        async with self._guilds.change(actor, guild_id) as (tx, _):
            access = await self._access(tx.conn, actor, thread_id)
            thread = await repository.find(tx.conn, thread_id, actor)
            if thread is None:  # it was looked up a moment ago, under the same lock
                raise UnknownChannel
            yield tx, access, thread

    @asynccontextmanager
    async def change_parent(
        self, actor: Snowflake, channel_id: Snowflake
    ) -> AsyncIterator[tuple[Transaction, ChannelAccess, GuildChannel]]:
        """A transaction with a channel that may have threads, its guild locked."""
        async with self._db.read() as conn:
            access = await parent_access(self._channels, conn, actor, channel_id, _VIEW)
        if access.guild_id is None:
            raise WrongChannelType
        async with self._guilds.change(actor, access.guild_id) as (tx, _):
            access = await self._channels.access(tx.conn, actor, channel_id, _VIEW)
            parent = await channels_repository.find(tx.conn, channel_id)
            if parent is None:
                raise UnknownChannel
            yield tx, access, parent

    async def _access(self, conn: Conn, actor: Snowflake, thread_id: Snowflake) -> ChannelAccess:
        access = await self._channels.access(conn, actor, thread_id, _VIEW)
        if not access.is_thread:
            raise WrongChannelType
        return access


async def parent_access(
    channels: ChannelService,
    conn: Conn,
    actor: Snowflake,
    channel_id: Snowflake,
    needs: Permission,
) -> ChannelAccess:
    """The access to a channel that may have threads."""
    access = await channels.access(conn, actor, channel_id, needs)
    if access.guild_id is None or access.type not in THREAD_PARENTS:
        raise WrongChannelType
    return access


# What is said in threads.


def is_ready(access: ChannelAccess) -> bool:
    """Whether one can just write there; otherwise `make_ready` must come first."""
    thread = access.thread
    return thread is None or not (
        thread.archived or (thread.members is not None and not thread.is_member)
    )


async def note_sends(
    tx: Transaction, sent: Sequence[tuple[ChannelAccess, Snowflake]], now: datetime
) -> None:
    """Count what was said in threads, and let those in who said it. Two statements at most.

    The rows of the threads are locked until the commit: call it late.
    """
    said = Counter(
        access.channel_id for access, message_id in sent if message_id != access.channel_id
    )
    newcomers = {
        (access.channel_id, access.user.id): access
        for access, _ in sent
        if access.thread is not None and not access.thread.is_member
    }
    joined = await repository.insert_members(tx.conn, list(newcomers), now) if newcomers else set()
    came = Counter(thread_id for thread_id, _ in joined)
    threads = sorted({access.channel_id for access, _ in sent})
    counts = await repository.count(
        tx.conn, [(one, said[one], said[one], came[one]) for one in threads], now
    )
    for thread_id in sorted(came):
        added = [newcomers[pair] for pair in sorted(joined) if pair[0] == thread_id]
        first = added[0]
        if first.guild_id is None:
            continue
        change = ThreadMembers(
            id=thread_id,
            guild_id=first.guild_id,
            member_count=counts[thread_id],
            added_members=tuple(_added(thread_id, as_member(one), now) for one in added),
        )
        tx.emit(ThreadMembersUpdated(change=change, to=first.audience()))


async def note_deletes(conn: Conn, deleted: Mapping[Snowflake, Sequence[Snowflake]]) -> None:
    """Count what was taken back, by channel; those that are no threads are passed over."""
    gone = {
        channel_id: sum(message_id != channel_id for message_id in message_ids)
        for channel_id, message_ids in deleted.items()
    }
    await repository.count(
        conn, [(channel_id, -gone[channel_id], 0, 0) for channel_id in sorted(gone)], None
    )


async def threads_of_messages(
    conn: Conn, actor: Snowflake, channel_id: Snowflake, message_ids: Sequence[Snowflake]
) -> dict[Snowflake, Thread]:
    """The threads that were started from messages of a channel that the actor sees."""
    return await repository.of_messages(conn, channel_id, message_ids, actor)


# Members.


async def add_member(
    tx: Transaction,
    thread: Thread,
    member: Member,
    members: tuple[Snowflake, ...] | None,
    now: datetime,
) -> None:
    """Let a member of the guild into a thread; `members` are those of a private one until now.

    Needs the guild's lock.
    """
    pair = (thread.id, member.user.id)
    if members is not None and len(members) >= MAX_PRIVATE_MEMBERS and pair[1] not in members:
        raise TooManyThreadMembers
    if not await repository.insert_members(tx.conn, [pair], now):
        return
    counts = await repository.count(tx.conn, [(thread.id, 0, 0, 1)], None)
    change = ThreadMembers(
        id=thread.id,
        guild_id=thread.guild_id,
        member_count=counts[thread.id],
        added_members=(_added(thread.id, member, now),),
    )
    if members is not None:
        # Whoever is not in a private thread has never heard of it.
        own = ThreadMember(id=thread.id, user_id=member.user.id, join_timestamp=Timestamp.at(now))
        shown = msgspec.structs.replace(thread, member=own, member_count=counts[thread.id])
        tx.emit(ThreadCreated(thread=shown, to=audience_of(thread, (member.user.id,))))
        members = (*members, member.user.id)
    tx.emit(ThreadMembersUpdated(change=change, to=audience_of(thread, members)))


async def _remove(tx: Transaction, access: ChannelAccess, user_id: Snowflake) -> None:
    """Take somebody out of a thread, if it is somebody in it, and tell those who are or were."""
    if access.guild_id is None:
        raise WrongChannelType
    if not await repository.delete_member(tx.conn, access.channel_id, user_id):
        return
    counts = await repository.count(tx.conn, [(access.channel_id, 0, 0, -1)], None)
    change = ThreadMembers(
        id=access.channel_id,
        guild_id=access.guild_id,
        member_count=counts[access.channel_id],
        removed_member_ids=(user_id,),
    )
    tx.emit(ThreadMembersUpdated(change=change, to=access.audience()))


async def tell_reopened(tx: Transaction, access: ChannelAccess, actor: Snowflake) -> Thread:
    """Tell that a thread is out of the archive again, and its members that they are in it."""
    thread = await find_thread(tx.conn, access.channel_id, actor)
    tx.emit(ThreadUpdated(thread=as_told(thread), to=access.audience()))
    for member in await repository.newest_members(tx.conn, thread.id, MAX_REMINDED):
        own = OwnThreadMember(guild_id=thread.guild_id, **fields_of(member))
        tx.emit(ThreadMemberUpdated(member=own, parent_id=thread.parent_id))
    return thread


async def refuse_more_active(conn: Conn, guild_id: Snowflake) -> None:
    if await repository.count_active(conn, guild_id) >= MAX_ACTIVE_THREADS:
        raise TooManyThreads


def refuse_locked(access: ChannelAccess) -> None:
    """What is locked, only moderators touch."""
    thread = access.thread
    if thread is None or not thread.locked or allows(access.permissions, _MANAGE):
        return
    raise ThreadArchived if thread.archived else ThreadLocked


def refuse_archived(thread: Thread) -> None:
    if thread.thread_metadata.archived:
        raise ThreadArchived


def _may_invite(access: ChannelAccess, thread: Thread) -> bool:
    """Whether the actor may add others; to a private thread that is closed, moderators alone."""
    return (
        thread.thread_metadata.invitable is not False
        or thread.owner_id == access.user.id
        or allows(access.permissions, _MANAGE)
    )


# Small things.


async def find_thread(conn: Conn, thread_id: Snowflake, viewer: Snowflake) -> Thread:
    thread = await repository.find(conn, thread_id, viewer)
    if thread is None:
        raise UnknownChannel
    return thread


def as_told(thread: Thread) -> Thread:
    """A thread as everybody is told of it."""
    return msgspec.structs.replace(thread, member=msgspec.UNSET)


def audience_of(thread: Thread, members: tuple[Snowflake, ...] | None) -> Audience:
    return Audience(
        users=members,
        guild_id=thread.guild_id,
        channel_id=thread.id,
        parent_id=thread.parent_id,
    )


def _members(access: ChannelAccess) -> tuple[Snowflake, ...] | None:
    return None if access.thread is None else access.thread.members


def as_member(access: ChannelAccess) -> Member:
    """The actor as a member of the guild."""
    if access.member is None:
        raise WrongChannelType
    return Member(user=access.user, **fields_of(access.member))


def _added(thread_id: Snowflake, member: Member, now: datetime) -> AddedThreadMember:
    return AddedThreadMember(
        id=thread_id,
        user_id=member.user.id,
        join_timestamp=Timestamp.at(now),
        member=member,
    )


def fields_of(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields of a struct as they are, for another one to be made of them."""
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
