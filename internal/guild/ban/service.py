"""The rules of bans: who is sent away for good, and who may come back."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol

from internal.db.postgres import Database, Transaction
from internal.errors import MissingPermissions, NobodyBanned, UnknownBan, UnknownUser
from internal.guild.audit.model import Act, Action
from internal.guild.audit.service import AuditTrail
from internal.guild.ban import repository
from internal.guild.ban.model import (
    Ban,
    BanAdded,
    BanPage,
    BanRemoved,
    BanUser,
    BulkBan,
    BulkBanned,
)
from internal.guild.model import GuildAccess
from internal.guild.service import GuildService
from internal.permission.model import Permission
from internal.user.model import User
from internal.utils.snowflake import Snowflake

# As documented, many at once take both.
_MANY: Final = Permission.BAN_MEMBERS | Permission.MANAGE_GUILD


class DeleteRecent(Protocol):
    """Takes back what accounts said in a guild lately. Needs the guild's lock."""

    async def __call__(
        self,
        tx: Transaction,
        guild_id: Snowflake,
        author_ids: Sequence[Snowflake],
        period: timedelta,
    ) -> None: ...


class BanService:
    def __init__(
        self, db: Database, guilds: GuildService, audit: AuditTrail, delete_recent: DeleteRecent
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._audit = audit
        self._delete_recent = delete_recent

    async def page(self, actor: Snowflake, guild_id: Snowflake, page: BanPage) -> list[Ban]:
        """Bans of a guild, in the order of the ids of the banned."""
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id, Permission.BAN_MEMBERS)
            if page.before is not None:
                return await repository.page_before(conn, guild_id, page.before, page.limit)
            after = page.after or Snowflake(0)
            return await repository.page_after(conn, guild_id, after, page.limit)

    async def get(self, actor: Snowflake, guild_id: Snowflake, user_id: Snowflake) -> Ban:
        async with self._db.read() as conn:
            await self._guilds.access(conn, actor, guild_id, Permission.BAN_MEMBERS)
            ban = await repository.find(conn, guild_id, user_id)
        if ban is None:
            raise UnknownBan
        return ban

    async def ban(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        user_id: Snowflake,
        wish: BanUser,
        *,
        reason: str | None,
    ) -> None:
        """Ban an account, a member or not. Banning it again changes nothing and tells nobody."""
        async with self._guilds.change(actor, guild_id, Permission.BAN_MEMBERS) as (tx, access):
            user = (await repository.accounts(tx.conn, [user_id])).get(user_id)
            if user is None:
                raise UnknownUser
            other = await self._guilds.standing(tx.conn, guild_id, user_id)
            if not _may_ban(access, other):
                raise MissingPermissions
            if await self._ban(tx, guild_id, user, other, reason):
                await self._audit.record(tx, _act(access, user_id, reason))
                await self._take_back(tx, guild_id, [user_id], wish.seconds)

    async def bulk_ban(
        self, actor: Snowflake, guild_id: Snowflake, wish: BulkBan, *, reason: str | None
    ) -> BulkBanned:
        """Ban many accounts at once, those of them that may be."""
        user_ids = sorted(set(wish.user_ids))
        banned: list[Snowflake] = []
        async with self._guilds.change(actor, guild_id, _MANY) as (tx, access):
            users = await repository.accounts(tx.conn, user_ids)
            for user_id, user in sorted(users.items()):
                other = await self._guilds.standing(tx.conn, guild_id, user_id)
                if _may_ban(access, other) and await self._ban(tx, guild_id, user, other, reason):
                    banned.append(user_id)
            if not banned:
                raise NobodyBanned
            await self._audit.record_all(tx, [_act(access, one, reason) for one in banned])
            await self._take_back(tx, guild_id, banned, wish.delete_message_seconds or 0)
        failed = set(user_ids).difference(banned)
        return BulkBanned(banned_users=tuple(banned), failed_users=tuple(sorted(failed)))

    async def unban(
        self, actor: Snowflake, guild_id: Snowflake, user_id: Snowflake, *, reason: str | None
    ) -> None:
        async with self._guilds.change(actor, guild_id, Permission.BAN_MEMBERS) as (tx, _):
            ban = await repository.find(tx.conn, guild_id, user_id)
            if ban is None:
                raise UnknownBan
            await repository.delete(tx.conn, guild_id, user_id)
            tx.emit(BanRemoved(guild_id=guild_id, user=ban.user))
            await self._audit.record(
                tx,
                Act(
                    guild_id=guild_id,
                    actor=actor,
                    action=Action.MEMBER_BAN_REMOVE,
                    target=user_id,
                    reason=reason,
                ),
            )

    async def _ban(
        self,
        tx: Transaction,
        guild_id: Snowflake,
        user: User,
        other: GuildAccess | None,
        reason: str | None,
    ) -> bool:
        """Ban an account, and end its membership; False if it is banned already."""
        if not await repository.insert(tx.conn, guild_id, user.id, reason):
            return False
        if other is not None:
            await self._guilds.expel(tx, guild_id, user)
        # After the end of the membership: who is banned hears of nothing else.
        tx.emit(BanAdded(guild_id=guild_id, user=user))
        return True

    async def _take_back(
        self, tx: Transaction, guild_id: Snowflake, user_ids: Sequence[Snowflake], seconds: int
    ) -> None:
        if seconds:
            await self._delete_recent(tx, guild_id, user_ids, timedelta(seconds=seconds))


def _may_ban(access: GuildAccess, other: GuildAccess | None) -> bool:
    """Whether the actor stands above somebody. Who is no member stands nowhere."""
    return other is None or access.may_act_on(other)


def _act(access: GuildAccess, user_id: Snowflake, reason: str | None) -> Act:
    return Act(
        guild_id=access.guild.id,
        actor=access.member.user.id,
        action=Action.MEMBER_BAN_ADD,
        target=user_id,
        reason=reason,
    )
