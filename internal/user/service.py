"""The rules of profiles: who sees what of an account, and how its owner changes it."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import asyncpg
import msgspec

from internal.db.postgres import Conn, Database, Transaction
from internal.errors import InvalidFormBody, Unauthorized, UnknownUser
from internal.eventlog.freshness import FreshCache
from internal.user import repository
from internal.user.model import ChangeUser, OwnUser, User, UserUpdated
from internal.utils.bucket import Limiter, Rate, take_or_refuse
from internal.utils.password import Passwords
from internal.utils.snowflake import Snowflake
from internal.utils.validator import field_error

# Whoever holds somebody's access token may guess the password only so often.
_GUESSES: Final = Rate(10, 1 / 30, guards_secrets=True)
_TAKEN: Final = {
    "users_username_key": ("username", "This name is taken", "USERNAME_ALREADY_TAKEN"),
    "users_email_key": ("email", "This address has an account", "EMAIL_ALREADY_REGISTERED"),
}


class UserService:
    def __init__(
        self,
        db: Database,
        *,
        passwords: Passwords,
        limiter: Limiter,
        hold: Callable[[Snowflake], AbstractAsyncContextManager[Transaction]],
        announce: Callable[[Transaction, Snowflake], Awaitable[None]],
        shared: FreshCache[User],
    ) -> None:
        """`announce` tells the guilds of a user that the profile changed.

        `hold` begins the transaction and takes what `announce` needs to be in order with those
        who join these guilds meanwhile (lock order: guild before user).
        """
        self._db = db
        self._passwords = passwords
        self._limiter = limiter
        self._hold = hold
        self._announce = announce
        self._shared = shared

    async def find(self, user_id: Snowflake) -> User:
        """Show an account to anyone who is signed in."""
        user = await self._shared.find(user_id, user_id)
        if user is not None:
            return user
        async with self._db.read() as conn:
            found = await repository.find_as_of(conn, user_id)
        if found is None:
            raise UnknownUser
        user, as_of = found
        await self._shared.keep(user_id, as_of, user)
        return user

    async def me(self, user_id: Snowflake) -> OwnUser:
        async with self._db.read() as conn:
            return await self.own(conn, user_id)

    async def own(self, conn: Conn, user_id: Snowflake) -> OwnUser:
        """Show an account to its owner; Unauthorized once it is gone."""
        user = await repository.find_own(conn, user_id)
        if user is None:
            raise Unauthorized
        return user

    async def change(self, user_id: Snowflake, change: ChangeUser) -> OwnUser:
        """Change one's profile. What is already so changes nothing and tells nobody."""
        proof = await self._proof(user_id, change)
        since = self._shared.pos
        try:
            async with self._hold(user_id) as tx:
                password_hash = await repository.lock(tx.conn, user_id)
                if proof not in (None, password_hash):  # the password was changed meanwhile
                    raise wrong_password()
                before = await self.own(tx.conn, user_id)
                user = _changed(before, change)
                if user != before:
                    await repository.update(tx.conn, user)
                    tx.emit(UserUpdated(user=user))
                    await self._announce(tx, user_id)
        except asyncpg.UniqueViolationError as fault:
            raise taken(fault) from None
        if user != before:
            # Who asks this node next sees it; other nodes hear by the log.
            self._shared.expect_change(user_id, since)
        return user

    async def confirm(self, user_id: Snowflake, password: str) -> str:
        """Make sure that it is the owner who asks; the hash that the password fits."""
        await take_or_refuse(self._limiter, f"password:{user_id}", _GUESSES)
        async with self._db.read() as conn:
            password_hash = await repository.find_password_hash(conn, user_id)
        if password_hash is None or not await self._passwords.verify(password, password_hash):
            raise wrong_password()
        return password_hash

    async def _proof(self, user_id: Snowflake, change: ChangeUser) -> str | None:
        if change.email is msgspec.UNSET:
            return None
        if change.password is msgspec.UNSET:
            raise field_error("password", "Another address needs the password", "REQUIRED")
        return await self.confirm(user_id, change.password)


def wrong_password() -> InvalidFormBody:
    return field_error("password", "The password is wrong", "PASSWORD_DOES_NOT_MATCH")


def taken(fault: asyncpg.UniqueViolationError) -> Exception:
    """Name the field that somebody else has taken; the fault itself if it is none of these."""
    field = _TAKEN.get(fault.constraint_name or "")
    return field_error(*field) if field else fault


def _changed(user: OwnUser, change: ChangeUser) -> OwnUser:
    given = {
        name: value
        for name in ("username", "global_name", "bio", "email")
        if (value := getattr(change, name)) is not msgspec.UNSET
    }
    for name in given.keys() & {"username", "email"}:
        given[name] = given[name].lower()
    return msgspec.structs.replace(user, **given)
