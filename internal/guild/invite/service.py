"""The rules of invites: who lets people in, for how long, and who stays only for a while."""

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from internal.db.locks import lock
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    AppError,
    MissingPermissions,
    TooManyInvites,
    UnknownChannel,
    UnknownGuild,
    UnknownInvite,
    WrongChannelType,
)
from internal.guild import repository as guild_repository
from internal.guild.audit.model import Act, Action
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.invite import repository
from internal.guild.invite.model import (
    MAX_INVITES_OF_GUILD,
    AcceptedInvite,
    CreateInvite,
    GoneInvite,
    Invite,
    InviteCreated,
    InviteDeleted,
    InviteDetails,
    InvitedGuild,
    InvitePage,
    InviteQuery,
    InviteRow,
    NewInvite,
    SeenChannel,
)
from internal.guild.model import GuildRow
from internal.guild.service import GuildService
from internal.permission.model import Permission
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

if TYPE_CHECKING:
    from collections.abc import Callable

# Without letters that look alike. Ten of them are 58 bits: who guesses a thousand codes a second
# does so for ten million years.
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LENGTH: Final = 10
# Text, announcements and forums: what people can arrive in.
_INVITING: Final = frozenset({0, 5, 15})
_TOLD: Final = Permission.MANAGE_CHANNELS | Permission.MANAGE_GUILD
_AUDITED: Final = ("code", "channel_id", "inviter_id", "max_age", "max_uses", "temporary")
# So many expired invites are swept at once; each guild concerned costs a statement.
_SWEPT: Final = 100


class SeeChannel(Protocol):
    """The door to channels, which are none of a guild's business otherwise."""

    async def __call__(
        self, conn: Conn, actor: Snowflake, channel_id: Snowflake, needs: Permission
    ) -> SeenChannel: ...


class _Audited(msgspec.Struct, frozen=True, kw_only=True):
    """What the audit log says of an invite."""

    code: str
    channel_id: Snowflake
    inviter_id: Snowflake
    max_age: int
    max_uses: int
    temporary: bool


class InviteService:
    def __init__(
        self,
        db: Database,
        guilds: GuildService,
        audit: AuditTrail,
        clock: Clock,
        see_channel: SeeChannel,
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._audit = audit
        self._clock = clock
        self._see_channel = see_channel

    async def create(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        wish: CreateInvite,
        *,
        reason: str | None = None,
    ) -> InviteDetails:
        """Make an invite, or give one's own of the same kind again if that will do."""
        async with self._db.read() as conn:
            guild_id = await self._inviting(conn, actor, channel_id)
        async with self._guilds.change(actor, guild_id) as (tx, access):
            await self._inviting(tx.conn, actor, channel_id)
            channel = await repository.find_channel(tx.conn, guild_id, channel_id)
            if channel is None:
                raise UnknownChannel
            now = self._clock.now()
            invite = InviteRow(
                code=_new_code(),
                guild_id=guild_id,
                channel=channel,
                inviter=access.member.user,
                max_age=wish.seconds,
                max_uses=wish.max_uses or 0,
                uses=0,
                temporary=bool(wish.temporary),
                created_at=now,
                expires_at=now + timedelta(seconds=wish.seconds) if wish.seconds else None,
            )
            if not wish.unique:
                similar = await repository.find_similar(tx.conn, invite)
                if similar is not None:
                    return _details(similar, access.guild)
            if await repository.count(tx.conn, guild_id, now) >= MAX_INVITES_OF_GUILD:
                raise TooManyInvites
            while not await repository.insert(tx.conn, invite):
                invite = msgspec.structs.replace(invite, code=_new_code())
            users = await self._guilds.holders_of(tx.conn, guild_id, _TOLD)
            tx.emit(InviteCreated(invite=_new(invite), users=users))
            await self._record(tx, invite, actor, Action.INVITE_CREATE, reason)
        return _details(invite, access.guild)

    async def preview(self, code: str, query: InviteQuery) -> Invite:
        """What an invite leads to, for anybody who has it."""
        async with self._db.read() as conn:
            invite = await repository.find(conn, code, self._clock.now())
            if invite is None:
                raise UnknownInvite
            guild = await guild_repository.find(conn, invite.guild_id)
        if guild is None:  # deleted between the two statements
            raise UnknownInvite
        shown = _shown(invite, guild)
        if not query.with_expiration:
            shown = msgspec.structs.replace(shown, expires_at=msgspec.UNSET)
        if not query.with_counts:
            return shown
        return msgspec.structs.replace(
            shown,
            approximate_member_count=guild.member_count,
            approximate_presence_count=self._guilds.count_online(guild.id),
        )

    async def of_guild(
        self, actor: Snowflake, guild_id: Snowflake, page: InvitePage
    ) -> list[InviteDetails]:
        async with self._db.read() as conn:
            access = await self._guilds.access(conn, actor, guild_id, Permission.MANAGE_GUILD)
            invites = await repository.of_guild(
                conn, guild_id, self._clock.now(), page.after or "", page.limit
            )
        return [_details(invite, access.guild) for invite in invites]

    async def of_channel(
        self, actor: Snowflake, channel_id: Snowflake, page: InvitePage
    ) -> list[InviteDetails]:
        async with self._db.read() as conn:
            channel = await self._see_channel(conn, actor, channel_id, Permission.MANAGE_CHANNELS)
            if channel.guild_id is None:
                raise WrongChannelType
            access = await self._guilds.access(conn, actor, channel.guild_id)
            invites = await repository.of_channel(
                conn, channel_id, self._clock.now(), page.after or "", page.limit
            )
        return [_details(invite, access.guild) for invite in invites]

    async def accept(self, actor: Snowflake, code: str) -> AcceptedInvite:
        """Join by an invite. Who is a member already uses nothing of it up."""

        async def attempt(conn: Conn, wait_for: int | None) -> InviteRow | None:
            # Only who has a good code gets to wait for the lock, and it is read again under it.
            invite = await repository.find(conn, code, self._clock.now())
            if invite is None:
                raise UnknownInvite
            await lock(conn, invite.guild_id, wait_for=wait_for)
            return await repository.find(conn, code, self._clock.now())

        async with self._guilds.locks.transaction(attempt) as (tx, invite):
            guild = None if invite is None else await _guild_of(tx.conn, invite)
            if invite is None or guild is None:
                raise UnknownInvite
            is_new = await self._guilds.standing(tx.conn, guild.id, actor) is None
            if is_new:
                await self._guilds.admit(tx, guild, actor, is_temporary=invite.temporary)
                if invite.temporary:
                    now = self._clock.now()
                    await repository.mark_there(tx.conn, guild.id, actor, now)
                await self._use(tx, invite)
        shown = msgspec.structs.asdict(_shown(invite, guild))
        return AcceptedInvite(**shown, new_member=is_new)

    async def delete(self, actor: Snowflake, code: str, *, reason: str | None = None) -> Invite:
        """Take an invite back. Needs MANAGE_CHANNELS in its channel, or MANAGE_GUILD."""
        async with self._db.read() as conn:
            invite = await repository.find(conn, code, self._clock.now())
        if invite is None:
            raise UnknownInvite
        try:
            async with self._guilds.change(actor, invite.guild_id) as (tx, access):
                if not access.may(Permission.MANAGE_GUILD):
                    await self._see_channel(
                        tx.conn, actor, invite.channel.id, Permission.MANAGE_CHANNELS
                    )
                if not await repository.delete(tx.conn, code):
                    raise UnknownInvite
                await self._tell_gone(tx, invite)
                await self._record(tx, invite, actor, Action.INVITE_DELETE, reason)
        except (UnknownGuild, UnknownChannel):
            # The invite itself is known to whoever has the code.
            raise MissingPermissions from None
        return _shown(invite, access.guild)

    async def sweep(self, limit: int) -> int:
        """Delete invites that have expired, and tell it; how many it were."""
        async with self._db.transaction() as tx:
            gone = await repository.delete_expired(tx.conn, self._clock.now(), min(limit, _SWEPT))
            users = {
                guild_id: await self._guilds.holders_of(tx.conn, guild_id, _TOLD)
                for guild_id in {guild_id for guild_id, _, _ in gone}
            }
            for guild_id, channel_id, code in gone:
                invite = GoneInvite(channel_id=channel_id, guild_id=guild_id, code=code)
                tx.emit(InviteDeleted(invite=invite, users=users[guild_id]))
        return len(gone)

    async def _inviting(self, conn: Conn, actor: Snowflake, channel_id: Snowflake) -> Snowflake:
        """The guild of a channel that the actor may invite to."""
        channel = await self._see_channel(conn, actor, channel_id, Permission.VIEW_CHANNEL)
        if channel.guild_id is None or channel.type not in _INVITING:
            raise WrongChannelType
        await self._see_channel(conn, actor, channel_id, Permission.CREATE_INSTANT_INVITE)
        return channel.guild_id

    async def _use(self, tx: Transaction, invite: InviteRow) -> None:
        """Count a use; the last one is the end of the invite."""
        if not invite.max_uses or invite.uses + 1 < invite.max_uses:
            await repository.use(tx.conn, invite.code)
            return
        # The sweep may have come first, as it needs no lock: it has told of it.
        if await repository.delete(tx.conn, invite.code):
            await self._tell_gone(tx, invite)

    async def _tell_gone(self, tx: Transaction, invite: InviteRow) -> None:
        gone = GoneInvite(channel_id=invite.channel.id, guild_id=invite.guild_id, code=invite.code)
        users = await self._guilds.holders_of(tx.conn, invite.guild_id, _TOLD)
        tx.emit(InviteDeleted(invite=gone, users=users))

    async def _record(
        self,
        tx: Transaction,
        invite: InviteRow,
        actor: Snowflake,
        action: Action,
        reason: str | None,
    ) -> None:
        audited = _audited(invite)
        is_new = action is Action.INVITE_CREATE
        old, new = (None, audited) if is_new else (audited, None)
        await self._audit.record(
            tx,
            Act(
                guild_id=invite.guild_id,
                actor=actor,
                action=action,
                changes=changes_between(old, new, *_AUDITED),
                reason=reason,
            ),
        )


# A node notes so often who is there, and looks who is not.
TEMPORARY_PERIOD_S: Final = 10.0
# What a node noted so lately is not noted again.
_NOTED: Final = timedelta(seconds=20)
# Whom no node saw for so long is gone: a minute more than a note is old at most.
_GONE: Final = timedelta(seconds=90)
# A node that has just started, or could not note who is there, first gives everybody the time to
# come back.
_GRACE_S: Final = 60.0
_STALL_S: Final = 3 * TEMPORARY_PERIOD_S


class TemporaryMembers:
    """Ends the memberships of those who came by a temporary invite, have no role, and are gone.

    Each node notes in the database who of them is there; whom nobody noted for a while is gone.
    """

    def __init__(self, db: Database, guilds: GuildService, clock: Clock) -> None:
        self._db = db
        self._guilds = guilds
        self._clock = clock
        # Whether an account has a connection; who knows is opened later.
        self.is_there: Callable[[Snowflake], bool] = _everybody
        self._steady_since = 0.0
        self._noted_at: float | None = None

    async def sweep(self, limit: int) -> int:
        """Look at all temporary members once, `limit` at a time; how many were sent away."""
        now, at = self._clock.now(), self._clock.monotonic()
        if self._noted_at is None or at - self._noted_at > _STALL_S:
            self._steady_since = at
        gone: list[repository.Membership] = []
        last = (Snowflake(0), Snowflake(0))
        while True:
            async with self._db.read() as conn:
                members = await repository.temporary_after(conn, last, limit)
                there = [member for member, _ in members if self.is_there(member[1])]
                old = {member for member, seen in members if seen is None or seen < now - _NOTED}
                if noted := [member for member in there if member in old]:
                    await repository.mark_all_there(conn, noted, now)
            absent = {member for member, seen in members if seen is None or seen < now - _GONE}
            gone += sorted(absent.difference(there))[: limit - len(gone)]
            if len(members) < limit:
                break
            last = members[-1][0]
        self._noted_at = at
        if at - self._steady_since < _GRACE_S:
            return 0
        return sum([await self._expel(member) for member in gone])

    async def _expel(self, member: repository.Membership) -> bool:
        guild_id, user_id = member

        async def attempt(conn: Conn, wait_for: int | None) -> bool:
            since = self._clock.now() - _GONE
            if self.is_there(user_id) or not await repository.is_gone(conn, member, since):
                return False
            await lock(conn, guild_id, wait_for=wait_for)
            # Of several nodes that come here, one finds it so.
            return await repository.is_gone(conn, member, since)

        try:
            async with self._guilds.locks.transaction(attempt) as (tx, is_gone):
                found = await guild_repository.find_member(tx.conn, guild_id, user_id)
                if not is_gone or found is None:
                    return False
                await self._guilds.expel(tx, guild_id, found.user)
        except AppError:
            # The guild is being changed for long: the next round comes again.
            return False
        return True


async def _guild_of(conn: Conn, invite: InviteRow) -> GuildRow | None:
    return await guild_repository.find(conn, invite.guild_id)


def _everybody(_user_id: Snowflake) -> bool:
    """Take everybody to be there as long as nobody knows better."""
    return True


def _new_code() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def _shown(invite: InviteRow, guild: GuildRow) -> Invite:
    return Invite(
        code=invite.code,
        guild_id=invite.guild_id,
        guild=InvitedGuild(
            id=guild.id,
            name=guild.name,
            description=guild.description,
            icon=guild.icon,
            features=("DISCOVERABLE",) if guild.discoverable else (),
            verification_level=guild.verification_level,
        ),
        channel=invite.channel,
        inviter=invite.inviter,
        expires_at=_expiry(invite),
    )


def _details(invite: InviteRow, guild: GuildRow) -> InviteDetails:
    return InviteDetails(
        **msgspec.structs.asdict(_shown(invite, guild)),
        uses=invite.uses,
        max_uses=invite.max_uses,
        max_age=invite.max_age,
        temporary=invite.temporary,
        created_at=Timestamp.at(invite.created_at),
    )


def _new(invite: InviteRow) -> NewInvite:
    return NewInvite(
        channel_id=invite.channel.id,
        guild_id=invite.guild_id,
        code=invite.code,
        inviter=invite.inviter,
        created_at=Timestamp.at(invite.created_at),
        expires_at=_expiry(invite),
        max_age=invite.max_age,
        max_uses=invite.max_uses,
        uses=invite.uses,
        temporary=invite.temporary,
    )


def _expiry(invite: InviteRow) -> Timestamp | None:
    return None if invite.expires_at is None else Timestamp.at(invite.expires_at)


def _audited(invite: InviteRow) -> _Audited:
    return _Audited(
        code=invite.code,
        channel_id=invite.channel.id,
        inviter_id=invite.inviter.id,
        max_age=invite.max_age,
        max_uses=invite.max_uses,
        temporary=invite.temporary,
    )
