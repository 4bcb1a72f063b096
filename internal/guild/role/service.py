"""The rules of roles: nobody makes, changes or gives what stands at or above the own top role."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from internal.db.postgres import Conn, Database, Transaction
from internal.errors import InvalidRole, MissingPermissions, TooManyRoles, UnknownRole
from internal.guild import repository as guild_repository
from internal.guild.audit.model import Act, Action, Change
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.model import GuildAccess, GuildChannel, Role, RoleColors
from internal.guild.role import repository
from internal.guild.role.model import (
    AUDITED,
    DEFAULT_NAME,
    MAX_ROLES,
    SEEING,
    Bits,
    CreateRole,
    MoveRole,
    RoleCreated,
    RoleDeleted,
    RoleUpdated,
    UpdateRole,
    rank_of,
    reordered,
)
from internal.guild.service import GuildService
from internal.permission.model import ALL, Permission
from internal.utils.snowflake import NewId, Snowflake
from internal.utils.validator import field_error


class AnnounceChannels(Protocol):
    """Tells that channels have other overwrites than before."""

    def __call__(self, tx: Transaction, channels: Sequence[GuildChannel], /) -> None: ...


class RoleService:
    def __init__(
        self,
        db: Database,
        guilds: GuildService,
        *,
        new_id: NewId,
        audit: AuditTrail,
        announce: AnnounceChannels,
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._new_id = new_id
        self._audit = audit
        self._announce = announce

    async def create(
        self, actor: Snowflake, guild_id: Snowflake, wish: CreateRole, *, reason: str | None
    ) -> Role:
        """Make a role, below all others but @everyone."""
        async with self._guilds.change(actor, guild_id, Permission.MANAGE_ROLES) as (tx, access):
            roles = await _roles_of(tx.conn, guild_id)
            if len(roles) >= MAX_ROLES:
                raise TooManyRoles
            blank = Role(
                id=self._new_id(),
                name=DEFAULT_NAME,
                colors=RoleColors(),
                position=1,
                permissions=roles[guild_id].permissions,
            )
            role = _changed(blank, wish)
            _check_granted(access, int(role.permissions))
            await repository.insert(tx.conn, guild_id, role)
            tx.emit(RoleCreated(guild_id=guild_id, role=role))
            changes = changes_between(None, role, *AUDITED)
            await self._record(tx, access, Action.ROLE_CREATE, role.id, changes, reason)
            return role

    async def of_guild(self, actor: Snowflake, guild_id: Snowflake) -> list[Role]:
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id)
            return list((await _roles_of(conn, guild_id)).values())

    async def get(self, actor: Snowflake, guild_id: Snowflake, role_id: Snowflake) -> Role:
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id)
            return _found(await _roles_of(conn, guild_id), role_id)

    async def member_counts(self, actor: Snowflake, guild_id: Snowflake) -> dict[str, int]:
        """How many members have each role; by its id."""
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id)
            counts = await repository.count_members(conn, guild_id)
        return {str(int(role_id)): members for role_id, members in counts.items()}

    async def update(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        role_id: Snowflake,
        wish: UpdateRole,
        *,
        reason: str | None,
    ) -> Role:
        async with self._guilds.change(actor, guild_id, Permission.MANAGE_ROLES) as (tx, access):
            role = _found(await _roles_of(tx.conn, guild_id), role_id)
            check_reach(access, [role])
            changed = _changed(role, wish)
            if changed == role:
                return role
            if role.managed or (role_id == guild_id and _without_permissions(changed, role)):
                raise InvalidRole
            before, after = int(role.permissions), int(changed.permissions)
            _check_granted(access, after & ~before)
            await repository.update(tx.conn, changed)
            has_other_sight = bool((before ^ after) & SEEING)
            tx.emit(RoleUpdated(guild_id=guild_id, role=changed, has_other_sight=has_other_sight))
            changes = changes_between(role, changed, *AUDITED)
            await self._record(tx, access, Action.ROLE_UPDATE, role_id, changes, reason)
            return changed

    async def move(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        wishes: Sequence[MoveRole],
        *,
        reason: str | None,
    ) -> list[Role]:
        """Put roles into another order. Those from the own top role up stay as they are."""
        wanted = _wanted(guild_id, wishes)
        async with self._guilds.change(actor, guild_id, Permission.MANAGE_ROLES) as (tx, access):
            roles = await _roles_of(tx.conn, guild_id)
            for wish in wishes:
                _found(roles, wish.id)
            old = sorted((one for one in roles.values() if one.id != guild_id), key=rank_of)
            new = reordered(old, wanted)
            reach = sum(access.outranks(rank_of(role)) for role in old)
            if new[reach:] != old[reach:]:
                raise MissingPermissions
            moved = {
                role: place for place, role in enumerate(new, start=1) if role.position != place
            }
            if new != old:
                await self._move(tx, access, moved, wanted, reason)
            return list((await _roles_of(tx.conn, guild_id)).values())

    async def delete(
        self, actor: Snowflake, guild_id: Snowflake, role_id: Snowflake, *, reason: str | None
    ) -> None:
        async with self._guilds.change(actor, guild_id, Permission.MANAGE_ROLES) as (tx, access):
            role = _found(await _roles_of(tx.conn, guild_id), role_id)
            if role.managed or role_id == guild_id:
                raise InvalidRole
            check_reach(access, [role])
            changed = await repository.delete(tx.conn, role_id)
            decides = bool(int(role.permissions) & SEEING) or bool(changed)
            tx.emit(RoleDeleted(guild_id=guild_id, role_id=role_id, has_other_sight=decides))
            if changed:
                channels = (await guild_repository.channels_of(tx.conn, [guild_id]))[guild_id]
                self._announce(tx, [channel for channel in channels if channel.id in changed])
            changes = changes_between(role, None, *AUDITED)
            await self._record(tx, access, Action.ROLE_DELETE, role_id, changes, reason)

    async def _move(
        self,
        tx: Transaction,
        access: GuildAccess,
        moved: dict[Role, int],
        wanted: Iterable[Snowflake],
        reason: str | None,
    ) -> None:
        guild_id = access.guild.id
        await repository.move(tx.conn, {role.id: place for role, place in moved.items()})
        for role, place in moved.items():
            changed = msgspec.structs.replace(role, position=place)
            tx.emit(RoleUpdated(guild_id=guild_id, role=changed))
            # The others only made room.
            if role.id in wanted:
                changes = changes_between(role, changed, "position")
                await self._record(tx, access, Action.ROLE_UPDATE, role.id, changes, reason)

    async def _record(
        self,
        tx: Transaction,
        access: GuildAccess,
        action: Action,
        role_id: Snowflake,
        changes: tuple[Change, ...],
        reason: str | None,
    ) -> None:
        await self._audit.record(
            tx,
            Act(
                guild_id=access.guild.id,
                actor=access.member.user.id,
                action=action,
                target=role_id,
                changes=changes,
                reason=reason,
            ),
        )


def check_reach(access: GuildAccess, roles: Iterable[Role]) -> None:
    """Let through who stands above all of these roles."""
    if not all(access.outranks(rank_of(role)) for role in roles):
        raise MissingPermissions


def check_assignable(access: GuildAccess, given: Sequence[Role], taken: Sequence[Role]) -> None:
    """Let through who may give and take these roles: below the own one, and no more than one has.

    A managed role belongs to whom it was made for, and @everyone to all.
    """
    guild_id = access.guild.id
    if any(role.managed or role.id == guild_id for role in (*given, *taken)):
        raise InvalidRole
    check_reach(access, (*given, *taken))
    for role in given:
        _check_granted(access, int(role.permissions))


def _check_granted(access: GuildAccess, bits: int) -> None:
    """Nobody gives what they don't have."""
    if bits & ~access.permissions:
        raise MissingPermissions


async def _roles_of(conn: Conn, guild_id: Snowflake) -> dict[Snowflake, Role]:
    """The roles of a guild by their ids, lowest first."""
    roles = (await guild_repository.roles_of(conn, [guild_id]))[guild_id]
    return {role.id: role for role in roles}


def _found(roles: dict[Snowflake, Role], role_id: Snowflake) -> Role:
    role = roles.get(role_id)
    if role is None:
        raise UnknownRole
    return role


def _changed(role: Role, wish: UpdateRole) -> Role:
    """The role as it is wished for."""
    changed = role
    for name in ("name", "hoist", "mentionable"):
        value = getattr(wish, name)
        if value is not msgspec.UNSET and value is not None:
            changed = msgspec.structs.replace(changed, **{name: value})
    if wish.permissions is not msgspec.UNSET and wish.permissions is not None:
        changed = msgspec.structs.replace(changed, permissions=_bits(wish.permissions))
    if wish.unicode_emoji is not msgspec.UNSET:
        changed = msgspec.structs.replace(changed, unicode_emoji=wish.unicode_emoji)
    color = _color(wish)
    if color is None:
        return changed
    return msgspec.structs.replace(changed, color=color, colors=RoleColors(primary_color=color))


def _color(wish: UpdateRole) -> int | None:
    """The colour that is wished for, if one is; it may be said in either of two ways."""
    if wish.colors is not msgspec.UNSET:
        return 0 if wish.colors is None else wish.colors.primary_color or 0
    return None if wish.color is msgspec.UNSET else wish.color or 0


def _bits(wanted: Bits) -> str:
    """A set of permissions as it is stored: without bits that mean nothing here."""
    return str(int(wanted) & ALL)


def _without_permissions(one: Role, other: Role) -> bool:
    """Whether two roles differ in something beside what they permit."""
    return one != msgspec.structs.replace(other, permissions=one.permissions)


def _wanted(guild_id: Snowflake, wishes: Sequence[MoveRole]) -> dict[Snowflake, int]:
    """Where which role is wished to be. That @everyone stays where it is may be said, too."""
    wanted: dict[Snowflake, int] = {}
    for number, wish in enumerate(wishes):
        if wish.id in wanted:
            raise field_error(f"{number}.id", "This role was named before")
        if wish.position is None or (wish.id == guild_id and wish.position == 0):
            continue
        if wish.id == guild_id or wish.position == 0:
            raise field_error(f"{number}.position", "Position 0 is that of @everyone")
        wanted[wish.id] = wish.position
    return wanted
