"""The rules of channels, and the door to everything that is in one."""

from collections.abc import Container, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from internal.channel import repository
from internal.channel.model import (
    MAX_DIRECT_MESSAGES,
    OWN_DIRECT_MESSAGES,
    WITHOUT_MESSAGES,
    ChannelAccess,
    DirectMessage,
    DirectMessageOpened,
    DirectMessagePage,
    DirectMessageUpdated,
)
from internal.db.locks import Locks, lock
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    CannotMessageUser,
    MissingPermissions,
    NotATextChannel,
    TooManyDirectMessages,
    UnknownChannel,
    UnknownUser,
    WrongChannelType,
)
from internal.events import Audience
from internal.guild.model import GuildChannel
from internal.guild.service import GuildService
from internal.permission.model import Permission, allows
from internal.utils.snowflake import NewId, Snowflake

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

    async def access_of(
        self, conn: Conn, pairs: Sequence[repository.Pair]
    ) -> dict[repository.Pair, ChannelAccess]:
        """What each actor of the pairs may do in the channel, if it is a channel of theirs.

        One statement. Whether that is enough, the caller has to check.
        """
        return await repository.access_of(conn, pairs)

    def hold(
        self, actor: Snowflake, channel_id: Snowflake, needs: Permission
    ) -> AbstractAsyncContextManager[tuple[Transaction, ChannelAccess]]:
        """A transaction in which an access to a channel stays true, and the access.

        Whoever would delete the channel or remove the actor waits. Many may hold it at once.
        """

        async def attempt(conn: Conn, wait_for: int | None) -> ChannelAccess:
            access = await self.access(conn, actor, channel_id, needs)
            if access.lock_key is None:
                return access
            await lock(conn, access.lock_key, shared=True, wait_for=wait_for)
            return await self.access(conn, actor, channel_id, needs)

        return self._guilds.locks.transaction(attempt)

    async def hold_free(
        self, conn: Conn, pairs: Sequence[repository.Pair]
    ) -> tuple[set[Snowflake], dict[repository.Pair, ChannelAccess]]:
        """Look up many pairs of actor and channel at once; `check_access` decides for each.

        The access to what has one of the lock keys that come back first stays true until the
        commit. The other guilds and groups are being changed: nobody waits for them here, and
        strangers never lock any. Two statements, however many pairs there are.
        """
        held = await repository.try_hold(conn, pairs)
        return held, await repository.access_of(conn, pairs)

    def hold_late(
        self, lock_key: Snowflake, pairs: Sequence[repository.Pair]
    ) -> AbstractAsyncContextManager[tuple[Transaction, dict[repository.Pair, ChannelAccess]]]:
        """Wait for what is being changed, and look up pairs in a transaction then."""

        async def attempt(conn: Conn, wait_for: int | None) -> dict[repository.Pair, ChannelAccess]:
            await lock(conn, lock_key, shared=True, wait_for=wait_for)
            return await repository.access_of(conn, pairs)

        return self._send_locks.transaction(attempt)

    def change(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        needs: Permission,
        kinds: Container[int],
    ) -> AbstractAsyncContextManager[tuple[Transaction, ChannelAccess]]:
        """A transaction that may change a channel of one of these kinds, and the access to it.

        Its guild is locked, or the group itself. WrongChannelType if it is of another kind.
        """

        async def attempt(conn: Conn, wait_for: int | None) -> ChannelAccess:
            # Only who has access gets to wait for the lock, and it is read again under it.
            access = await self.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)
            if access.type not in kinds or access.lock_key is None:
                raise WrongChannelType
            check_access(access, needs)
            await lock(conn, access.lock_key, wait_for=wait_for)
            return await self.access(conn, actor, channel_id, needs)

        return self._guilds.locks.transaction(attempt)

    async def of_guild(self, actor: Snowflake, guild_id: Snowflake) -> list[GuildChannel]:
        async with self._db.read() as conn:
            return await self._guilds.channels_of(conn, actor, guild_id)

    async def get(self, actor: Snowflake, channel_id: Snowflake) -> GuildChannel | DirectMessage:
        async with self._db.read() as conn:
            access = await self.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)
            channel: GuildChannel | DirectMessage | None
            if access.guild_id is None:
                channel = await repository.find_private(conn, actor, channel_id)
            else:
                channel = await repository.find(conn, channel_id)
        if channel is None:  # deleted between the two statements
            raise UnknownChannel
        return channel

    async def type_of(self, actor: Snowflake, channel_id: Snowflake) -> int:
        """What kind of channel it is, for those who see it. It changes among texts only."""
        async with self._db.read() as conn:
            return (await self.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)).type

    async def open_direct_message(self, actor: Snowflake, other: Snowflake) -> DirectMessage:
        """Open the one channel that the two have, or make it; who made it first does not matter.

        An account has at most MAX_DIRECT_MESSAGES, for READY tells all of them: only so do READY
        and the events after it equal a fresh READY. The last OWN_DIRECT_MESSAGES of these only
        the account itself can open.
        """
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
            await self.refuse_more_direct_messages(tx.conn, actor)
            await self.refuse_to_add(tx.conn, other)
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
        """List all direct messages and groups of an account for READY, newest first."""
        return await repository.direct_messages_before(conn, user_id, None, MAX_DIRECT_MESSAGES)

    async def audiences(
        self, conn: Conn, channel_ids: Sequence[Snowflake]
    ) -> dict[Snowflake, Audience]:
        """Who may see each of these channels of guilds, as long as its guild is held."""
        return await repository.audiences(conn, channel_ids)

    async def announce_recipient(self, tx: Transaction, user_id: Snowflake) -> None:
        """Tell those who write to an account that it looks different. Call it after the change."""
        for other, channel in await repository.direct_messages_seen_by_others(
            tx.conn, user_id, MAX_DIRECT_MESSAGES
        ):
            tx.emit(DirectMessageUpdated(user_id=other, channel=channel))

    async def refuse_more_direct_messages(self, conn: Conn, actor: Snowflake) -> None:
        """Let nobody open more direct messages and groups than READY tells."""
        if await repository.count_direct_messages(conn, actor) >= MAX_DIRECT_MESSAGES:
            raise TooManyDirectMessages

    async def refuse_to_add(self, conn: Conn, other: Snowflake) -> None:
        """Let nobody fill somebody else's direct messages and groups up."""
        theirs = await repository.count_direct_messages(conn, other)
        if theirs >= MAX_DIRECT_MESSAGES - OWN_DIRECT_MESSAGES:
            raise CannotMessageUser


def check_access(found: ChannelAccess | None, needs: Permission) -> ChannelAccess:
    """Let through who may do all of `needs`; tell who can't see the channel that there is none."""
    if found is None or not found.permissions & _VIEW_CHANNEL:
        raise UnknownChannel
    if not allows(found.permissions, needs):
        raise MissingPermissions
    return found


def check_takes_messages(access: ChannelAccess) -> None:
    """Refuse what holds channels or threads, and no messages of its own."""
    if access.type in WITHOUT_MESSAGES:
        raise NotATextChannel


_VIEW_CHANNEL = int(Permission.VIEW_CHANNEL)
