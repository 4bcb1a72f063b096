"""The rules of the channels of a guild: making, changing, ordering and deleting them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from internal.channel import repository as channels_repository
from internal.channel.layout import repository
from internal.channel.layout.model import MoveChannel, PutOverwrite, reshapes
from internal.channel.model import (
    MAX_CHANNELS_OF_CATEGORY,
    MAX_CHANNELS_OF_GUILD,
    MAX_FORUM_TOPIC,
    MAX_OVERWRITES,
    MAX_TOPIC,
    OF_GUILD,
    Bits,
    ChannelCreated,
    ChannelDeleted,
    ChannelType,
    ChannelUpdated,
    CreateChannel,
    EmojiWish,
    OverwriteWish,
    TagWish,
    UpdateChannel,
)
from internal.channel.service import ChannelService
from internal.db.locks import lock
from internal.db.postgres import Conn, Transaction
from internal.errors import (
    MissingPermissions,
    TooManyChannels,
    TooManyOverwrites,
    UnknownChannel,
    UnknownOverwrite,
    UnknownRole,
)
from internal.guild.audit.model import Act, Action, Change
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.model import (
    ChannelOverwrite,
    Forum,
    ForumTag,
    GuildAccess,
    GuildChannel,
    ReactionEmoji,
)
from internal.guild.service import GuildService
from internal.permission.model import ALL, Permission, Standing, allows, in_channel, in_guild
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error

_VIEW: Final = int(Permission.VIEW_CHANNEL)
_MANAGE_CHANNELS: Final = int(Permission.MANAGE_CHANNELS)
_MANAGE_ROLES: Final = int(Permission.MANAGE_ROLES)
_ADMINISTRATOR: Final = int(Permission.ADMINISTRATOR)
# These are made of each other.
_TEXTS: Final = frozenset({ChannelType.TEXT, ChannelType.ANNOUNCEMENT})
_AUDITED: Final = (
    "name",
    "type",
    "topic",
    "nsfw",
    "position",
    "rate_limit_per_user",
    "parent_id",
    "permission_overwrites",
    "default_auto_archive_duration",
    "default_thread_rate_limit_per_user",
    "flags",
    *Forum.__struct_fields__,
)
# What is stored when null is said, where it means the same as nothing said.
_BLANK: Final[Mapping[str, Any]] = {
    "nsfw": False,
    "rate_limit_per_user": 0,
    "flags": 0,
    "default_forum_layout": 0,
    "default_auto_archive_duration": msgspec.UNSET,
    "default_thread_rate_limit_per_user": msgspec.UNSET,
}


class LayoutService:
    def __init__(
        self, guilds: GuildService, channels: ChannelService, audit: AuditTrail, new_id: NewId
    ) -> None:
        self._guilds = guilds
        self._channels = channels
        self._audit = audit
        self._new_id = new_id

    async def create(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        wish: CreateChannel,
        *,
        reason: str | None = None,
    ) -> GuildChannel:
        """Make a channel. In a category it is one with it, unless it is given overwrites."""

        async def attempt(
            conn: Conn, wait_for: int | None
        ) -> tuple[GuildAccess, GuildChannel | None]:
            await self._creator(conn, actor, guild_id, wish)
            await lock(conn, guild_id, wait_for=wait_for)
            return await self._creator(conn, actor, guild_id, wish)

        async with self._guilds.locks.transaction(attempt) as (tx, (access, category)):
            count, end = await channels_repository.count_and_end(tx.conn, guild_id)
            if count >= MAX_CHANNELS_OF_GUILD:
                raise TooManyChannels
            if category is not None:
                await _check_room(tx.conn, category.id)
            overwrites = await self._first_overwrites(tx.conn, access, category, wish)
            channel = self._made(guild_id, wish, end, overwrites)
            await channels_repository.insert(tx.conn, channel)
            tx.emit(ChannelCreated(channel=channel))
            made = changes_between(None, channel, *_AUDITED)
            await self._record(tx, actor, channel, Action.CHANNEL_CREATE, made, reason)
            return channel

    async def update(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        wish: UpdateChannel,
        *,
        reason: str | None = None,
    ) -> GuildChannel:
        needs = Permission.MANAGE_CHANNELS
        if wish.permission_overwrites is not msgspec.UNSET or wish.lock_permissions:
            needs |= Permission.MANAGE_ROLES
        async with self._channels.change(actor, channel_id, needs, OF_GUILD) as (tx, access):
            channel = await _found(tx.conn, channel_id)
            standing = _standing(access.standing)
            changed = self._changed(channel, wish)
            category = await _destination(tx.conn, standing, channel, changed)
            overwrites = channel.permission_overwrites
            if wish.permission_overwrites is not msgspec.UNSET:
                wishes = wish.permission_overwrites or ()
                overwrites = await _read(tx.conn, channel.guild_id, overwrites, wishes)
            elif wish.lock_permissions and category is not None:
                _refuse_hidden(standing, category)
                overwrites = category.permission_overwrites
            _check_grants(channel.permission_overwrites, overwrites, _may(standing, channel))
            changed = msgspec.structs.replace(changed, permission_overwrites=overwrites)
            if changed != channel:
                await self._store(tx, channel, changed)
                changes = changes_between(channel, changed, *_AUDITED)
                await self._record(tx, actor, changed, Action.CHANNEL_UPDATE, changes, reason)
            return changed

    async def delete(
        self, actor: Snowflake, channel_id: Snowflake, *, reason: str | None = None
    ) -> GuildChannel:
        """Delete a channel with its threads. What is in a category stays, as it is, without it."""
        needs = Permission.MANAGE_CHANNELS
        async with self._channels.change(actor, channel_id, needs, OF_GUILD) as (tx, _):
            channel = await _found(tx.conn, channel_id)
            threads: tuple[Snowflake, ...] = ()
            if channel.type == ChannelType.CATEGORY:
                await _empty(tx, channel)
            else:
                threads = await channels_repository.thread_ids_of(tx.conn, channel_id)
            await self._guilds.forget_channel(tx, channel.guild_id, channel_id)
            await channels_repository.delete(tx.conn, channel_id, threads)
            tx.emit(ChannelDeleted(channel=channel, threads=threads))
            gone = changes_between(channel, None, *_AUDITED)
            await self._record(tx, actor, channel, Action.CHANNEL_DELETE, gone, reason)
            return channel

    async def reorder(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        moves: Sequence[MoveChannel],
        *,
        reason: str | None = None,
    ) -> None:
        """Put channels into other places, all of them or none."""

        async def attempt(conn: Conn, wait_for: int | None) -> dict[Snowflake, _Move]:
            await self._plan(conn, actor, guild_id, moves)
            await lock(conn, guild_id, wait_for=wait_for)
            return await self._plan(conn, actor, guild_id, moves)

        async with self._guilds.locks.transaction(attempt) as (tx, plan):
            changed = [(old, new) for old, new in plan.values() if old != new]
            await repository.move(tx.conn, [new for _, new in changed])
            for old, new in changed:
                if old.permission_overwrites != new.permission_overwrites:
                    await _replace(tx.conn, [new.id], new.permission_overwrites)
                tx.emit(ChannelUpdated(channel=new, has_other_overwrites=reshapes(old, new)))
            for old, new in changed:
                changes = changes_between(old, new, *_AUDITED)
                await self._record(tx, actor, new, Action.CHANNEL_UPDATE, changes, reason)

    async def put_overwrite(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        target_id: Snowflake,
        wish: PutOverwrite,
        *,
        reason: str | None = None,
    ) -> None:
        """Set what a channel allows and denies to a role or a member."""
        one = OverwriteWish(id=target_id, type=wish.type, allow=wish.allow, deny=wish.deny)
        needs = Permission.MANAGE_ROLES
        async with self._channels.change(actor, channel_id, needs, OF_GUILD) as (tx, access):
            channel = await _found(tx.conn, channel_id)
            known = channel.permission_overwrites
            (new,) = await _read(tx.conn, channel.guild_id, known, [one])
            old = _of_target(channel, target_id)
            others = (o for o in channel.permission_overwrites if o.id != target_id)
            changed = _with_overwrites(channel, (*others, new))
            if changed == channel:
                return
            _check_grants(
                channel.permission_overwrites,
                changed.permission_overwrites,
                _may(_standing(access.standing), channel),
            )
            await self._store(tx, channel, changed)
            action = (
                Action.CHANNEL_OVERWRITE_CREATE if old is None else Action.CHANNEL_OVERWRITE_UPDATE
            )
            await self._record_overwrite(tx, actor, changed, action, (old, new), reason)

    async def delete_overwrite(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        target_id: Snowflake,
        *,
        reason: str | None = None,
    ) -> None:
        needs = Permission.MANAGE_ROLES
        async with self._channels.change(actor, channel_id, needs, OF_GUILD) as (tx, access):
            channel = await _found(tx.conn, channel_id)
            old = _of_target(channel, target_id)
            if old is None:
                raise UnknownOverwrite
            others = (o for o in channel.permission_overwrites if o.id != target_id)
            changed = _with_overwrites(channel, others)
            _check_grants(
                channel.permission_overwrites,
                changed.permission_overwrites,
                _may(_standing(access.standing), channel),
            )
            await self._store(tx, channel, changed)
            action = Action.CHANNEL_OVERWRITE_DELETE
            await self._record_overwrite(tx, actor, changed, action, (old, None), reason)

    # Making.

    async def _creator(
        self, conn: Conn, actor: Snowflake, guild_id: Snowflake, wish: CreateChannel
    ) -> tuple[GuildAccess, GuildChannel | None]:
        """Who may make the channel, and in which category: managing that one is enough there."""
        if wish.parent_id is None:
            access = await self._guilds.access(conn, actor, guild_id, Permission.MANAGE_CHANNELS)
            return access, None
        access = await self._guilds.access(conn, actor, guild_id)
        category = await channels_repository.find(conn, wish.parent_id)
        others = [] if category is None or category.guild_id != guild_id else [category]
        return access, _parent(others, access.standing, wish.parent_id, wish.type or 0)

    async def _first_overwrites(
        self, conn: Conn, access: GuildAccess, category: GuildChannel | None, wish: CreateChannel
    ) -> tuple[ChannelOverwrite, ...]:
        inherited = () if category is None else category.permission_overwrites
        # Some libraries send an empty list when they mean none: it must not open to everyone
        # what is in a closed category.
        if not wish.permission_overwrites:
            return inherited
        may = access.permissions if category is None else _may(access.standing, category)
        if not allows(may, _MANAGE_ROLES):
            raise MissingPermissions
        wishes = wish.permission_overwrites
        overwrites = await _read(conn, access.guild.id, inherited, wishes)
        _check_grants(inherited, overwrites, may)
        return overwrites

    def _made(
        self,
        guild_id: Snowflake,
        wish: CreateChannel,
        end: int,
        overwrites: tuple[ChannelOverwrite, ...],
    ) -> GuildChannel:
        channel = GuildChannel(
            id=self._new_id(),
            type=wish.type or ChannelType.TEXT,
            guild_id=guild_id,
            name=wish.name,
            position=end if wish.position is None else wish.position,
            permission_overwrites=overwrites,
            parent_id=wish.parent_id,
        )
        if channel.type == ChannelType.FORUM:
            channel = msgspec.structs.replace(channel, **msgspec.structs.asdict(Forum()))
        return self._with(channel, msgspec.structs.asdict(wish))

    # Changing.

    def _changed(self, channel: GuildChannel, wish: UpdateChannel) -> GuildChannel:
        """The channel with what stands in a body, but for its overwrites."""
        wishes = msgspec.structs.asdict(wish)
        if wish.name is None:
            raise field_error("name", "This field is required", "BASE_TYPE_REQUIRED")
        if wish.type is not msgspec.UNSET and wish.type != channel.type:
            if not {wish.type, channel.type} <= _TEXTS:
                raise field_error("type", "Only text and announcement channels can be converted")
            channel = msgspec.structs.replace(channel, type=wish.type)
        return self._with(channel, wishes)

    def _with(self, channel: GuildChannel, wishes: Mapping[str, Any]) -> GuildChannel:
        """Apply those of the wishes that the channel's type has."""
        fields = {
            name: _BLANK.get(name) if wishes.get(name) is None else wishes[name]
            for name in _fields_of(channel.type)
            if wishes.get(name, msgspec.UNSET) is not msgspec.UNSET
        }
        if fields.get("position", 0) is None:
            del fields["position"]
        if "available_tags" in fields:
            fields["available_tags"] = self._tags(channel, fields["available_tags"] or ())
        if isinstance(emoji := fields.get("default_reaction_emoji"), EmojiWish):
            fields["default_reaction_emoji"] = _emoji(emoji)
        longest = MAX_FORUM_TOPIC if channel.type == ChannelType.FORUM else MAX_TOPIC
        if len(fields.get("topic") or "") > longest:
            message = f"Must be {longest} or fewer in length"
            raise field_error("topic", message, "BASE_TYPE_BAD_LENGTH")
        return msgspec.structs.replace(channel, **fields)

    def _tags(self, channel: GuildChannel, wishes: Iterable[TagWish]) -> tuple[ForumTag, ...]:
        """Tags with ids of ours: those that the forum has keep theirs."""
        known = {tag.id for tag in channel.available_tags or ()}
        tags: list[ForumTag] = []
        for number, wish in enumerate(wishes):
            if wish.emoji_id is not None and wish.emoji_name is not None:
                raise field_error(f"available_tags.{number}", "Only one emoji may be given")
            keeps = wish.id is not None and wish.id in known
            tag = ForumTag(
                id=wish.id if keeps and wish.id is not None else self._new_id(),
                name=wish.name,
                moderated=bool(wish.moderated),
                emoji_id=wish.emoji_id,
                emoji_name=wish.emoji_name,
            )
            known.discard(tag.id)
            tags.append(tag)
        return tuple(tags)

    async def _store(self, tx: Transaction, old: GuildChannel, new: GuildChannel) -> None:
        """Store a changed channel and tell of it; what was one with a category stays so."""
        await channels_repository.update(tx.conn, new)
        followers: list[GuildChannel] = []
        if new.permission_overwrites != old.permission_overwrites:
            followers = [
                one
                for one in await channels_repository.in_category(tx.conn, new.id)
                if one.permission_overwrites == old.permission_overwrites
            ]
            ids = [new.id, *(one.id for one in followers)]
            await _replace(tx.conn, ids, new.permission_overwrites)
        has_other_overwrites = reshapes(old, new)
        tx.emit(ChannelUpdated(channel=new, has_other_overwrites=has_other_overwrites))
        for one in followers:
            follower = _with_overwrites(one, new.permission_overwrites)
            tx.emit(ChannelUpdated(channel=follower, has_other_overwrites=has_other_overwrites))

    # Ordering.

    async def _plan(
        self, conn: Conn, actor: Snowflake, guild_id: Snowflake, moves: Sequence[MoveChannel]
    ) -> "dict[Snowflake, _Move]":
        """What each channel that is named is and will be."""
        standing = (await self._guilds.access(conn, actor, guild_id)).standing
        before = await channels_repository.of_guild(conn, guild_id)
        known = {one.id: one for one in before}
        plan: dict[Snowflake, _Move] = {}
        for move in moves:
            old = known.get(move.id)
            if old is None or not in_channel(standing, old.rules()) & _VIEW:
                raise UnknownChannel
            start = plan[move.id][1] if move.id in plan else old
            new = _moved(before, standing, start, move)
            if new != old and not allows(_may_in(standing, old), _MANAGE_CHANNELS):
                raise MissingPermissions
            plan[move.id] = (old, new)
        for old, new in plan.values():
            if old.permission_overwrites != new.permission_overwrites:
                if not allows(_may_in(standing, old), _MANAGE_ROLES):
                    raise MissingPermissions
                _check_grants(
                    old.permission_overwrites, new.permission_overwrites, _may(standing, old)
                )
        _check_rooms(known, plan)
        return plan

    # Writing down.

    async def _record(
        self,
        tx: Transaction,
        actor: Snowflake,
        channel: GuildChannel,
        action: Action,
        changes: tuple[Change, ...],
        reason: str | None,
    ) -> None:
        act = Act(
            guild_id=channel.guild_id,
            actor=actor,
            action=action,
            target=channel.id,
            changes=changes,
            reason=reason,
        )
        await self._audit.record(tx, act)

    async def _record_overwrite(
        self,
        tx: Transaction,
        actor: Snowflake,
        channel: GuildChannel,
        action: Action,
        overwrites: tuple[ChannelOverwrite | None, ChannelOverwrite | None],
        reason: str | None,
    ) -> None:
        old, new = overwrites
        target = old or new
        act = Act(
            guild_id=channel.guild_id,
            actor=actor,
            action=action,
            target=channel.id,
            changes=changes_between(old, new, "id", "type", "allow", "deny"),
            options={} if target is None else {"id": target.id, "type": target.type},
            reason=reason,
        )
        await self._audit.record(tx, act)


# A channel as it is and as it will be.
_Move = tuple[GuildChannel, GuildChannel]


async def _found(conn: Conn, channel_id: Snowflake) -> GuildChannel:
    """The channel that there is access to; its guild is locked."""
    channel = await channels_repository.find(conn, channel_id)
    if channel is None:
        raise UnknownChannel
    return channel


def _standing(standing: Standing | None) -> Standing:
    if standing is None:
        raise UnknownChannel
    return standing


def _fields_of(kind: int) -> tuple[str, ...]:
    """What may be said of a channel of this type, beside its type and overwrites."""
    if kind == ChannelType.CATEGORY:
        return ("name", "position")
    common = (
        "name",
        "position",
        "topic",
        "nsfw",
        "rate_limit_per_user",
        "parent_id",
        "default_auto_archive_duration",
        "default_thread_rate_limit_per_user",
    )
    return (*common, "flags", *Forum.__struct_fields__) if kind == ChannelType.FORUM else common


def _emoji(wish: EmojiWish) -> ReactionEmoji | None:
    if wish.emoji_id is not None and wish.emoji_name is not None:
        raise field_error("default_reaction_emoji", "Only one emoji may be given")
    if wish.emoji_id is None and wish.emoji_name is None:
        return None
    return ReactionEmoji(emoji_id=wish.emoji_id, emoji_name=wish.emoji_name)


# Categories.


def _parent(
    channels: Sequence[GuildChannel], standing: Standing, parent_id: Snowflake, kind: int
) -> GuildChannel:
    """The category of this id, which the one may put a channel of this type into."""
    found = next((one for one in channels if one.id == parent_id), None)
    if found is None:
        raise field_error("parent_id", "Category does not exist", "CHANNEL_PARENT_INVALID")
    _refuse_hidden(standing, found)
    if found.type != ChannelType.CATEGORY or kind == ChannelType.CATEGORY:
        raise field_error("parent_id", "Not a category", "CHANNEL_PARENT_INVALID_TYPE")
    if not allows(_may_in(standing, found), _MANAGE_CHANNELS):
        raise MissingPermissions
    return found


def _refuse_hidden(standing: Standing, category: GuildChannel) -> None:
    """What one can't see is not there: what it allows is not to be read off by copying it."""
    if not in_channel(standing, category.rules()) & _VIEW:
        raise field_error("parent_id", "Category does not exist", "CHANNEL_PARENT_INVALID")


def _full() -> Exception:
    message = f"Maximum number of channels in category reached ({MAX_CHANNELS_OF_CATEGORY})"
    return field_error("parent_id", message, "CHANNEL_PARENT_MAX_CHANNELS")


async def _destination(
    conn: Conn, standing: Standing, old: GuildChannel, new: GuildChannel
) -> GuildChannel | None:
    """The category that a channel will be in. Only moving into one needs room and permissions."""
    if new.parent_id is None:
        return None
    found = await channels_repository.find(conn, new.parent_id)
    if new.parent_id == old.parent_id:
        return found
    others = [] if found is None or found.guild_id != new.guild_id else [found]
    category = _parent(others, standing, new.parent_id, new.type)
    await _check_room(conn, category.id)
    return category


async def _empty(tx: Transaction, category: GuildChannel) -> None:
    """Move all out of a category. They keep the overwrites that they have."""
    inside = await channels_repository.in_category(tx.conn, category.id)
    outside = [msgspec.structs.replace(one, parent_id=None) for one in inside]
    await repository.move(tx.conn, outside)
    for one in outside:
        tx.emit(ChannelUpdated(channel=one))


async def _check_room(conn: Conn, category_id: Snowflake) -> None:
    if await repository.count_in_category(conn, category_id) >= MAX_CHANNELS_OF_CATEGORY:
        raise _full()


def _moved(
    channels: Sequence[GuildChannel], standing: Standing, channel: GuildChannel, move: MoveChannel
) -> GuildChannel:
    position = channel.position if move.position is None else move.position
    new = msgspec.structs.replace(channel, position=position)
    if move.parent_id is not msgspec.UNSET and move.parent_id != channel.parent_id:
        if move.parent_id is not None:
            _parent(channels, standing, move.parent_id, channel.type)
        new = msgspec.structs.replace(new, parent_id=move.parent_id)
    if move.lock_permissions and new.parent_id is not None:
        category = next(one for one in channels if one.id == new.parent_id)
        _refuse_hidden(standing, category)
        new = _with_overwrites(new, category.permission_overwrites)
    return new


def _check_rooms(known: Mapping[Snowflake, GuildChannel], plan: Mapping[Snowflake, _Move]) -> None:
    """Refuse a plan after which a category would hold too many that it did not hold before."""
    after = {**known, **{channel_id: new for channel_id, (_, new) in plan.items()}}
    counts = Counter(one.parent_id for one in after.values())
    for old, new in plan.values():
        has_come = new.parent_id is not None and new.parent_id != old.parent_id
        if has_come and counts[new.parent_id] > MAX_CHANNELS_OF_CATEGORY:
            raise _full()


# Overwrites.


def _may_in(standing: Standing, channel: GuildChannel) -> int:
    return in_channel(standing, channel.rules())


def _may(standing: Standing, channel: GuildChannel) -> int:
    """What one may hand on in a channel: what one may do in it or in its guild.

    Nobody is an administrator by an overwrite.
    """
    return in_guild(standing) | _may_in(standing, channel) & ~_ADMINISTRATOR


def _of_target(channel: GuildChannel, target_id: Snowflake) -> ChannelOverwrite | None:
    return next((one for one in channel.permission_overwrites if one.id == target_id), None)


def _with_overwrites(channel: GuildChannel, overwrites: Iterable[ChannelOverwrite]) -> GuildChannel:
    ordered = tuple(sorted(overwrites, key=lambda one: one.id))
    if len(ordered) > MAX_OVERWRITES:
        raise TooManyOverwrites
    return msgspec.structs.replace(channel, permission_overwrites=ordered)


async def _read(
    conn: Conn,
    guild_id: Snowflake,
    old: Iterable[ChannelOverwrite],
    wishes: Sequence[OverwriteWish],
) -> tuple[ChannelOverwrite, ...]:
    """Overwrites out of a body, by target; of two for the same the last one counts.

    A role must be one of the guild, unless there is an overwrite for it already: it may have been
    deleted since.
    """
    named = {wish.id: wish for wish in wishes}
    if len(named) > MAX_OVERWRITES:
        raise TooManyOverwrites
    roles = await repository.roles_among(conn, guild_id, list(named))
    known = {one.id: one.type for one in old}
    overwrites: list[ChannelOverwrite] = []
    for target_id, wish in sorted(named.items()):
        kind = wish.type
        if kind is None:
            kind = 0 if target_id in roles else 1
        if kind == 0 and target_id not in roles and known.get(target_id) != 0:
            raise UnknownRole
        if kind == 1 and target_id in roles:
            # It would take the place of the role's own, and mean nothing.
            raise field_error("type", "This is a role, not a member")
        allow, deny = str(_bits(wish.allow)), str(_bits(wish.deny))
        overwrites.append(ChannelOverwrite(id=target_id, type=kind, allow=allow, deny=deny))
    return tuple(overwrites)


def _bits(wish: Bits | None) -> int:
    """A set of permissions; bits that mean nothing are left out."""
    return int(wish or 0) & ALL


def _check_grants(
    old: Iterable[ChannelOverwrite], new: Iterable[ChannelOverwrite], may: int
) -> None:
    """Nobody allows or denies others what they may not do themselves.

    Who may manage permissions in a channel, only administrators decide.
    """
    before = {(one.id, one.type): one.rule() for one in old}
    after = {(one.id, one.type): one.rule() for one in new}
    touched = 0
    for key in before.keys() | after.keys():
        was, will_be = before.get(key), after.get(key)
        touched |= (was.allow if was else 0) ^ (will_be.allow if will_be else 0)
        touched |= (was.deny if was else 0) ^ (will_be.deny if will_be else 0)
    if touched & ~may or (touched & _MANAGE_ROLES and not may & _ADMINISTRATOR):
        raise MissingPermissions


async def _replace(
    conn: Conn, channel_ids: Sequence[Snowflake], overwrites: Sequence[ChannelOverwrite]
) -> None:
    await channels_repository.delete_overwrites(conn, channel_ids)
    await channels_repository.insert_overwrites(conn, channel_ids, overwrites)
