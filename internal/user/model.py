"""Users: the people with an account, as others and as they themselves see them."""

from enum import IntEnum
from typing import Annotated, ClassVar

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL, ONE_LINE

Username = Annotated[
    str,
    msgspec.Meta(
        min_length=2,
        max_length=32,
        pattern=r"^[A-Za-z0-9_.]{2,32}\Z",
        description="Letters, digits, `_` and `.`; kept in lower case.",
    ),
]
GlobalName = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern=ONE_LINE)]
Bio = Annotated[str, msgspec.Meta(max_length=190, pattern=NO_NUL)]
Email = Annotated[
    str,
    msgspec.Meta(
        max_length=254,
        # Whether an address exists, only a mail to it can tell. Letters of every script may stand
        # in it; no spaces and nothing invisible. And no İ, the one letter that grows in lower case:
        # what is kept is as long as what was checked.
        pattern=r"^(?!.*\u0130)[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]+(\.[\w-]+)*\Z",
        description="Kept in lower case.",
    ),
]
# bcrypt's traps (72 bytes, NUL) are not its: see internal/utils/password.py.
Password = Annotated[
    str, msgspec.Meta(min_length=8, description="Any characters; no longest length of its own.")
]


class ChangeUser(msgspec.Struct, frozen=True, kw_only=True):
    """What one changes about oneself. Another address needs the current password."""

    username: Username | msgspec.UnsetType = msgspec.UNSET
    global_name: GlobalName | msgspec.UnsetType | None = msgspec.UNSET
    bio: Bio | msgspec.UnsetType = msgspec.UNSET
    email: Email | msgspec.UnsetType = msgspec.UNSET
    password: str | msgspec.UnsetType = msgspec.UNSET


class InstanceRole(IntEnum):
    """What an account may do to the installation itself, beside its roles in guilds."""

    NONE = 0
    MODERATOR = 1
    ADMIN = 2

    @property
    def wire(self) -> str:
        return self.name.lower()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account as anyone may see it. Client libraries insist on the constant fields, too."""

    id: Snowflake
    username: str
    global_name: str | None = None
    discriminator: str = "0"
    avatar: str | None = None
    banner: str | None = None
    accent_color: int | None = None
    bot: bool = False
    system: bool = False
    public_flags: int = 0
    flags: int = 0


class OwnUser(User, frozen=True, kw_only=True):
    """An account as its owner sees it."""

    email: str
    bio: str = ""
    verified: bool = False
    mfa_enabled: bool = False
    locale: str = "en-US"
    premium_type: int = 0
    instance_role: str = "none"


class UserUpdated(Event, frozen=True, kw_only=True):
    """An account's own view of itself changed."""

    type: ClassVar[str] = "USER_UPDATE"
    user: OwnUser

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user.id,))

    @override
    def payload(self) -> OwnUser:
        return self.user
