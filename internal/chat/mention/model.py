"""Mentions: the people, roles and everyone that a message is meant to reach."""

from enum import IntEnum
from typing import Annotated, Final, Literal

import msgspec

from internal.guild.model import PartialMember
from internal.user.model import User
from internal.utils.snowflake import Snowflake

# Of each kind; what a content names beyond that is text.
MAX_MENTIONS: Final = 100

_Ids = Annotated[list[Snowflake | None], msgspec.Meta(max_length=MAX_MENTIONS)]


class Kind(IntEnum):
    """What a mention is of, as it is stored."""

    EVERYONE = 0
    ROLE = 1
    USER = 2


# Requests.


class AllowedMentions(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the mentions in a content count: all of the kinds in `parse`, and these ids."""

    parse: (
        Annotated[
            list[Literal["users", "roles", "everyone"] | None],
            msgspec.Meta(max_length=MAX_MENTIONS),
        ]
        | None
    ) = None
    users: _Ids | None = None
    roles: _Ids | None = None
    replied_user: bool | None = None


class MentionPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the mentions of oneself, newest first."""

    before: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 25
    guild_id: Snowflake | None = None
    # Whether mentions of one's roles and of everyone are among them.
    roles: bool = True
    everyone: bool = True


# Objects.


class MentionedUser(User, frozen=True, kw_only=True):
    """Somebody who is mentioned. Events in guilds add the membership, if there is one."""

    member: PartialMember | msgspec.UnsetType = msgspec.UNSET


class Named(msgspec.Struct, frozen=True):
    """Whom a content names, as far as the sender allows; nothing of it is looked up yet."""

    users: tuple[Snowflake, ...] = ()
    roles: tuple[Snowflake, ...] = ()
    everyone: bool = False

    @property
    def is_nobody(self) -> bool:
        return not (self.users or self.roles or self.everyone)


class Mentions(msgspec.Struct, frozen=True):
    """Whom a message mentions."""

    users: tuple[MentionedUser, ...] = ()
    roles: tuple[Snowflake, ...] = ()
    everyone: bool = False

    @property
    def is_nobody(self) -> bool:
        return not (self.users or self.roles or self.everyone)

    def bare(self) -> "Mentions":
        """Without memberships, as answers tell it."""
        users = (msgspec.structs.replace(one, member=msgspec.UNSET) for one in self.users)
        return Mentions(tuple(users), self.roles, self.everyone)


NOBODY: Final = Mentions()


class Mention(msgspec.Struct, frozen=True, kw_only=True):
    """A message that mentions somebody, as it is stored."""

    channel_id: Snowflake
    message_id: Snowflake
    author_id: Snowflake
    guild_id: Snowflake | None
    mentions: Mentions
