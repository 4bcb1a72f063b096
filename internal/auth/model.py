"""Accounts: how people make one and sign in."""

from typing import Annotated, Literal

import msgspec

from internal.auth.instance.model import Code
from internal.user.model import Email, GlobalName, OwnUser, Password, Username
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

# No shape is asked of a name at login: a wrong one is as unknown as any other.
LoginName = Annotated[str, msgspec.Meta(max_length=320, pattern=NO_NUL)]


class Register(msgspec.Struct, frozen=True, kw_only=True):
    username: Username
    email: Email
    password: Password
    global_name: GlobalName | None = None
    invite: Code | None = None
    setup_secret: Code | None = None


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Either the address or the name says who it is; the address, when both are there."""

    password: str
    email: LoginName | None = None
    username: LoginName | None = None


class ChangePassword(msgspec.Struct, frozen=True):
    password: str
    new_password: Password


class Setup(msgspec.Struct, frozen=True):
    secret: Code


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to whoever has signed in."""

    user: OwnUser
    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  # A word of the protocol.
    expires_in: int
    session_id: Snowflake


class Account(msgspec.Struct, frozen=True):
    """What a login is checked against."""

    id: Snowflake
    password_hash: str
