"""The rules of guilds: who makes, sees, changes, joins and leaves them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypedDict

import msgspec

from internal.db.locks import LockBusy, Locks, lock
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    MissingPermissions,
    OwnerCannotLeave,
    TooManyGuilds,
    TooManyMembers,
    Unavailable,
    UnknownGuild,
    UnknownMember,
)
from internal.guild import repository
from internal.guild.model import (
    LARGE,
    MAX_GUILDS_OF_USER,
    MAX_MEMBERS,
    CreateGuild,
    Guild,
    GuildAccess,
    GuildChannel,
    GuildCreated,
    GuildDeleted,
    GuildDetails,
    GuildPage,
    GuildRow,
    GuildState,
    GuildUpdated,
    Member,
    MemberJoined,
    MemberLeft,
    MemberOfGuild,
    MemberPage,
    MemberUpdated,
    OwnGuild,
    PublicGuild,
    Role,
    UpdateGuild,
)
from internal.permission.model import EVERYONE_DEFAULT, NOTHING, Permission
from internal.utils.snowflake import NewId, Snowflake

# So many connections, at most, wait for guilds that are being changed.
_WAITING_CONNECTIONS: Final = 3


class _Common(TypedDict):
    """What all views of a guild are made from."""

    id: Snowflake
    name: str
    description: str | None
    owner_id: Snowflake
    discoverable: bool
    features: tuple[str, ...]
    roles: tuple[Role, ...]


class GuildService:
    def __init__(self, db: Database, new_id: NewId) -> None:
        self._db = db
        self._new_id = new_id
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
        async with self._db.transaction() as tx:
            await self._refuse_more_guilds(tx.conn, actor)
            guild_id = self._new_id()
            guild = GuildRow(
                id=guild_id,
                name=wish.name,
                description=wish.description,
                owner_id=actor,
                discoverable=wish.discoverable,
                member_count=1,
            )
            await repository.insert(tx.conn, guild)
            await repository.insert_everyone_role(tx.conn, guild_id, EVERYONE_DEFAULT)
            await repository.insert_first_channel(tx.conn, guild_id, self._new_id(), "general")
            await repository.insert_member(tx.conn, guild_id, actor)
            state = (await self._states(tx.conn, actor, guild_id))[0]
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

    async def details(self, actor: Snowflake, guild_id: Snowflake) -> GuildDetails:
        async with self._db.read() as conn:
            guild = (await self.access(conn, actor, guild_id)).guild
            roles = await repository.roles_of(conn, [guild_id])
        return GuildDetails(
            **_common(guild, roles[guild_id]), approximate_member_count=guild.member_count
        )

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
        if not access.may(Permission.VIEW_CHANNEL):
            return []
        return (await repository.channels_of(conn, [guild_id]))[guild_id]

    async def memberships(self, conn: Conn, user_id: Snowflake) -> set[int]:
        """The guilds that an account is in."""
        return {int(guild_id) for guild_id in await repository.guild_ids_of(conn, user_id)}

    async def states_of(self, conn: Conn, user_id: Snowflake) -> list[GuildState]:
        """All guilds of an account, in the order of their ids, as GUILD_CREATE tells them.

        Four statements, however many guilds there are. Run it in a snapshot.
        """
        return await self._states(conn, user_id, None)

    async def update(
        self, actor: Snowflake, guild_id: Snowflake, wish: UpdateGuild
    ) -> GuildDetails:
        async with self.change(actor, guild_id, Permission.MANAGE_GUILD) as (tx, access):
            await self._check_new_owner(tx.conn, access, wish)
            changed = _changed(access.guild, wish)
            roles = (await repository.roles_of(tx.conn, [guild_id]))[guild_id]
            if changed != access.guild:
                await repository.update(tx.conn, changed)
                tx.emit(GuildUpdated(guild=Guild(**_common(changed, roles))))
        return GuildDetails(
            **_common(changed, roles), approximate_member_count=changed.member_count
        )

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
            if states := await self._states(tx.conn, actor, guild_id):
                return _details(states[0])
            if guild is None or not guild.discoverable:
                raise UnknownGuild
            if guild.member_count >= MAX_MEMBERS:
                raise TooManyMembers
            await self._refuse_more_guilds(tx.conn, actor)
            await repository.insert_member(tx.conn, guild_id, actor)
            state = (await self._states(tx.conn, actor, guild_id))[0]
            member = next(one for one in state.members if one.user.id == actor)
            # In this order: the joiner hears of the guild first, and of nothing before.
            tx.emit(MemberJoined(member=_in_guild(guild_id, member)))
            tx.emit(GuildCreated(user_id=actor, state=state))
            return _details(state)

    async def leave(self, actor: Snowflake, guild_id: Snowflake) -> None:
        async with self.change(actor, guild_id) as (tx, access):
            if access.is_owner:
                raise OwnerCannotLeave
            await repository.delete_member(tx.conn, guild_id, actor)
            tx.emit(GuildDeleted(guild_id=guild_id, users=(actor,)))
            tx.emit(MemberLeft(guild_id=guild_id, user=access.member.user))

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
            tx.emit(MemberUpdated(member=_in_guild(guild_id, member)))

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

    async def _states(
        self, conn: Conn, user_id: Snowflake, guild_id: Snowflake | None
    ) -> list[GuildState]:
        guilds = await repository.joined(conn, user_id, guild_id)
        ids = [guild.id for guild, _ in guilds]
        roles = await repository.roles_of(conn, ids)
        channels = await repository.channels_of(conn, ids)
        members = await repository.first_members_of(conn, ids, user_id)
        return [
            GuildState(
                **_common(guild, roles[guild.id]),
                joined_at=joined_at,
                large=guild.member_count > LARGE,
                member_count=guild.member_count,
                members=tuple(members[guild.id]),
                channels=tuple(channels[guild.id]),
            )
            for guild, joined_at in guilds
        ]


async def _hold(conn: Conn, user_id: Snowflake) -> None:
    """Hold the guilds of an account, without waiting; LockBusy if one of them is not free."""
    busy = await repository.try_hold(conn, await repository.guild_ids_of(conn, user_id))
    if busy:
        raise LockBusy(busy[0])


def _changed(guild: GuildRow, wish: UpdateGuild) -> GuildRow:
    """The guild with the fields that stand in a body; null is a value, absent is not."""
    wishes = msgspec.structs.asdict(wish).items()
    return msgspec.structs.replace(
        guild, **{name: value for name, value in wishes if value is not msgspec.UNSET}
    )


def _common(guild: GuildRow, roles: list[Role]) -> _Common:
    return {
        "id": guild.id,
        "name": guild.name,
        "description": guild.description,
        "owner_id": guild.owner_id,
        "discoverable": guild.discoverable,
        "features": ("DISCOVERABLE",) if guild.discoverable else (),
        "roles": tuple(roles),
    }


def _details(state: GuildState) -> GuildDetails:
    """The answer to who has just come into a guild."""
    return GuildDetails(
        id=state.id,
        name=state.name,
        description=state.description,
        owner_id=state.owner_id,
        discoverable=state.discoverable,
        features=state.features,
        roles=state.roles,
        approximate_member_count=state.member_count,
        channels=state.channels,
    )


def _in_guild(guild_id: Snowflake, member: Member) -> MemberOfGuild:
    return MemberOfGuild(
        user=member.user, nick=member.nick, joined_at=member.joined_at, guild_id=guild_id
    )
