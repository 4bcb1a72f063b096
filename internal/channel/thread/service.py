"""The rules of threads: who starts, sees, joins, changes and archives them."""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from internal.channel import repository as channels_repository
from internal.channel.model import THREAD_PARENTS, ChannelAccess, ChannelType
from internal.channel.service import ChannelService
from internal.channel.thread import repository
from internal.channel.thread.member.service import (
    ThreadMembership,
    add_member,
    as_member,
    as_told,
    audience_of,
    fields_of,
    find_thread,
    refuse_more_active,
    tell_reopened,
)
from internal.channel.thread.model import (
    DEFAULT_ARCHIVE_MINUTES,
    PINNED,
    REQUIRE_TAG,
    FirstMessage,
    GoneThread,
    NewPost,
    StartFromMessage,
    StartThread,
    ThreadCreated,
    ThreadDeleted,
    ThreadUpdated,
    UpdateThread,
)
from internal.db.postgres import Conn, Transaction
from internal.errors import (
    MissingPermissions,
    NotVerified,
    TagRequired,
    ThreadArchived,
    ThreadExists,
    TooManyPinnedThreads,
    Unavailable,
    UnknownChannel,
    UnknownMessage,
    UnknownTag,
    WrongChannelType,
)
from internal.guild.audit.model import Act, Action, Change
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.model import (
    GuildChannel,
    Thread,
    ThreadMetadata,
)
from internal.permission.model import Permission, allows
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error

_VIEW: Final = Permission.VIEW_CHANNEL
_READ: Final = Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY
_SEND: Final = int(Permission.SEND_MESSAGES)
_MANAGE: Final = int(Permission.MANAGE_THREADS)


class Messages(Protocol):
    """What threads need of messages."""

    async def mark_thread(
        self, tx: Transaction, access: ChannelAccess, message_id: Snowflake, thread: Thread | None
    ) -> bool:
        """Show that a message has a thread, or none any more; False if there is no such message."""
        ...

    async def open_post(
        self, tx: Transaction, access: ChannelAccess, first: FirstMessage
    ) -> object:
        """Send the message that a post of a forum begins with; it has the post's id."""
        ...

    def check_post(self, first: FirstMessage) -> None:
        """Refuse what can't be sent."""
        ...


class ThreadService:
    def __init__(
        self,
        channels: ChannelService,
        membership: ThreadMembership,
        messages: Messages,
        *,
        audit: AuditTrail,
        new_id: NewId,
        clock: Clock,
    ) -> None:
        self._channels = channels
        self._membership = membership
        self._messages = messages
        self._audit = audit
        self._new_id = new_id
        self._clock = clock

    async def start_from(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        message_id: Snowflake,
        wish: StartFromMessage,
        *,
        reason: str | None,
    ) -> Thread:
        """Start the one thread of a message; it has the message's id."""
        async with self._membership.change_parent(actor, channel_id) as (tx, access, parent):
            if parent.type not in THREAD_PARENTS or parent.type == ChannelType.FORUM:
                raise WrongChannelType
            if not allows(access.permissions, int(Permission.CREATE_PUBLIC_THREADS | _READ)):
                raise MissingPermissions
            if await repository.is_taken(tx.conn, message_id):
                # A channel may have the id of no message, so it is this one's thread.
                raise await self._taken(tx.conn, channel_id, message_id)
            if await repository.is_being_purged(tx.conn, message_id):
                raise Unavailable(retry_after=1)
            kind = THREAD_PARENTS[ChannelType(parent.type)]
            thread = self._thread(message_id, kind, access, parent, wish)
            thread = await self._insert(tx, access, thread, reason=reason)
            if not await self._messages.mark_thread(tx, access, message_id, as_told(thread)):
                raise UnknownMessage
            return thread

    async def start(
        self, actor: Snowflake, channel_id: Snowflake, wish: StartThread, *, reason: str | None
    ) -> Thread:
        """Start a thread without a message or, in a forum, a post with its first message."""
        async with self._membership.change_parent(actor, channel_id) as (tx, access, parent):
            if parent.type == ChannelType.FORUM:
                return await self._post(tx, access, parent, wish, reason=reason)
            kind = _kind(parent, wish)
            needs = (
                Permission.CREATE_PRIVATE_THREADS
                if kind == ChannelType.PRIVATE_THREAD
                else Permission.CREATE_PUBLIC_THREADS
            )
            if not allows(access.permissions, int(needs)):
                raise MissingPermissions
            if wish.applied_tags:
                raise field_error("applied_tags", "Only posts of forums have tags")
            thread = self._thread(
                self._new_id(), kind, access, parent, wish, invitable=wish.invitable
            )
            return await self._insert(tx, access, thread, reason=reason)

    async def update(
        self, actor: Snowflake, thread_id: Snowflake, wish: UpdateThread, *, reason: str | None
    ) -> Thread:
        async with self._membership.change(actor, thread_id) as (tx, access, thread):
            changed = _changed(thread, wish)
            if changed == thread:
                return thread
            _check_change(access, thread, changed)
            parent = await channels_repository.find(tx.conn, thread.parent_id)
            if parent is None:
                raise UnknownChannel
            await _check_forum(tx.conn, access, parent, thread, changed)
            await repository.update(tx.conn, changed)
            was_archived = thread.thread_metadata.archived
            if was_archived and not changed.thread_metadata.archived:
                await refuse_more_active(tx.conn, thread.guild_id)
                await repository.reopen(tx.conn, thread_id, self._clock.now())
                told = await tell_reopened(tx, access, actor)
            else:
                if changed.thread_metadata.archived and not was_archived:
                    await repository.archive(tx.conn, thread_id, self._clock.now())
                told = await find_thread(tx.conn, thread_id, actor)
                tx.emit(ThreadUpdated(thread=as_told(told), to=access.audience()))
            await self._record(tx, actor, Action.THREAD_UPDATE, thread, told, reason=reason)
            return told

    async def delete(self, actor: Snowflake, thread_id: Snowflake, *, reason: str | None) -> Thread:
        async with self._membership.change(actor, thread_id) as (tx, access, thread):
            if not allows(access.permissions, _MANAGE):
                raise MissingPermissions
            await channels_repository.delete(tx.conn, thread_id)
            gone = GoneThread(
                id=thread_id,
                guild_id=thread.guild_id,
                parent_id=thread.parent_id,
                type=thread.type,
            )
            tx.emit(ThreadDeleted(gone=gone, to=access.audience()))
            parent = await self._channels.access(tx.conn, actor, thread.parent_id, _VIEW)
            await self._messages.mark_thread(tx, parent, thread_id, None)
            await self._record(tx, actor, Action.THREAD_DELETE, thread, None, reason=reason)
            return thread

    async def _taken(
        self, conn: Conn, channel_id: Snowflake, message_id: Snowflake
    ) -> ThreadExists | UnknownMessage:
        """What to say of an id that a channel has: it may be one of elsewhere."""
        found = await repository.with_members(conn, [message_id])
        is_here = any(thread.parent_id == channel_id for thread, _ in found)
        return ThreadExists() if is_here else UnknownMessage()

    async def _post(
        self,
        tx: Transaction,
        access: ChannelAccess,
        forum: GuildChannel,
        wish: StartThread,
        *,
        reason: str | None,
    ) -> Thread:
        if not allows(access.permissions, _SEND):
            raise MissingPermissions
        if wish.message is None:
            raise field_error("message", "This field is required", "BASE_TYPE_REQUIRED")
        self._messages.check_post(wish.message)
        thread = self._thread(self._new_id(), ChannelType.PUBLIC_THREAD, access, forum, wish)
        tagged = msgspec.structs.replace(thread, applied_tags=_unique(wish.applied_tags or []))
        _check_tags(access, forum, thread, tagged)
        if forum.flags & REQUIRE_TAG and not tagged.applied_tags:
            raise TagRequired
        thread = await self._insert(tx, access, tagged, reason=reason)
        inside = await self._channels.access(tx.conn, access.user.id, thread.id, _VIEW)
        first = await self._messages.open_post(tx, inside, wish.message)
        told = await find_thread(tx.conn, thread.id, access.user.id)
        return NewPost(**{**fields_of(told), "message": first})

    def _thread(
        self,
        thread_id: Snowflake,
        kind: int,
        access: ChannelAccess,
        parent: GuildChannel,
        wish: StartFromMessage,
        *,
        invitable: bool | None = None,
    ) -> Thread:
        """A new thread as wished; what is not wished for, its channel decides."""
        now = self._clock.now()
        if not access.is_verified(now):
            raise NotVerified
        minutes = wish.auto_archive_duration or _given(
            parent.default_auto_archive_duration, DEFAULT_ARCHIVE_MINUTES
        )
        pause = wish.rate_limit_per_user
        if pause is None:
            pause = _given(parent.default_thread_rate_limit_per_user, 0)
        is_private = kind == ChannelType.PRIVATE_THREAD
        return Thread(
            id=thread_id,
            type=int(kind),
            guild_id=parent.guild_id,
            parent_id=parent.id,
            owner_id=access.user.id,
            name=wish.name,
            rate_limit_per_user=pause,
            thread_metadata=ThreadMetadata(
                archived=False,
                auto_archive_duration=minutes,
                archive_timestamp=Timestamp.at(now),
                locked=False,
                invitable=invitable is not False if is_private else msgspec.UNSET,
                create_timestamp=Timestamp.at(now),
            ),
        )

    async def _insert(
        self, tx: Transaction, access: ChannelAccess, thread: Thread, *, reason: str | None
    ) -> Thread:
        """Make a thread, and its starter the first in it."""
        await refuse_more_active(tx.conn, thread.guild_id)
        now = self._clock.now()
        invitable = thread.thread_metadata.invitable is not False
        await repository.insert(tx.conn, thread, invitable=invitable, now=now)
        new = msgspec.structs.replace(
            await find_thread(tx.conn, thread.id, access.user.id), newly_created=True
        )
        members: tuple[Snowflake, ...] | None = None
        if thread.type == ChannelType.PRIVATE_THREAD:
            members = ()
        else:
            tx.emit(ThreadCreated(thread=new, to=audience_of(new, None)))
        await add_member(tx, new, as_member(access), members, now)
        await self._record(tx, access.user.id, Action.THREAD_CREATE, None, new, reason=reason)
        return await find_thread(tx.conn, thread.id, access.user.id)

    async def _record(
        self,
        tx: Transaction,
        actor: Snowflake,
        action: Action,
        old: Thread | None,
        new: Thread | None,
        *,
        reason: str | None,
    ) -> None:
        known = new or old
        if known is None:
            raise TypeError("an act needs a thread")
        await self._audit.record(
            tx,
            Act(
                guild_id=known.guild_id,
                actor=actor,
                action=action,
                target=known.id,
                changes=_changes(old, new),
                reason=reason,
            ),
        )


# Changes.


def _changed(thread: Thread, wish: UpdateThread) -> Thread:
    """The thread with the fields that are given."""
    given = {name: value for name, value in fields_of(wish).items() if value is not None}
    if "applied_tags" in given:
        given["applied_tags"] = _unique(wish.applied_tags or [])
    if wish.flags is not None:
        # Only this one can be changed.
        given["flags"] = thread.flags & ~PINNED | wish.flags & PINNED
    if thread.thread_metadata.invitable is msgspec.UNSET:
        given.pop("invitable", None)
    inner = {name: given.pop(name) for name in ThreadMetadata.__struct_fields__ if name in given}
    metadata = msgspec.structs.replace(thread.thread_metadata, **inner)
    return msgspec.structs.replace(thread, **given, thread_metadata=metadata)


def _check_change(access: ChannelAccess, old: Thread, new: Thread) -> None:
    """Who writes there may take a thread out of the archive, its starter also change most of it.

    What is locked, slowed down or pinned is the moderators' matter.
    """
    before, after = old.thread_metadata, new.thread_metadata
    if before.archived and after.archived:
        raise ThreadArchived
    if allows(access.permissions, _MANAGE):
        return
    if not allows(access.permissions, _SEND):
        raise MissingPermissions
    if before.locked:
        raise ThreadArchived if before.archived else MissingPermissions
    if old.owner_id == access.user.id:
        is_theirs = (old.rate_limit_per_user, old.flags, before.locked) == (
            new.rate_limit_per_user,
            new.flags,
            after.locked,
        )
    else:
        reopened = msgspec.structs.replace(before, archived=False)
        is_theirs = new == msgspec.structs.replace(old, thread_metadata=reopened)
    if not is_theirs:
        raise MissingPermissions


async def _check_forum(
    conn: Conn, access: ChannelAccess, parent: GuildChannel, old: Thread, new: Thread
) -> None:
    """Tags and pins are of forums."""
    is_forum = parent.type == ChannelType.FORUM
    if new.applied_tags != old.applied_tags:
        if not is_forum:
            raise field_error("applied_tags", "Only posts of forums have tags")
        _check_tags(access, parent, old, new)
        if parent.flags & REQUIRE_TAG and not new.applied_tags:
            raise TagRequired
    if new.flags & ~old.flags & PINNED:
        if not is_forum:
            raise field_error("flags", "Only posts of forums can be pinned")
        if await repository.has_pinned(conn, parent.id, PINNED):
            raise TooManyPinnedThreads


def _check_tags(access: ChannelAccess, forum: GuildChannel, old: Thread, new: Thread) -> None:
    """Only tags of the forum; moderated ones are put on and taken off by moderators."""
    known = forum.available_tags
    tags = {} if known is msgspec.UNSET else {tag.id: tag for tag in known}
    if not tags.keys() >= {*new.applied_tags} - {*old.applied_tags}:
        raise UnknownTag
    touched = {*old.applied_tags} ^ {*new.applied_tags}
    is_moderated = any(tags[one].moderated for one in touched if one in tags)
    if is_moderated and not allows(access.permissions, _MANAGE):
        raise MissingPermissions


def _kind(parent: GuildChannel, wish: StartThread) -> ChannelType:
    """The kind of a thread without a message; a private one, unless it can't be or is not meant."""
    if parent.type == ChannelType.ANNOUNCEMENT:
        allowed = {ChannelType.ANNOUNCEMENT_THREAD}
        kind = ChannelType(wish.type or ChannelType.ANNOUNCEMENT_THREAD)
    else:
        allowed = {ChannelType.PUBLIC_THREAD, ChannelType.PRIVATE_THREAD}
        kind = ChannelType(wish.type or ChannelType.PRIVATE_THREAD)
    if kind not in allowed:
        raise WrongChannelType
    return kind


def _given(number: int | msgspec.UnsetType, otherwise: int) -> int:
    return otherwise if number is msgspec.UNSET else number


def _changes(old: Thread | None, new: Thread | None) -> tuple[Change, ...]:
    return changes_between(
        old, new, "name", "type", "rate_limit_per_user", "flags", "applied_tags"
    ) + changes_between(
        None if old is None else old.thread_metadata,
        None if new is None else new.thread_metadata,
        "archived",
        "locked",
        "auto_archive_duration",
        "invitable",
    )


# Small things.


def _unique(tags: Sequence[Snowflake]) -> tuple[Snowflake, ...]:
    return tuple(dict.fromkeys(tags))
