"""The rules of guilds: who makes, sees, changes, joins and leaves them."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from typing import Final, TypedDict

import msgspec

from internal.db.locks import LockBusy, Locks, lock
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    Banned,
    MissingPermissions,
    NotFound,
    OwnerCannotLeave,
    TooManyGuilds,
    TooManyMembers,
    Unavailable,
    UnknownChannel,
    UnknownGuild,
    UnknownMember,
    WrongChannelType,
)
from internal.events import Audience
from internal.guild import repository
from internal.guild.audit.model import Act, Action, AuditLog, AuditPage, Change
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.model import (
    LARGE,
    MAX_GUILDS_OF_USER,
    MAX_ICON,
    MAX_MEMBERS,
    CreateGuild,
    Guild,
    GuildAccess,
    GuildChannel,
    GuildCreated,
    GuildDeleted,
    GuildDetails,
    GuildPage,
    GuildPreview,
    GuildRow,
    GuildSources,
    GuildState,
    GuildUpdated,
    Icon,
    LeftThread,
    Member,
    MemberJoined,
    MemberLeft,
    MemberOfGuild,
    MemberPage,
    MemberUpdated,
    OwnGuild,
    OwnMembership,
    PublicGuild,
    Role,
    Thread,
    ThreadMembers,
    ThreadMembersUpdated,
    UpdateGuild,
)
from internal.permission.model import EVERYONE_DEFAULT, NOTHING, Permission, Standing, in_channel
from internal.user.model import User
from internal.utils.image import is_animated, media_type_of, read_data_uri
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error

# So many connections, at most, wait for guilds that are being changed.
_WAITING_CONNECTIONS: Final = 3


# So many are told of what only those hear who keep order.
_MOST_HOLDERS: Final = 1000
_PRIVATE_THREAD: Final = 12
_VIEW_CHANNEL: Final = int(Permission.VIEW_CHANNEL)
_TEXT: Final = 0
# Of a SHA-256, in hexadecimal: who does not know it can't guess it.
_HASH_LENGTH: Final = 32
# What null brings back.
_DEFAULTS: Final = {
    "verification_level": 0,
    "default_message_notifications": 0,
    "explicit_content_filter": 0,
    "system_channel_flags": 0,
    "preferred_locale": "en-US",
}
_AUDITED: Final = (
    "name",
    "description",
    "owner_id",
    "verification_level",
    "default_message_notifications",
    "explicit_content_filter",
    "system_channel_id",
    "system_channel_flags",
    "rules_channel_id",
    "preferred_locale",
)


class _Common(TypedDict):
    """What all views of a guild are made from."""

    id: Snowflake
    name: str
    description: str | None
    owner_id: Snowflake
    discoverable: bool
    features: tuple[str, ...]
    roles: tuple[Role, ...]
    icon: str | None
    verification_level: int
    default_message_notifications: int
    explicit_content_filter: int
    system_channel_id: Snowflake | None
    system_channel_flags: int
    rules_channel_id: Snowflake | None
    preferred_locale: str


class GuildService:
    def __init__(self, db: Database, new_id: NewId, audit: AuditTrail) -> None:
        self._db = db
        self._audit = audit
        self._new_id = new_id
        # How many of a guild's members are there; who knows is opened later.
        self.count_online: Callable[[Snowflake], int] = _nobody
        # The lock of a guild is the advisory one that has its id.
        self.locks = Locks(db, connections=_WAITING_CONNECTIONS)

    async def access(
        self,
        conn: Conn,
        actor: Snowflake,
        guild_id: Snowflake,
        needs: Permission = NOTHING,
    ) -> GuildAccess:
        """The only door to a guild. Strangers are told that there is none."""
        found = await repository.find_access(conn, guild_id, actor)
        if found is None:
            raise UnknownGuild
        if not found.may(needs):
            raise MissingPermissions
        return found

    def change(
        self, actor: Snowflake, guild_id: Snowflake, needs: Permission = NOTHING
    ) -> AbstractAsyncContextManager[tuple[Transaction, GuildAccess]]:
        """A transaction that may change the structure of a guild, and the access to it.

        Nobody else changes the structure (the guild itself, its members, roles and channels) or
        sends to the guild until it ends.
        """

        async def attempt(conn: Conn, wait_for: int | None) -> GuildAccess:
            # Only who has access gets to wait for the lock, and it is read again under it.
            await self.access(conn, actor, guild_id, needs)
            await lock(conn, guild_id, wait_for=wait_for)
            return await self.access(conn, actor, guild_id, needs)

        return self.locks.transaction(attempt)

    async def create(self, actor: Snowflake, wish: CreateGuild) -> GuildDetails:
        icon = None if wish.icon is None else _icon(wish.icon)
        async with self._db.transaction() as tx:
            await self._refuse_more_guilds(tx.conn, actor)
            guild_id, channel_id = self._new_id(), self._new_id()
            guild = GuildRow(
                id=guild_id,
                name=wish.name,
                description=wish.description,
                owner_id=actor,
                discoverable=wish.discoverable,
                member_count=1,
                icon=None if icon is None else icon.hash,
                verification_level=wish.verification_level or 0,
                default_message_notifications=wish.default_message_notifications or 0,
                explicit_content_filter=wish.explicit_content_filter or 0,
                system_channel_id=channel_id,
                system_channel_flags=wish.system_channel_flags or 0,
            )
            await repository.insert(tx.conn, guild)
            if icon is not None:
                await repository.replace_icon(tx.conn, guild_id, icon)
            await repository.insert_everyone_role(tx.conn, guild_id, EVERYONE_DEFAULT)
            await repository.insert_first_channel(tx.conn, guild_id, channel_id, "general")
            await repository.insert_member(tx.conn, guild_id, actor)
            state, _ = (await self._states(tx.conn, actor, [guild_id]))[0]
            tx.emit(GuildCreated(user_id=actor, state=state))
            return _details(state)

    async def public(self, page: GuildPage) -> list[PublicGuild]:
        """Guilds that anyone may join, newest first."""
        async with self._db.read() as conn:
            if page.after is not None:
                return await repository.public_after(conn, page.after, page.before, page.limit)
            return await repository.public_before(conn, page.before, page.limit)

    async def mine(self, actor: Snowflake, page: GuildPage) -> list[OwnGuild]:
        """The actor's guilds, in the order of their ids."""
        async with self._db.read() as conn:
            if page.after is None and page.before is not None:
                return await repository.of_user_before(conn, actor, page.before, page.limit)
            return await repository.of_user_after(
                conn, actor, page.after or Snowflake(0), page.before, page.limit
            )

    async def details(
        self, actor: Snowflake, guild_id: Snowflake, *, with_counts: bool = False
    ) -> GuildDetails:
        async with self._db.read() as conn:
            guild = (await self.access(conn, actor, guild_id)).guild
            roles = await repository.roles_of(conn, [guild_id])
        return GuildDetails(
            **_common(guild, roles[guild_id]),
            approximate_member_count=guild.member_count,
            approximate_presence_count=(
                self.count_online(guild_id) if with_counts else msgspec.UNSET
            ),
        )

    async def preview(self, actor: Snowflake, guild_id: Snowflake) -> GuildPreview:
        """A guild as those see it who may join it; a private one, only its members."""
        async with self._db.read() as conn:
            guild = await repository.find(conn, guild_id)
            if guild is None or not guild.discoverable:
                guild = (await self.access(conn, actor, guild_id)).guild
        return GuildPreview(
            id=guild_id,
            name=guild.name,
            icon=guild.icon,
            description=guild.description,
            features=_features(guild),
            approximate_member_count=guild.member_count,
            approximate_presence_count=self.count_online(guild_id),
        )

    async def icon(self, guild_id: Snowflake, icon_hash: str) -> Icon:
        """The picture of a guild, for whoever knows its address."""
        async with self._db.read() as conn:
            icon = await repository.find_icon(conn, guild_id, icon_hash)
        if icon is None:
            raise NotFound
        return icon

    async def audit_log(self, actor: Snowflake, guild_id: Snowflake, page: AuditPage) -> AuditLog:
        async with self._db.read() as conn:
            await self.access(conn, actor, guild_id, Permission.VIEW_AUDIT_LOG)
            return await self._audit.page(conn, guild_id, page)

    async def members(
        self, actor: Snowflake, guild_id: Snowflake, page: MemberPage
    ) -> list[Member]:
        async with self._db.read() as conn:
            await self.access(conn, actor, guild_id)
            return await repository.members_after(
                conn, guild_id, page.after or Snowflake(0), page.limit
            )

    async def member(self, actor: Snowflake, guild_id: Snowflake, user_id: Snowflake) -> Member:
        async with self._db.read() as conn:
            await self.access(conn, actor, guild_id)
            member = await repository.find_member(conn, guild_id, user_id)
        if member is None:
            raise UnknownMember
        return member

    async def channels_of(
        self, conn: Conn, actor: Snowflake, guild_id: Snowflake
    ) -> list[GuildChannel]:
        """The channels of a guild that the actor may see."""
        access = await self.access(conn, actor, guild_id)
        channels = (await repository.channels_of(conn, [guild_id]))[guild_id]
        return [one for one in channels if _sees(access.standing, one)]

    async def standing(
        self, conn: Conn, guild_id: Snowflake, user_id: Snowflake
    ) -> GuildAccess | None:
        """What somebody else may do in a guild; None unless it is a member."""
        return await repository.find_access(conn, guild_id, user_id)

    async def holders_of(
        self, conn: Conn, guild_id: Snowflake, any_of: Permission
    ) -> tuple[Snowflake, ...]:
        """Whom an event is for that is told to those with any of these permissions in a guild."""
        return tuple(await repository.holders_of(conn, guild_id, int(any_of), _MOST_HOLDERS))

    async def memberships(self, conn: Conn, user_id: Snowflake) -> dict[int, tuple[int, ...]]:
        """The guilds that an account is in, with its roles there; some may be no more."""
        return await repository.roles_in_guilds(conn, user_id)

    async def states_of(
        self,
        conn: Conn,
        user_id: Snowflake,
        guild_ids: Sequence[Snowflake] | None = None,
        *,
        large: int = LARGE,
        is_followed: Callable[[Snowflake], bool],
    ) -> list[tuple[GuildState, GuildSources]]:
        """Guilds of an account, by id, as GUILD_CREATE tells them, with what that was made of.

        Of those with more members than `large`, no member is told but the account itself.
        All of them, unless some are named. Of guilds that the node follows already, what it was
        made of lacks members of public threads. A fixed number of statements, however many guilds
        there are. Run it in a snapshot.
        """
        return await self._states(conn, user_id, guild_ids, large=large, is_followed=is_followed)

    async def members_among(
        self, conn: Conn, guild_id: Snowflake, user_ids: Sequence[Snowflake]
    ) -> list[Member]:
        """Those of some accounts that are members. Whoever calls has asked who may know."""
        return await repository.members_among(conn, guild_id, user_ids)

    async def members_between(
        self, conn: Conn, guild_id: Snowflake, after: Snowflake, upto: Snowflake, limit: int
    ) -> list[Member]:
        """Members of a span of ids. Whoever calls has asked who may know."""
        return await repository.members_between(conn, guild_id, after, upto, limit)

    async def member_bounds(self, conn: Conn, guild_id: Snowflake, size: int) -> list[Snowflake]:
        """Where pieces of so many members end, by id, but for the last piece."""
        return await repository.member_bounds(conn, guild_id, size)

    async def rolls(self, conn: Conn, guild_id: Snowflake) -> tuple[int, list[Role]]:
        """How many members a guild has, and its roles. One that is gone has none."""
        guild = await repository.find(conn, guild_id)
        roles = await repository.roles_of(conn, [guild_id])
        return (0 if guild is None else guild.member_count), roles[guild_id]

    async def sources_of(
        self, conn: Conn, guild_ids: Sequence[Snowflake]
    ) -> dict[Snowflake, GuildSources]:
        """What decides who sees what in guilds. Run it in a snapshot."""
        owners = await repository.owners_of(conn, guild_ids)
        roles = await repository.roles_of(conn, guild_ids)
        channels = await repository.channels_of(conn, guild_ids)
        threads = await repository.active_threads(conn, guild_ids, guild_ids, None)
        return {
            guild_id: GuildSources(
                guild_id=guild_id,
                owner_id=owner_id,
                roles=tuple(roles[guild_id]),
                channels=tuple(channels[guild_id]),
                threads=tuple(threads[guild_id]),
            )
            for guild_id, owner_id in owners.items()
        }

    async def update(
        self, actor: Snowflake, guild_id: Snowflake, wish: UpdateGuild, *, reason: str | None = None
    ) -> GuildDetails:
        icon = _icon(wish.icon) if isinstance(wish.icon, str) else None
        async with self.change(actor, guild_id, Permission.MANAGE_GUILD) as (tx, access):
            await self._check_new_owner(tx.conn, access, wish)
            await self._check_channels(tx.conn, access, wish)
            changed = _changed(access.guild, wish, icon)
            roles = (await repository.roles_of(tx.conn, [guild_id]))[guild_id]
            if changed != access.guild:
                await repository.update(tx.conn, changed)
                if changed.icon != access.guild.icon:
                    await repository.replace_icon(tx.conn, guild_id, icon)
                tx.emit(
                    GuildUpdated(
                        guild=Guild(**_common(changed, roles)),
                        is_handed_over=changed.owner_id != access.guild.owner_id,
                    )
                )
                await self._audit.record(
                    tx,
                    Act(
                        guild_id=guild_id,
                        actor=actor,
                        action=Action.GUILD_UPDATE,
                        target=guild_id,
                        changes=_changes(access.guild, changed),
                        reason=reason,
                    ),
                )
        return GuildDetails(
            **_common(changed, roles), approximate_member_count=changed.member_count
        )

    async def forget_channel(
        self, tx: Transaction, guild_id: Snowflake, channel_id: Snowflake
    ) -> None:
        """Let the guild point at a channel no more that is being deleted. Needs its lock."""
        changed = await repository.forget_channel(tx.conn, guild_id, channel_id)
        if changed is not None:
            roles = (await repository.roles_of(tx.conn, [guild_id]))[guild_id]
            tx.emit(GuildUpdated(guild=Guild(**_common(changed, roles))))

    async def delete(self, actor: Snowflake, guild_id: Snowflake) -> None:
        async with self.change(actor, guild_id) as (tx, access):
            if not access.is_owner:
                raise MissingPermissions
            users = await repository.member_ids_of(tx.conn, guild_id)
            channels = await repository.channel_ids_of(tx.conn, guild_id)
            await repository.delete(tx.conn, guild_id)
            tx.emit(GuildDeleted(guild_id=guild_id, users=users, channels=channels))

    async def join(self, actor: Snowflake, guild_id: Snowflake) -> GuildDetails:
        """Join a discoverable guild. Joining twice changes nothing and tells nobody."""

        async def attempt(conn: Conn, wait_for: int | None) -> GuildRow | None:
            guild = await repository.find(conn, guild_id)
            if guild is None or not guild.discoverable:
                # Others can't make the members of a private guild wait.
                return guild
            await lock(conn, guild_id, wait_for=wait_for)
            return await repository.find(conn, guild_id)

        async with self.locks.transaction(attempt) as (tx, guild):
            # Of a private guild one may have left between two of these statements.
            if states := await self._states(tx.conn, actor, [guild_id]):
                return _details(states[0][0])
            if guild is None or not guild.discoverable:
                raise UnknownGuild
            return await self.admit(tx, guild, actor)

    async def admit(
        self, tx: Transaction, guild: GuildRow, user_id: Snowflake, *, is_temporary: bool = False
    ) -> GuildDetails:
        """Make an account a member. Needs the guild's lock; it must not be a member yet."""
        if await repository.is_banned(tx.conn, guild.id, user_id):
            raise Banned
        if guild.member_count >= MAX_MEMBERS:
            raise TooManyMembers
        await self._refuse_more_guilds(tx.conn, user_id)
        await repository.insert_member(tx.conn, guild.id, user_id, is_temporary=is_temporary)
        state, _ = (await self._states(tx.conn, user_id, [guild.id]))[0]
        member = next(one for one in state.members if one.user.id == user_id)
        # In this order: the joiner hears of the guild first, and of nothing before.
        tx.emit(MemberJoined(member=in_guild(guild.id, member)))
        tx.emit(GuildCreated(user_id=user_id, state=state))
        return _details(state)

    async def expel(self, tx: Transaction, guild_id: Snowflake, user: User) -> None:
        """End a membership, whoever wants it. Needs the guild's lock."""
        threads = await repository.delete_member(tx.conn, guild_id, user.id)
        tx.emit(GuildDeleted(guild_id=guild_id, users=(user.id,)))
        tx.emit(MemberLeft(guild_id=guild_id, user=user))
        for thread in threads:
            tx.emit(_left_thread(guild_id, thread, user.id))

    async def leave(self, actor: Snowflake, guild_id: Snowflake) -> None:
        async with self.change(actor, guild_id) as (tx, access):
            if access.is_owner:
                raise OwnerCannotLeave
            await self.expel(tx, guild_id, access.member.user)

    @asynccontextmanager
    async def hold_guilds_of(self, user_id: Snowflake) -> AsyncIterator[Transaction]:
        """A transaction in which the structure of an account's guilds stays as it is.

        Guilds come before users in the lock order: lock the account after it.
        """

        async def attempt(conn: Conn, wait_for: int | None) -> None:
            if wait_for is not None:
                await lock(conn, wait_for, shared=True, wait_for=wait_for)
            await _hold(conn, user_id)

        async with self.locks.transaction(attempt) as (tx, _):
            yield tx

    async def announce_member(self, tx: Transaction, user_id: Snowflake) -> None:
        """Tell the guilds of an account that it looks different. Call it after the change.

        The guilds are held, so that nobody who joins meanwhile is told the old looks last. Those
        of before are held already (`hold_guilds_of`); this adds what was joined since.
        """
        try:
            await _hold(tx.conn, user_id)
        except LockBusy:
            # Waiting here, with the account locked, could hold up all who write to it.
            raise Unavailable(retry_after=1) from None
        for guild_id, member in await repository.memberships_of(tx.conn, user_id):
            tx.emit(MemberUpdated(member=in_guild(guild_id, member)))

    async def _refuse_more_guilds(self, conn: Conn, user_id: Snowflake) -> None:
        # Locked, so that of two joins at once the second counts the first.
        await repository.lock_user(conn, user_id)
        if await repository.count_of_user(conn, user_id) >= MAX_GUILDS_OF_USER:
            raise TooManyGuilds

    async def _check_new_owner(self, conn: Conn, access: GuildAccess, wish: UpdateGuild) -> None:
        """Only the owner hands a guild over, and only to a member."""
        if wish.owner_id is msgspec.UNSET or wish.owner_id == access.guild.owner_id:
            return
        if not access.is_owner:
            raise MissingPermissions
        if await repository.find_member(conn, access.guild.id, wish.owner_id) is None:
            raise UnknownMember

    async def _check_channels(self, conn: Conn, access: GuildAccess, wish: UpdateGuild) -> None:
        """The channels that a guild points at are its own text channels, which the actor sees."""
        given = {
            channel_id
            for channel_id in (wish.system_channel_id, wish.rules_channel_id)
            if isinstance(channel_id, Snowflake)
        }
        if not given:
            return
        channels = (await repository.channels_of(conn, [access.guild.id]))[access.guild.id]
        types = {one.id: one.type for one in channels if _sees(access.standing, one)}
        if not given <= types.keys():
            raise UnknownChannel
        if any(types[channel_id] != _TEXT for channel_id in given):
            raise WrongChannelType

    async def _states(
        self,
        conn: Conn,
        user_id: Snowflake,
        guild_ids: Sequence[Snowflake] | None,
        *,
        large: int = LARGE,
        is_followed: Callable[[Snowflake], bool] = lambda _guild_id: True,
    ) -> list[tuple[GuildState, GuildSources]]:
        guilds = await repository.joined(conn, user_id, guild_ids)
        ids = [guild.id for guild, _ in guilds]
        roles = await repository.roles_of(conn, ids)
        channels = await repository.channels_of(conn, ids)
        threads = await repository.active_threads(
            conn, ids, [guild_id for guild_id in ids if not is_followed(guild_id)], user_id
        )
        large_ids = [guild.id for guild, _ in guilds if guild.member_count > large]
        members = await repository.told_members_of(conn, ids, user_id, large=large_ids)
        states = []
        for guild, own in guilds:
            sources = GuildSources(
                guild_id=guild.id,
                owner_id=guild.owner_id,
                roles=tuple(roles[guild.id]),
                channels=tuple(channels[guild.id]),
                threads=tuple(threads[guild.id]),
            )
            seen = _seen(sources, own)
            state = GuildState(
                **_common(guild, roles[guild.id]),
                joined_at=own.joined_at,
                large=guild.member_count > large,
                member_count=guild.member_count,
                members=tuple(members[guild.id]),
                channels=tuple(seen.values()),
                threads=tuple(_seen_threads(sources, seen, user_id)),
            )
            states.append((state, sources))
        return states


def _seen(sources: GuildSources, own: OwnMembership) -> dict[Snowflake, GuildChannel]:
    """The channels of a guild that a member may see."""
    bits = {role.id: int(role.permissions) for role in sources.roles}
    standing = Standing(
        user_id=own.user_id,
        guild_id=sources.guild_id,
        everyone=bits[sources.guild_id],
        roles=tuple((role_id, bits[role_id]) for role_id in own.roles if role_id in bits),
        is_owner=sources.owner_id == own.user_id,
    )
    return {channel.id: channel for channel in sources.channels if _sees(standing, channel)}


def _seen_threads(
    sources: GuildSources, seen: Collection[Snowflake], user_id: Snowflake
) -> Iterator[Thread]:
    """The active threads that a member hears of; those of its own with the membership."""
    for thread, members in sources.threads:
        own = next((one for one in members if one.user_id == user_id), None)
        if thread.parent_id in seen and (own is not None or thread.type != _PRIVATE_THREAD):
            member = msgspec.UNSET if own is None else own
            yield msgspec.structs.replace(thread, member=member)


def _sees(standing: Standing, channel: GuildChannel) -> bool:
    return bool(in_channel(standing, channel.rules()) & _VIEW_CHANNEL)


async def _hold(conn: Conn, user_id: Snowflake) -> None:
    """Hold the guilds of an account, without waiting; LockBusy if one of them is not free."""
    busy = await repository.try_hold(conn, await repository.guild_ids_of(conn, user_id))
    if busy:
        raise LockBusy(busy[0])


def _changed(guild: GuildRow, wish: UpdateGuild, icon: Icon | None) -> GuildRow:
    """The guild with the fields that stand in a body; null is a value, absent is not."""
    wishes = msgspec.structs.asdict(wish)
    features = wishes.pop("features")
    if wish.discoverable is msgspec.UNSET and features is not msgspec.UNSET:
        wishes["discoverable"] = "DISCOVERABLE" in (features or ())
    if wish.icon is not msgspec.UNSET:
        wishes["icon"] = None if icon is None else icon.hash
    return msgspec.structs.replace(
        guild,
        **{
            name: _DEFAULTS.get(name) if value is None else value
            for name, value in wishes.items()
            if value is not msgspec.UNSET
        },
    )


def _changes(old: GuildRow, new: GuildRow) -> tuple[Change, ...]:
    """What the audit log says of a change, under the documented keys."""
    found = changes_between(old, new, *_AUDITED)
    for key, before, after in (
        ("icon_hash", old.icon, new.icon),
        ("features", _features(old), _features(new)),
    ):
        if before != after:
            found += (Change(key=key, old_value=before, new_value=after),)
    return found


def _icon(uri: str) -> Icon:
    """The picture of a `data:` address. What kind it is, its bytes say, and not the address."""
    picture = read_data_uri(uri)
    media_type = None if picture is None else media_type_of(picture)
    if picture is None or media_type is None:
        raise field_error("icon", "Must be a data: address of a PNG, JPEG, GIF or WebP in base64")
    if len(picture) > MAX_ICON:
        raise field_error("icon", f"A picture has at most {MAX_ICON >> 10} KiB")
    # The documented mark of those that move.
    mark = "a_" if is_animated(picture) else ""
    digest = sha256(picture).hexdigest()[:_HASH_LENGTH]
    return Icon(hash=f"{mark}{digest}", media_type=media_type, data=picture)


def _features(guild: GuildRow) -> tuple[str, ...]:
    return ("DISCOVERABLE",) if guild.discoverable else ()


def _common(guild: GuildRow, roles: list[Role]) -> _Common:
    return {
        "id": guild.id,
        "name": guild.name,
        "description": guild.description,
        "owner_id": guild.owner_id,
        "discoverable": guild.discoverable,
        "features": _features(guild),
        "roles": tuple(roles),
        "icon": guild.icon,
        "verification_level": guild.verification_level,
        "default_message_notifications": guild.default_message_notifications,
        "explicit_content_filter": guild.explicit_content_filter,
        "system_channel_id": guild.system_channel_id,
        "system_channel_flags": guild.system_channel_flags,
        "rules_channel_id": guild.rules_channel_id,
        "preferred_locale": guild.preferred_locale,
    }


def _details(state: GuildState) -> GuildDetails:
    """The answer to who has just come into a guild."""
    common = {name: getattr(state, name) for name in Guild.__struct_fields__}
    return GuildDetails(
        **common, approximate_member_count=state.member_count, channels=state.channels
    )


def in_guild(guild_id: Snowflake, member: Member) -> MemberOfGuild:
    """A member as events tell it."""
    return MemberOfGuild(guild_id=guild_id, **msgspec.structs.asdict(member))


def _nobody(_guild_id: Snowflake) -> int:
    """Count as long as nobody can be there."""
    return 0


def _left_thread(
    guild_id: Snowflake, thread: LeftThread, user_id: Snowflake
) -> ThreadMembersUpdated:
    return ThreadMembersUpdated(
        change=ThreadMembers(
            id=thread.id,
            guild_id=guild_id,
            member_count=thread.member_count,
            removed_member_ids=(user_id,),
        ),
        to=Audience(
            users=thread.members,
            guild_id=guild_id,
            channel_id=thread.id,
            parent_id=thread.parent_id,
        ),
    )
