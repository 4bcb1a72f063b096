"""The rules of the installation: its one first administrator, instance roles, who may register."""

from collections.abc import Callable
from datetime import timedelta
from hmac import compare_digest

from internal.auth.instance import repository
from internal.auth.instance.model import (
    CreateInvite,
    Invite,
    InvitePage,
    NewInvite,
    Registration,
    RoleName,
    Ticket,
)
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    InvalidSetupSecret,
    InvitationRequired,
    LastAdministrator,
    MissingPermissions,
    RegistrationClosed,
    UnknownInvite,
    UnknownUser,
)
from internal.user.model import InstanceRole, UserUpdated
from internal.user.service import UserService
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.token import hash_of, random_code


class InstanceService:
    def __init__(
        self,
        db: Database,
        *,
        users: UserService,
        registration: Registration,
        setup_secret: str,
        clock: Clock,
        new_id: Callable[[], Snowflake],
    ) -> None:
        self._db = db
        self._users = users
        self._registration = registration
        self._setup_secret = setup_secret
        self._clock = clock
        self._new_id = new_id

    async def setup_secret(self) -> str | None:
        """Tell the secret that makes an account the first administrator; None once it is used."""
        async with self._db.read() as conn:
            return None if await repository.is_claimed(conn) else self._setup_secret

    async def refuse_early(self, ticket: Ticket) -> None:
        """Refuse who can't be admitted, before anything is done for them.

        What is done costs a hash, and who is not invited would learn from it whose names are taken.
        """
        self._require_ticket(ticket)
        if ticket.setup_secret is None and self._registration == "invite":
            code_hash = hash_of(ticket.invite or "")
            async with self._db.read() as conn:
                is_open = await repository.invite_is_open(conn, code_hash, self._clock.now())
            if not is_open:
                raise UnknownInvite

    async def admit(self, tx: Transaction, user_id: Snowflake, ticket: Ticket) -> None:
        """Use up what a new account has shown. The setup secret opens a closed server, too."""
        self._require_ticket(ticket)
        if ticket.setup_secret is not None:
            await self.claim(tx, user_id, ticket.setup_secret)
        elif self._registration == "invite":
            code_hash = hash_of(ticket.invite or "")
            if not await repository.use_invite(tx.conn, code_hash, self._clock.now()):
                raise UnknownInvite

    async def claim(self, tx: Transaction, user_id: Snowflake, secret: str) -> None:
        """Make an account the first administrator. The secret works once."""
        self._check(secret)
        if not await repository.claim(tx.conn, user_id):
            raise InvalidSetupSecret
        await repository.update_role(tx.conn, user_id, InstanceRole.ADMIN)

    async def change_role(
        self, actor_id: Snowflake, target_id: Snowflake, role_name: RoleName
    ) -> None:
        """Give an account another role in the installation. One administrator always remains."""
        role = InstanceRole[role_name.upper()]
        async with self._db.transaction() as tx:
            admins = await repository.lock_admins(tx.conn)
            if actor_id not in admins:
                raise MissingPermissions
            if admins == [target_id] and role is not InstanceRole.ADMIN:
                raise LastAdministrator
            await self._assign(tx, target_id, role)

    async def invite(self, actor_id: Snowflake, invite: CreateInvite) -> NewInvite:
        """Make an invitation to register. Its code is shown now and never again."""
        code = random_code()
        now = self._clock.now()
        expires_at = now + timedelta(seconds=invite.expires_in)
        made = NewInvite(
            id=self._new_id(),
            creator_id=actor_id,
            uses_left=invite.max_uses,
            created_at=Timestamp.at(now),
            expires_at=Timestamp.at(expires_at),
            code=code,
        )
        async with self._db.transaction() as tx:
            await self._require_admin(tx.conn, actor_id)
            await repository.insert_invite(tx.conn, made, hash_of(code), (now, expires_at))
        return made

    async def invites(self, actor_id: Snowflake, page: InvitePage) -> list[Invite]:
        async with self._db.read() as conn:
            await self._require_admin(conn, actor_id)
            return await repository.invites_newest_first(conn, page.before, page.limit)

    async def withdraw(self, actor_id: Snowflake, invite_id: Snowflake) -> None:
        """Take an invitation back. Who has registered by it stays."""
        async with self._db.transaction() as tx:
            await self._require_admin(tx.conn, actor_id)
            was_there = await repository.delete_invite(tx.conn, invite_id)
        if not was_there:
            raise UnknownInvite

    async def _assign(self, tx: Transaction, target_id: Snowflake, role: InstanceRole) -> None:
        if await repository.update_role(tx.conn, target_id, role):
            user = await self._users.own(tx.conn, target_id)
            tx.emit(UserUpdated(user=user))
        elif await repository.find_role(tx.conn, target_id) is None:
            raise UnknownUser

    def _require_ticket(self, ticket: Ticket) -> None:
        if ticket.setup_secret is not None:
            self._check(ticket.setup_secret)
        elif self._registration == "closed":
            raise RegistrationClosed
        elif self._registration == "invite" and ticket.invite is None:
            raise InvitationRequired

    def _check(self, secret: str) -> None:
        if not compare_digest(secret.encode(), self._setup_secret.encode()):
            raise InvalidSetupSecret

    async def _require_admin(self, conn: Conn, user_id: Snowflake) -> None:
        if await repository.find_role(conn, user_id) is not InstanceRole.ADMIN:
            raise MissingPermissions
