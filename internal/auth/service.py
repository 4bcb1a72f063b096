"""The rules of accounts: register, sign in, stay signed in, change the password."""

from collections.abc import Callable

import asyncpg

from internal.auth import repository
from internal.auth.instance.model import Ticket
from internal.auth.instance.service import InstanceService
from internal.auth.model import Account, ChangePassword, Login, Register, SignedIn
from internal.auth.session.model import Client, Pair
from internal.auth.session.service import SessionService
from internal.db.postgres import Conn, Database
from internal.errors import InvalidCredentials
from internal.user.model import OwnUser, UserUpdated
from internal.user.service import UserService, taken, wrong_password
from internal.utils.actor import Actor
from internal.utils.password import Passwords
from internal.utils.snowflake import Snowflake
from internal.utils.validator import field_error


class AuthService:
    def __init__(
        self,
        db: Database,
        *,
        users: UserService,
        sessions: SessionService,
        instance: InstanceService,
        passwords: Passwords,
        new_id: Callable[[], Snowflake],
    ) -> None:
        self._db = db
        self._users = users
        self._sessions = sessions
        self._instance = instance
        self._passwords = passwords
        self._new_id = new_id

    async def register(self, body: Register, client: Client) -> SignedIn:
        """Make an account and sign in."""
        ticket = Ticket(invite=body.invite, setup_secret=body.setup_secret)
        await self._instance.refuse_early(ticket)
        password_hash = await self._passwords.hash(body.password)
        account = Account(self._new_id(), password_hash)
        try:
            async with self._db.transaction() as tx:
                await repository.insert(tx.conn, account, body)
                await self._instance.admit(tx, account.id, ticket)
                pair = await self._sessions.open(tx, account.id, client)
                user = await self._users.own(tx.conn, account.id)
        except asyncpg.UniqueViolationError as fault:
            raise taken(fault) from None
        return _signed_in(user, pair)

    async def login(self, body: Login, client: Client) -> SignedIn:
        """Sign in. What was wrong, and whether there is such an account, is never told."""
        account = await self._attempt(body, client)
        known = account.password_hash if account else None
        if not await self._passwords.verify(body.password, known) or account is None:
            raise InvalidCredentials
        renewed = account
        if self._passwords.is_outdated(account.password_hash):
            renewed = Account(account.id, await self._passwords.hash(body.password))
        async with self._db.transaction() as tx:
            # A change of the password that was committed meanwhile has ended all sessions; the
            # old password must not open another.
            if await repository.lock(tx.conn, account.id) != account.password_hash:
                raise InvalidCredentials
            if renewed is not account:
                await repository.update_password(tx.conn, renewed)
            pair = await self._sessions.open(tx, account.id, client)
            user = await self._users.own(tx.conn, account.id)
        self._sessions.settle(tx)
        return _signed_in(user, pair)

    async def refresh(self, refresh_token: str, client: Client) -> SignedIn:
        """Give the next pair of tokens."""
        pair = await self._sessions.refresh(refresh_token, client)
        return _signed_in(await self._users.me(pair.user_id), pair)

    async def change_password(self, actor: Actor, body: ChangePassword, client: Client) -> SignedIn:
        """Change the password. All sessions end; who changed it gets a new one."""
        proof = await self._users.confirm(actor.user_id, body.password)
        account = Account(actor.user_id, await self._passwords.hash(body.new_password))
        async with self._db.transaction() as tx:
            if await repository.lock(tx.conn, account.id) != proof:
                raise wrong_password()
            await repository.update_password(tx.conn, account)
            await self._sessions.end_all(tx, actor)
            pair = await self._sessions.open(tx, account.id, client)
            user = await self._users.own(tx.conn, account.id)
        self._sessions.settle(tx)
        return _signed_in(user, pair)

    async def setup(self, actor: Actor, secret: str, client: Client) -> SignedIn:
        """Make the account the first administrator, in a new session: it may more than before."""
        async with self._db.transaction() as tx:
            await self._instance.claim(tx, actor.user_id, secret)
            await self._sessions.end_in(tx, actor)
            pair = await self._sessions.open(tx, actor.user_id, client)
            user = await self._users.own(tx.conn, actor.user_id)
            tx.emit(UserUpdated(user=user))
        self._sessions.settle(tx)
        return _signed_in(user, pair)

    async def _attempt(self, body: Login, client: Client) -> Account | None:
        """Find the account that is meant; SlowDown after too many attempts at it."""
        name = (body.email or body.username or "").lower()
        if not name:
            raise field_error("email", "This field is required", "BASE_TYPE_REQUIRED")
        async with self._db.read() as conn:
            account = await self._find(conn, name, is_email=bool(body.email))
            user_id = account.id if account else None
            # An address given as a name is no attempt at the account with that address.
            kind = "email" if body.email else "username"
            await self._sessions.attempt(conn, user_id, f"{kind}:{name}", client)
        return account

    async def _find(self, conn: Conn, name: str, *, is_email: bool) -> Account | None:
        if is_email:
            return await repository.find_by_email(conn, name)
        return await repository.find_by_username(conn, name)


def _signed_in(user: OwnUser, pair: Pair) -> SignedIn:
    return SignedIn(
        user=user,
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
        expires_in=pair.expires_in,
        session_id=pair.session_id,
    )
