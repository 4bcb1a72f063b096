"""The rules of groups: who opens, names, joins and leaves them."""

from collections.abc import Sequence
from typing import Final

import msgspec

from internal.channel import repository as channels_repository
from internal.channel.group import repository
from internal.channel.group.model import (
    GroupLeft,
    RecipientAdded,
    RecipientOfGroup,
    RecipientRemoved,
)
from internal.channel.model import (
    GROUPS,
    MAX_RECIPIENTS,
    ChannelAccess,
    DirectMessage,
    DirectMessageOpened,
    DirectMessageUpdated,
    UpdateChannel,
)
from internal.channel.service import ChannelService
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    MissingPermissions,
    TooManyRecipients,
    UnknownChannel,
    UnknownUser,
)
from internal.permission.model import Permission
from internal.utils.snowflake import NewId, Snowflake

_IN: Final = Permission.VIEW_CHANNEL


class GroupService:
    """Who changes a group holds its lock, and then the accounts of all in it.

    So nobody is told of the others' looks of before a change of these, no message is sent by
    somebody who is just being removed, and none reaches that one afterwards.
    """

    def __init__(self, db: Database, channels: ChannelService, new_id: NewId) -> None:
        self._db = db
        self._channels = channels
        self._new_id = new_id

    async def open(self, actor: Snowflake, others: Sequence[Snowflake]) -> DirectMessage:
        """Make a group with these others. Every time it is another one."""
        people = [actor, *others]
        if len(people) > MAX_RECIPIENTS:
            raise TooManyRecipients
        async with self._db.transaction() as tx:
            if not await channels_repository.lock_users(tx.conn, people):
                raise UnknownUser
            await self._channels.refuse_more_direct_messages(tx.conn, actor)
            for other in others:
                await self._channels.refuse_to_add(tx.conn, other)
            channel_id = self._new_id()
            await repository.insert(tx.conn, channel_id, actor, people)
            views = await _views(tx.conn, channel_id)
            for user_id, view in views.items():
                opened = msgspec.structs.replace(view, last_message_id=None)
                tx.emit(DirectMessageOpened(user_id=user_id, channel=opened))
        return msgspec.structs.replace(views[actor], last_message_id=None)

    async def update(
        self, actor: Snowflake, channel_id: Snowflake, wish: UpdateChannel
    ) -> DirectMessage:
        """Rename a group. Everyone in it may."""
        async with self._channels.change(actor, channel_id, _IN, GROUPS) as (tx, access):
            await _lock(tx.conn, access)
            group = await _view(tx.conn, actor, channel_id)
            if wish.name is msgspec.UNSET or wish.name == group.name:
                return group
            await repository.rename(tx.conn, channel_id, wish.name)
            await _announce(tx, channel_id)
            return msgspec.structs.replace(group, name=wish.name)

    async def leave(self, actor: Snowflake, channel_id: Snowflake) -> DirectMessage:
        async with self._channels.change(actor, channel_id, _IN, GROUPS) as (tx, access):
            await _lock(tx.conn, access)
            return await _take_out(tx, access, actor)

    async def add(self, actor: Snowflake, channel_id: Snowflake, user_id: Snowflake) -> None:
        """Add somebody. Everyone in it may. Adding twice changes nothing and tells nobody."""
        async with self._channels.change(actor, channel_id, _IN, GROUPS) as (tx, access):
            people = access.participants or ()
            if user_id in people:
                return
            if len(people) >= MAX_RECIPIENTS:
                raise TooManyRecipients
            if not await channels_repository.lock_users(tx.conn, [*people, user_id]):
                raise UnknownUser
            await self._channels.refuse_to_add(tx.conn, user_id)
            await repository.add(tx.conn, channel_id, user_id)
            group = await _view(tx.conn, user_id, channel_id)
            newcomer = await _recipient(tx.conn, actor, channel_id, user_id)
            tx.emit(RecipientAdded(recipient=newcomer, users=people))
            tx.emit(DirectMessageOpened(user_id=user_id, channel=group))

    async def remove(self, actor: Snowflake, channel_id: Snowflake, user_id: Snowflake) -> None:
        """Take somebody out, which is the owner's to do. Who is not in it stays out."""
        async with self._channels.change(actor, channel_id, _IN, GROUPS) as (tx, access):
            if actor not in {user_id, access.owner_id}:
                raise MissingPermissions
            if user_id in (access.participants or ()):
                await _lock(tx.conn, access)
                await _take_out(tx, access, user_id)


async def _take_out(tx: Transaction, access: ChannelAccess, user_id: Snowflake) -> DirectMessage:
    """End somebody's part in a group. The owner's next is the oldest account."""
    channel_id = access.channel_id
    group = await _view(tx.conn, user_id, channel_id)
    remaining = tuple(one for one in access.participants or () if one != user_id)
    if not remaining:
        await channels_repository.delete(tx.conn, channel_id)
        tx.emit(GroupLeft(user_id=user_id, channel=group, is_last=True))
        return group
    leaver = await _recipient(tx.conn, remaining[0], channel_id, user_id)
    await repository.remove(tx.conn, channel_id, user_id)
    tx.emit(GroupLeft(user_id=user_id, channel=group, is_last=False))
    tx.emit(RecipientRemoved(recipient=leaver, users=remaining))
    if access.owner_id == user_id:
        await repository.hand_over(tx.conn, channel_id, min(remaining))
        await _announce(tx, channel_id)
    return group


async def _lock(conn: Conn, access: ChannelAccess) -> None:
    await channels_repository.lock_users(conn, list(access.participants or ()))


async def _view(conn: Conn, viewer: Snowflake, channel_id: Snowflake) -> DirectMessage:
    group = await channels_repository.find_private(conn, viewer, channel_id)
    if group is None:
        raise UnknownChannel
    return group


async def _views(conn: Conn, channel_id: Snowflake) -> dict[Snowflake, DirectMessage]:
    return dict(await channels_repository.private_views(conn, [channel_id]))


async def _announce(tx: Transaction, channel_id: Snowflake) -> None:
    """Tell all who are in a group what it looks like now."""
    for user_id, view in (await _views(tx.conn, channel_id)).items():
        tx.emit(DirectMessageUpdated(user_id=user_id, channel=view))


async def _recipient(
    conn: Conn, viewer: Snowflake, channel_id: Snowflake, user_id: Snowflake
) -> RecipientOfGroup:
    """Somebody in a group, as another one there sees the account."""
    group = await _view(conn, viewer, channel_id)
    user = next(one for one in group.recipients if one.id == user_id)
    return RecipientOfGroup(channel_id=channel_id, user=user)
