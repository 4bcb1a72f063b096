"""The rules of channels, and the door to everything that is in one."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import msgspec

from internal.channel import repository
from internal.channel.model import (
    MAX_CHANNELS_OF_GUILD,
    MAX_DIRECT_MESSAGES,
    OWN_DIRECT_MESSAGES,
    ChannelAccess,
    ChannelCreated,
    ChannelDeleted,
    ChannelUpdated,
    CreateChannel,
    DirectMessage,
    DirectMessageOpened,
    DirectMessagePage,
    DirectMessageUpdated,
    OpenDirectMessage,
    UpdateChannel,
)
from internal.db.locks import Locks, lock
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    CannotMessageUser,
    MissingPermissions,
    TooManyChannels,
    TooManyDirectMessages,
    UnknownChannel,
    UnknownUser,
    WrongChannelType,
)
from internal.guild.model import GuildChannel
from internal.guild.service import GuildService
from internal.permission.model import Permission, allows
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error

# So many connections, at most, wait with sends for guilds that are being changed.
_WAITING_SENDS: Final = 3


class ChannelService:
    def __init__(self, db: Database, guilds: GuildService, new_id: NewId) -> None:
        self._db = db
        self._guilds = guilds
        self._new_id = new_id
        # Of their own, so that sends do not queue behind many who change the same guild.
        self._send_locks = Locks(db, connections=_WAITING_SENDS)

    async def access(
        self, conn: Conn, actor: Snowflake, channel_id: Snowflake, needs: Permission
    ) -> ChannelAccess:
        """Open the only door to a channel; for those who can't see it there is none."""
        found = await repository.access_of(conn, [(actor, channel_id)])
        return check_access(found.get((actor, channel_id)), needs)

    def hold(
        self, actor: Snowflake, channel_id: Snowflake, needs: Permission
    ) -> AbstractAsyncContextManager[tuple[Transaction, ChannelAccess]]:
        """A transaction in which an access to a channel stays true, and the access.

        Whoever would delete the channel or remove the actor waits. Many may hold it at once.
        """

        async def attempt(conn: Conn, wait_for: int | None) -> ChannelAccess:
            access = await self.access(conn, actor, channel_id, needs)
            if access.guild_id is None:
                return access
            await lock(conn, access.guild_id, shared=True, wait_for=wait_for)
            return await self.access(conn, actor, channel_id, needs)

        return self._guilds.locks.transaction(attempt)

    async def hold_free(
        self, conn: Conn, pairs: Sequence[repository.Pair]
    ) -> tuple[set[Snowflake], dict[repository.Pair, ChannelAccess]]:
        """Look up many pairs of actor and channel at once; `check_access` decides for each.

        The access to channels of the guilds that come back first stays true until the commit. The
        other guilds are being changed: nobody waits for them here, and strangers never lock any.
        Two statements, however many pairs there are.
        """
        held = await repository.try_hold(conn, pairs)
        return held, await repository.access_of(conn, pairs)

    def hold_late(
        self, guild_id: Snowflake, pairs: Sequence[repository.Pair]
    ) -> AbstractAsyncContextManager[tuple[Transaction, dict[repository.Pair, ChannelAccess]]]:
        """Wait for a guild that is being changed, and look up pairs in a transaction then."""

        async def attempt(conn: Conn, wait_for: int | None) -> dict[repository.Pair, ChannelAccess]:
            await lock(conn, guild_id, shared=True, wait_for=wait_for)
            return await repository.access_of(conn, pairs)

        return self._send_locks.transaction(attempt)

    async def create(
        self, actor: Snowflake, guild_id: Snowflake, wish: CreateChannel
    ) -> GuildChannel:
        async with self._guilds.change(actor, guild_id, Permission.MANAGE_CHANNELS) as (tx, _):
            count, end = await repository.count_and_end(tx.conn, guild_id)
            if count >= MAX_CHANNELS_OF_GUILD:
                raise TooManyChannels
            channel = GuildChannel(
                id=self._new_id(),
                guild_id=guild_id,
                type=wish.type,
                name=wish.name,
                topic=wish.topic,
                position=end if wish.position is None else wish.position,
                nsfw=wish.nsfw,
                rate_limit_per_user=wish.rate_limit_per_user or 0,
            )
            await repository.insert(tx.conn, channel)
            tx.emit(ChannelCreated(channel=channel))
            return channel

    async def of_guild(self, actor: Snowflake, guild_id: Snowflake) -> list[GuildChannel]:
        async with self._db.read() as conn:
            return await self._guilds.channels_of(conn, actor, guild_id)

    async def get(self, actor: Snowflake, channel_id: Snowflake) -> GuildChannel | DirectMessage:
        async with self._db.read() as conn:
            access = await self.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)
            channel: GuildChannel | DirectMessage | None
            if access.participants is None:
                channel = await repository.find(conn, channel_id)
            else:
                low, high = access.participants
                other = high if actor == low else low
                channel = await repository.find_direct_message(conn, actor, other)
        if channel is None:  # deleted between the two statements
            raise UnknownChannel
        return channel

    async def update(
        self, actor: Snowflake, channel_id: Snowflake, wish: UpdateChannel
    ) -> GuildChannel:
        async with self._manage(actor, channel_id) as (tx, channel):
            wishes = msgspec.structs.asdict(wish).items()
            changed = msgspec.structs.replace(
                channel, **{name: value for name, value in wishes if value is not msgspec.UNSET}
            )
            if changed != channel:
                await repository.update(tx.conn, changed)
                tx.emit(ChannelUpdated(channel=changed))
            return changed

    async def delete(self, actor: Snowflake, channel_id: Snowflake) -> GuildChannel:
        async with self._manage(actor, channel_id) as (tx, channel):
            await repository.delete(tx.conn, channel_id)
            tx.emit(ChannelDeleted(channel=channel))
            return channel

    async def open_direct_message(self, actor: Snowflake, wish: OpenDirectMessage) -> DirectMessage:
        """Open the one channel that the two have, or make it; who made it first does not matter.

        An account has at most MAX_DIRECT_MESSAGES, for READY tells all of them: only so do READY
        and the events after it equal a fresh READY. The last OWN_DIRECT_MESSAGES of these only
        the account itself can open.
        """
        other = _recipient(wish)
        if other == actor:
            raise CannotMessageUser
        async with self._db.transaction() as tx:
            channel = await repository.find_direct_message(tx.conn, actor, other)
            if channel is not None:
                return channel
            # Locked, so that neither is told the other's looks of before a change, and that of
            # two openings at once the second counts the first.
            if not await repository.lock_users(tx.conn, [actor, other]):
                raise UnknownUser
            channel = await repository.find_direct_message(tx.conn, actor, other)
            if channel is not None:
                return channel
            await self._refuse_more_direct_messages(tx.conn, actor, other)
            await repository.insert_direct_message(tx.conn, self._new_id(), actor, other)
            channel = await repository.find_direct_message(tx.conn, actor, other)
            theirs = await repository.find_direct_message(tx.conn, other, actor)
            if channel is None or theirs is None:
                raise UnknownUser
            tx.emit(DirectMessageOpened(user_id=actor, channel=channel))
            tx.emit(DirectMessageOpened(user_id=other, channel=theirs))
            return channel

    async def own_direct_messages(
        self, actor: Snowflake, page: DirectMessagePage
    ) -> list[DirectMessage]:
        async with self._db.read() as conn:
            return await repository.direct_messages_before(conn, actor, page.before, page.limit)

    async def direct_messages(self, conn: Conn, user_id: Snowflake) -> list[DirectMessage]:
        """List all direct messages of an account for READY, newest first."""
        return await repository.direct_messages_before(conn, user_id, None, MAX_DIRECT_MESSAGES)

    async def announce_recipient(self, tx: Transaction, user_id: Snowflake) -> None:
        """Tell those who write to an account that it looks different. Call it after the change."""
        for other, channel in await repository.direct_messages_seen_by_others(
            tx.conn, user_id, MAX_DIRECT_MESSAGES
        ):
            tx.emit(DirectMessageUpdated(user_id=other, channel=channel))

    async def _refuse_more_direct_messages(
        self, conn: Conn, actor: Snowflake, other: Snowflake
    ) -> None:
        if await repository.count_direct_messages(conn, actor) >= MAX_DIRECT_MESSAGES:
            raise TooManyDirectMessages
        theirs = await repository.count_direct_messages(conn, other)
        if theirs >= MAX_DIRECT_MESSAGES - OWN_DIRECT_MESSAGES:
            raise CannotMessageUser

    @asynccontextmanager
    async def _manage(
        self, actor: Snowflake, channel_id: Snowflake
    ) -> AsyncIterator[tuple[Transaction, GuildChannel]]:
        """A transaction with a channel that the actor may manage, its guild locked."""
        async with self._db.read() as conn:
            access = await self.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)
        if access.guild_id is None:
            raise WrongChannelType
        async with self._guilds.change(actor, access.guild_id, Permission.MANAGE_CHANNELS) as (
            tx,
            _,
        ):
            channel = await repository.find(tx.conn, channel_id)
            if channel is None:  # deleted meanwhile
                raise UnknownChannel
            yield tx, channel


def check_access(found: ChannelAccess | None, needs: Permission) -> ChannelAccess:
    """Let through who may do all of `needs`; tell who can't see the channel that there is none."""
    if found is None or not found.permissions & _VIEW_CHANNEL:
        raise UnknownChannel
    if not allows(found.permissions, needs):
        raise MissingPermissions
    return found


_VIEW_CHANNEL = int(Permission.VIEW_CHANNEL)


def _recipient(wish: OpenDirectMessage) -> Snowflake:
    if wish.recipient_id is not msgspec.UNSET:
        return wish.recipient_id
    if wish.recipients is not msgspec.UNSET:
        return wish.recipients[0]
    raise field_error("recipient_id", "This field is required", "BASE_TYPE_REQUIRED")
