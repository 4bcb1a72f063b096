"""The rules of what is done to members: nobody acts on who stands at or above the own top role."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from re import compile as pattern
from typing import Final

import msgspec

from internal.db.postgres import Conn, Database, Transaction
from internal.errors import MissingPermissions, UnknownMember, UnknownRole
from internal.guild import repository as guild_repository
from internal.guild.audit.model import Act, Action, Change
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.member import repository
from internal.guild.member.model import (
    MAX_ROLES_OF_CALL,
    MAX_TIMEOUT,
    PRUNED_AT_ONCE,
    PRUNED_BY_CALL,
    ChangedRoles,
    ChangeRoles,
    MemberSearch,
    Moment,
    Prune,
    PruneQuery,
    Unseen,
    UpdateMember,
    UpdateOwnMember,
)
from internal.guild.model import GuildAccess, Member, MemberUpdated, Role
from internal.guild.role.service import check_assignable, check_reach
from internal.guild.service import GuildService, in_guild
from internal.permission.model import NOTHING, Permission
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import ONE_LINE, field_error

# Who prunes throws out many, and decides about the guild as a whole.
_PRUNE: Final = Permission.KICK_MEMBERS | Permission.MANAGE_GUILD
_DAYS: Final = 7
_one_line = pattern(ONE_LINE)


class MemberService:
    def __init__(
        self, db: Database, guilds: GuildService, *, audit: AuditTrail, clock: Clock
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._audit = audit
        self._clock = clock

    async def search(
        self, actor: Snowflake, guild_id: Snowflake, wish: MemberSearch
    ) -> list[Member]:
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id)
            return await self.starting_with(conn, guild_id, wish.query, wish.limit)

    async def starting_with(
        self, conn: Conn, guild_id: Snowflake, prefix: str, limit: int
    ) -> list[Member]:
        """Members one of whose names begins so. Whoever calls has asked who may see them."""
        return await repository.starting_with(conn, guild_id, prefix, limit)

    async def update_own(
        self, actor: Snowflake, guild_id: Snowflake, wish: UpdateOwnMember, *, reason: str | None
    ) -> Member:
        return await self.update(
            actor, guild_id, actor, UpdateMember(nick=wish.nick), reason=reason
        )

    async def update(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        user_id: Snowflake,
        wish: UpdateMember,
        *,
        reason: str | None,
    ) -> Member:
        needs = _needs(actor, user_id, wish)
        async with self._guilds.change(actor, guild_id, needs) as (tx, access):
            target = access if user_id == actor else await self._target(tx.conn, access, user_id)
            member = self._edited(access, target, wish)
            given, taken = await _roles_wished(tx.conn, access, target, wish)
            if member != target.member:
                await self._write(tx, access, target.member, member, reason)
            if given or taken:
                await self._exchange(tx, access, [target.member], given, taken, reason)
            if member == target.member and not given and not taken:
                return member
            return await _announce(tx, guild_id, user_id, has_other_roles=bool(given or taken))

    async def give_role(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        user_id: Snowflake,
        role_id: Snowflake,
        *,
        reason: str | None,
    ) -> None:
        """Give one role. Who has it already keeps it, and nobody is told."""
        wish = ChangeRoles(user_ids=[user_id], add_role_ids=[role_id])
        await self.change_roles(actor, guild_id, wish, reason=reason)

    async def take_role(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        user_id: Snowflake,
        role_id: Snowflake,
        *,
        reason: str | None,
    ) -> None:
        """Take one role away. Who does not have it is no other than before."""
        wish = ChangeRoles(user_ids=[user_id], remove_role_ids=[role_id])
        await self.change_roles(actor, guild_id, wish, reason=reason)

    async def change_roles(
        self, actor: Snowflake, guild_id: Snowflake, wish: ChangeRoles, *, reason: str | None
    ) -> ChangedRoles:
        """Give and take roles of many at once: of all of them, or of nobody."""
        if not (wish.add_role_ids or wish.remove_role_ids):
            raise field_error("add_role_ids", "There is no role to give or take")
        if set(wish.add_role_ids) & set(wish.remove_role_ids):
            raise field_error("remove_role_ids", "A role can't be given and taken at once")
        async with self._guilds.change(actor, guild_id, Permission.MANAGE_ROLES) as (tx, access):
            given = await _roles_named(tx.conn, guild_id, wish.add_role_ids)
            taken = await _roles_named(tx.conn, guild_id, wish.remove_role_ids)
            check_assignable(access, given, taken)
            members = await repository.named(tx.conn, guild_id, wish.user_ids)
            for user_id in wish.user_ids:
                if user_id not in members:
                    raise UnknownMember(f"Unknown Member: {user_id}")
            changed = [member for member in members.values() if _would_differ(member, given, taken)]
            if changed:
                await self._exchange(tx, access, changed, given, taken, reason)
                ids = [member.user.id for member in changed]
                for after in (await repository.named(tx.conn, guild_id, ids)).values():
                    tx.emit(MemberUpdated(member=in_guild(guild_id, after), has_other_roles=True))
            return ChangedRoles(changed_user_ids=tuple(one.user.id for one in changed))

    async def kick(
        self, actor: Snowflake, guild_id: Snowflake, user_id: Snowflake, *, reason: str | None
    ) -> None:
        async with self._guilds.change(actor, guild_id, Permission.KICK_MEMBERS) as (tx, access):
            target = await self._target(tx.conn, access, user_id)
            if not access.may_act_on(target):
                raise MissingPermissions
            await self._guilds.expel(tx, guild_id, target.member.user)
            await self._audit.record(
                tx,
                Act(
                    guild_id=guild_id,
                    actor=actor,
                    action=Action.MEMBER_KICK,
                    target=user_id,
                    reason=reason,
                ),
            )

    async def count_prunable(self, actor: Snowflake, guild_id: Snowflake, wish: PruneQuery) -> int:
        """How many members were not seen for so many days."""
        async with self._db.read() as conn:
            access = await self._guilds.access(conn, actor, guild_id, _PRUNE)
            wanted = await self._unseen(conn, access, wish.days, wish.include_roles)
            return await repository.count_unseen(conn, guild_id, wanted)

    async def prune(
        self, actor: Snowflake, guild_id: Snowflake, wish: Prune, *, reason: str | None
    ) -> int | None:
        """Throw out members who were not seen for so many days; how many, if that is wished for.

        Some at a time, each time with an entry in the audit log: the guild is not held for all of
        them. Whoever would prune more than PRUNED_BY_CALL asks again.
        """
        pruned, after = 0, Snowflake(0)
        while pruned < PRUNED_BY_CALL:
            last, gone = await self._prune_some(actor, guild_id, wish, after, reason)
            pruned += gone
            if last is None:
                break
            after = last
        return None if wish.compute_prune_count is False else pruned

    async def _prune_some(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        wish: Prune,
        after: Snowflake,
        reason: str | None,
    ) -> tuple[Snowflake | None, int]:
        """Prune some members; the last of them if there may be more, and how many they were."""
        days = wish.days or _DAYS
        async with self._guilds.change(actor, guild_id, _PRUNE) as (tx, access):
            wanted = await self._unseen(tx.conn, access, days, wish.include_roles)
            users = await repository.unseen(
                tx.conn, guild_id, wanted, after=after, limit=PRUNED_AT_ONCE
            )
            for user in users:
                await self._guilds.expel(tx, guild_id, user)
            if users:
                options = {"delete_member_days": days, "members_removed": len(users)}
                await self._audit.record(
                    tx,
                    Act(
                        guild_id=guild_id,
                        actor=actor,
                        action=Action.MEMBER_PRUNE,
                        options=options,
                        reason=reason,
                    ),
                )
        return (users[-1].id if len(users) == PRUNED_AT_ONCE else None), len(users)

    async def _unseen(
        self,
        conn: Conn,
        access: GuildAccess,
        days: int,
        include_roles: str | Sequence[Snowflake] | None,
    ) -> Unseen:
        """Whom the actor would prune: nobody who has a role at or above the own top role."""
        guild_id = access.guild.id
        # Who has no role stands where @everyone does.
        roles = await _roles_named(conn, guild_id, [guild_id, *_role_ids(include_roles)])
        check_reach(access, roles)
        return Unseen(
            since=self._clock.now() - timedelta(days=days),
            include_roles=tuple(role.id for role in roles),
            except_id=access.member.user.id,
        )

    async def _target(self, conn: Conn, access: GuildAccess, user_id: Snowflake) -> GuildAccess:
        target = await self._guilds.standing(conn, access.guild.id, user_id)
        if target is None:
            raise UnknownMember
        return target

    def _edited(self, access: GuildAccess, target: GuildAccess, wish: UpdateMember) -> Member:
        """The member with the name and the timeout that are wished for, if both may be."""
        member = target.member
        if wish.nick is not msgspec.UNSET:
            is_own = target.member.user.id == access.member.user.id
            if not (_may_rename_oneself(access) if is_own else access.may_act_on(target)):
                raise MissingPermissions
            member = msgspec.structs.replace(member, nick=_nick(wish.nick))
        if wish.communication_disabled_until is not msgspec.UNSET:
            until = self._timeout(wish.communication_disabled_until)
            is_administrator = target.may(Permission.ADMINISTRATOR)
            if not access.may_act_on(target) or (until is not None and is_administrator):
                raise MissingPermissions
            member = msgspec.structs.replace(member, communication_disabled_until=until)
        return member

    def _timeout(self, until: Moment | None) -> Timestamp | None:
        """When a timeout ends; None for none, and for one that would be over already."""
        now = self._clock.now()
        if until is None or until <= now:
            return None
        if until > now + MAX_TIMEOUT:
            raise field_error(
                "communication_disabled_until", f"At most {MAX_TIMEOUT.days} days from now"
            )
        return Timestamp.at(until)

    async def _write(
        self,
        tx: Transaction,
        access: GuildAccess,
        before: Member,
        after: Member,
        reason: str | None,
    ) -> None:
        until = after.communication_disabled_until
        await repository.update(
            tx.conn,
            access.guild.id,
            after.user.id,
            nick=after.nick,
            timed_out_until=None if until is None else datetime.fromisoformat(until),
        )
        await self._audit.record(
            tx,
            Act(
                guild_id=access.guild.id,
                actor=access.member.user.id,
                action=Action.MEMBER_UPDATE,
                target=after.user.id,
                changes=changes_between(before, after, "nick", "communication_disabled_until"),
                reason=reason,
            ),
        )

    async def _exchange(
        self,
        tx: Transaction,
        access: GuildAccess,
        members: Sequence[Member],
        given: Sequence[Role],
        taken: Sequence[Role],
        reason: str | None,
    ) -> None:
        """Give and take roles, and write down what that is for each of the members."""
        await repository.change_roles(
            tx.conn,
            access.guild.id,
            [member.user.id for member in members],
            given=[role.id for role in given],
            taken=[role.id for role in taken],
        )
        acts = [
            Act(
                guild_id=access.guild.id,
                actor=access.member.user.id,
                action=Action.MEMBER_ROLE_UPDATE,
                target=member.user.id,
                changes=_role_changes(member, given, taken),
                reason=reason,
            )
            for member in members
        ]
        await self._audit.record_all(tx, acts)


def _needs(actor: Snowflake, user_id: Snowflake, wish: UpdateMember) -> Permission:
    """What a change takes, as far as it does not depend on who the member is."""
    needs = NOTHING
    # For one's own name either of two permissions will do.
    if wish.nick is not msgspec.UNSET and user_id != actor:
        needs |= Permission.MANAGE_NICKNAMES
    if wish.roles is not msgspec.UNSET:
        needs |= Permission.MANAGE_ROLES
    if wish.communication_disabled_until is not msgspec.UNSET:
        needs |= Permission.MODERATE_MEMBERS
    return needs


def _may_rename_oneself(access: GuildAccess) -> bool:
    return access.may(Permission.CHANGE_NICKNAME) or access.may(Permission.MANAGE_NICKNAMES)


def _nick(wanted: str | None) -> str | None:
    """A name in the guild; None for one that is empty."""
    nick = (wanted or "").strip()
    if nick and not _one_line.match(nick):
        raise field_error(
            "nick", "This field must be one line with visible characters", "BASE_TYPE_BAD_TEXT"
        )
    return nick or None


async def _roles_named(
    conn: Conn, guild_id: Snowflake, role_ids: Sequence[Snowflake]
) -> list[Role]:
    """The roles of a guild that have these ids; UnknownRole if it has one of them not."""
    if not role_ids:
        return []
    roles = {
        role.id: role for role in (await guild_repository.roles_of(conn, [guild_id]))[guild_id]
    }
    for role_id in role_ids:
        if role_id not in roles:
            raise UnknownRole
    return [roles[role_id] for role_id in dict.fromkeys(role_ids)]


async def _roles_wished(
    conn: Conn, access: GuildAccess, target: GuildAccess, wish: UpdateMember
) -> tuple[list[Role], list[Role]]:
    """The roles to give and to take, so that the member has those that are wished for."""
    if wish.roles is msgspec.UNSET:
        return [], []
    guild_id = access.guild.id
    wanted = await _roles_named(conn, guild_id, wish.roles or [])
    held = await _roles_named(conn, guild_id, target.member.roles)
    given = [role for role in wanted if role not in held]
    taken = [role for role in held if role not in wanted]
    check_assignable(access, given, taken)
    return given, taken


def _would_differ(member: Member, given: Sequence[Role], taken: Sequence[Role]) -> bool:
    held = set(member.roles)
    return any(role.id not in held for role in given) or any(role.id in held for role in taken)


def _role_changes(
    member: Member, given: Sequence[Role], taken: Sequence[Role]
) -> tuple[Change, ...]:
    """What changes for one member, in the documented form."""
    held = set(member.roles)
    sets = {
        "$add": [role for role in given if role.id not in held],
        "$remove": [role for role in taken if role.id in held],
    }
    return tuple(
        Change(key=key, new_value=[{"id": str(int(one.id)), "name": one.name} for one in roles])
        for key, roles in sets.items()
        if roles
    )


async def _announce(
    tx: Transaction, guild_id: Snowflake, user_id: Snowflake, *, has_other_roles: bool
) -> Member:
    """Tell the guild how a member looks now."""
    member = (await repository.named(tx.conn, guild_id, [user_id]))[user_id]
    tx.emit(MemberUpdated(member=in_guild(guild_id, member), has_other_roles=has_other_roles))
    return member


def _role_ids(wanted: str | Sequence[Snowflake] | None) -> list[Snowflake]:
    if not isinstance(wanted, str):
        return list(wanted or ())
    texts = [text for text in wanted.split(",") if text]
    if len(texts) > MAX_ROLES_OF_CALL:
        raise field_error("include_roles", f"At most {MAX_ROLES_OF_CALL} roles")
    try:
        return [Snowflake.parse(text) for text in texts]
    except ValueError as fault:
        raise field_error("include_roles", str(fault), "NUMBER_TYPE_COERCE") from None
