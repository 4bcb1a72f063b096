"""The rules of channels, and the door to everything that is in one."""

from collections.abc import Sequence

import msgspec

from internal.channel import repository
from internal.channel.model import (
    MAX_CHANNELS_OF_GUILD,
    MAX_TOLD_OF_CHANGE,
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
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    CannotMessageUser,
    MissingPermissions,
    TooManyChannels,
    UnknownChannel,
    UnknownUser,
    WrongChannelType,
)
from internal.guild.model import GuildChannel
from internal.guild.service import GuildService
from internal.permission.model import Permission, allows
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error


class ChannelService:
    def __init__(self, db: Database, guilds: GuildService, new_id: NewId) -> None:
        self._db = db
        self._guilds = guilds
        self._new_id = new_id

    async def access(
        self,
        conn: Conn,
        actor: Snowflake,
        channel_id: Snowflake,
        needs: Permission,
        *,
        lock: bool = False,
    ) -> ChannelAccess:
        """Open the only door to a channel; for those who can't see it there is none.

        With `lock` the access stays true until the transaction ends: whoever would delete the
        channel or remove the actor waits. Many may hold it at once.
        """
        if lock:
            await repository.hold(conn, [channel_id])
        found = await repository.access_of(conn, [actor], [channel_id])
        return check_access(found.get((actor, channel_id)), needs)

    async def access_of_all(
        self, conn: Conn, pairs: Sequence[repository.Pair]
    ) -> dict[repository.Pair, ChannelAccess]:
        """Look up many pairs of actor and channel at once, and keep them true until the commit.

        Two statements, however many pairs there are. `check_access` decides for each.
        """
        actors = [actor for actor, _ in pairs]
        channel_ids = [channel_id for _, channel_id in pairs]
        await repository.hold(conn, channel_ids)
        return await repository.access_of(conn, actors, channel_ids)

    async def create(
        self, actor: Snowflake, guild_id: Snowflake, wish: CreateChannel
    ) -> GuildChannel:
        async with self._db.transaction() as tx:
            await self._guilds.access(
                tx.conn, actor, guild_id, Permission.MANAGE_CHANNELS, lock=True
            )
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
        async with self._db.transaction() as tx:
            channel = await self._lock_to_manage(tx.conn, actor, channel_id)
            wishes = msgspec.structs.asdict(wish).items()
            changed = msgspec.structs.replace(
                channel, **{name: value for name, value in wishes if value is not msgspec.UNSET}
            )
            if changed != channel:
                await repository.update(tx.conn, changed)
                tx.emit(ChannelUpdated(channel=changed))
            return changed

    async def delete(self, actor: Snowflake, channel_id: Snowflake) -> GuildChannel:
        async with self._db.transaction() as tx:
            channel = await self._lock_to_manage(tx.conn, actor, channel_id)
            await repository.delete(tx.conn, channel_id)
            tx.emit(ChannelDeleted(channel=channel))
            return channel

    async def open_direct_message(self, actor: Snowflake, wish: OpenDirectMessage) -> DirectMessage:
        """Open the one channel that the two have, or make it; who made it first does not matter."""
        other = _recipient(wish)
        if other == actor:
            raise CannotMessageUser
        async with self._db.transaction() as tx:
            channel = await repository.find_direct_message(tx.conn, actor, other)
            if channel is not None:
                return channel
            # Held, so that neither is told the other's looks of before a change.
            if not await repository.hold_users(tx.conn, [actor, other]):
                raise UnknownUser
            made = await repository.insert_direct_message(tx.conn, self._new_id(), actor, other)
            channel = await repository.find_direct_message(tx.conn, actor, other)
            theirs = await repository.find_direct_message(tx.conn, other, actor)
            if channel is None or theirs is None:
                raise UnknownUser
            if made:
                tx.emit(DirectMessageOpened(user_id=actor, channel=channel))
                tx.emit(DirectMessageOpened(user_id=other, channel=theirs))
            return channel

    async def own_direct_messages(
        self, actor: Snowflake, page: DirectMessagePage
    ) -> list[DirectMessage]:
        async with self._db.read() as conn:
            return await repository.direct_messages_before(conn, actor, page.before, page.limit)

    async def direct_messages(
        self, conn: Conn, user_id: Snowflake, limit: int = 100
    ) -> list[DirectMessage]:
        """List the direct messages of an account for READY, newest first."""
        return await repository.direct_messages_before(conn, user_id, None, limit)

    async def announce_recipient(self, tx: Transaction, user_id: Snowflake) -> None:
        """Tell those who write to an account that it looks different. Call it after the change."""
        for other, channel in await repository.direct_messages_seen_by_others(
            tx.conn, user_id, MAX_TOLD_OF_CHANGE
        ):
            tx.emit(DirectMessageUpdated(user_id=other, channel=channel))

    async def _lock_to_manage(
        self, conn: Conn, actor: Snowflake, channel_id: Snowflake
    ) -> GuildChannel:
        """Find a channel that the actor may manage, with its guild locked."""
        access = await self.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)
        if access.guild_id is None:
            raise WrongChannelType
        await self._guilds.access(
            conn, actor, access.guild_id, Permission.MANAGE_CHANNELS, lock=True
        )
        channel = await repository.find(conn, channel_id)
        if channel is None:  # deleted while this one waited for the lock
            raise UnknownChannel
        return channel


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
