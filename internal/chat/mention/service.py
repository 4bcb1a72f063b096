"""The rules of mentions: whom a content names, who of them is reached, and what reached one."""

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from internal.channel.model import ChannelAccess
from internal.channel.service import ChannelService
from internal.chat.mention import repository
from internal.chat.mention.model import (
    MAX_MENTIONS,
    NOBODY,
    AllowedMentions,
    Mention,
    MentionedUser,
    MentionPage,
    Mentions,
    Named,
)
from internal.db.postgres import Conn
from internal.permission.model import Permission, allows
from internal.utils.snowflake import MAX_SNOWFLAKE, Snowflake
from internal.utils.validator import field_error

# What is code is shown as it stands, and mentions nobody.
_MENTION: Final = re.compile(
    r"```.*?```|``.*?``|`[^`]+`"
    r"|<@!?(?P<user>\d{1,19})>|<@&(?P<role>\d{1,19})>|(?<!\w)@(?P<all>everyone|here)\b",
    re.ASCII | re.DOTALL,
)
_MENTION_EVERYONE: Final = int(Permission.MENTION_EVERYONE)
_READ: Final = int(Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY)
# Mentions in channels that one can't read any more are passed over, in so many steps at most.
_STEPS: Final = 50
_AT_LEAST: Final = 50

# A content's names, and the access of who says them.
Wish: TypeAlias = tuple[Named, ChannelAccess]


def named(content: str, allowed: AllowedMentions | None) -> Named:
    """Whom a content names, as far as the sender allows; a 400 for wishes that are none."""
    if allowed is not None:
        _check(allowed)
    users: dict[Snowflake, None] = {}
    roles: dict[Snowflake, None] = {}
    everyone = False
    for found in _MENTION.finditer(content):
        if (user := found["user"]) is not None and int(user) <= MAX_SNOWFLAKE:
            users[Snowflake(int(user))] = None
        elif (role := found["role"]) is not None and int(role) <= MAX_SNOWFLAKE:
            roles[Snowflake(int(role))] = None
        elif found["all"] is not None:
            everyone = True
    if allowed is not None:
        parse = allowed.parse or ()
        users = _let_through(users, allowed.users, everybody="users" in parse)
        roles = _let_through(roles, allowed.roles, everybody="roles" in parse)
        everyone = everyone and "everyone" in parse
    return Named(tuple(users)[:MAX_MENTIONS], tuple(roles)[:MAX_MENTIONS], everyone)


class MentionService:
    def __init__(self, channels: ChannelService) -> None:
        self._channels = channels

    async def resolve(self, conn: Conn, wishes: Sequence[Wish]) -> list[Mentions]:
        """Whom each of the contents reaches. Two statements at most, and none for nobody.

        Accounts need only be there. Roles have to be of the guild, and open to mentions unless
        the author may mention everyone.
        """
        people = {(_guild(access), one): None for wish, access in wishes for one in wish.users}
        users = await repository.users_of(conn, list(people)) if people else {}
        groups = {
            (_guild(access), one): None
            for wish, access in wishes
            if access.guild_id is not None
            for one in wish.roles
        }
        roles = await repository.roles_of(conn, list(groups)) if groups else {}
        return [_reached(wish, access, users, roles) for wish, access in wishes]

    async def note(self, conn: Conn, mentions: Sequence[Mention]) -> None:
        """Keep whom messages that were just stored mention. One statement, or none."""
        some = [mention for mention in mentions if not mention.mentions.is_nobody]
        if some:
            await repository.insert_all(conn, some)

    async def change(self, conn: Conn, mention: Mention) -> None:
        """Keep whom a message mentions since it was edited."""
        await repository.delete(conn, mention.channel_id, mention.message_id)
        await self.note(conn, [mention])

    async def reaching(
        self, conn: Conn, actor: Snowflake, page: MentionPage
    ) -> list[tuple[repository.Place, ChannelAccess]]:
        """Where the actor was mentioned, newest first: what the actor may read now, and no more.

        Worked out from the memberships, roles and permissions of this moment.
        """
        found: list[tuple[repository.Place, ChannelAccess]] = []
        accesses: dict[Snowflake, ChannelAccess | None] = {}
        before = page.before
        at_once = max(2 * page.limit, _AT_LEAST)
        for _ in range(_STEPS):
            hidden = [channel_id for channel_id, access in accesses.items() if access is None]
            places = await repository.reaching(
                conn, actor, page, before=before, hidden=hidden, limit=at_once
            )
            await self._look(conn, actor, places, accesses)
            found += [
                (place, access) for place in places if (access := accesses[place[0]]) is not None
            ]
            if len(found) >= page.limit or len(places) < at_once:
                break
            before = places[-1][1]
        return found[: page.limit]

    async def _look(
        self,
        conn: Conn,
        actor: Snowflake,
        places: Sequence[repository.Place],
        accesses: dict[Snowflake, ChannelAccess | None],
    ) -> None:
        """Add what the actor may do in the channels that were not looked at yet; None to hide."""
        new = {channel_id: None for channel_id, _ in places if channel_id not in accesses}
        if not new:
            return
        pairs = [(actor, channel_id) for channel_id in new]
        known = await self._channels.access_of(conn, pairs)
        for pair in pairs:
            access = known.get(pair)
            may_read = access is not None and allows(access.permissions, _READ)
            accesses[pair[1]] = access if may_read else None


def _check(allowed: AllowedMentions) -> None:
    """Refuse what contradicts itself, in the documented words."""
    lists = (("parse", allowed.parse), ("users", allowed.users), ("roles", allowed.roles))
    for name, values in lists:
        if values is not None and len(set(values)) != len(values):
            raise field_error(
                f"allowed_mentions.{name}",
                "The values must be unique",
                "SET_TYPE_ALREADY_CONTAINS_VALUE",
            )
    for name, values in lists[1:]:
        if values and name in (allowed.parse or ()):
            raise field_error(
                "allowed_mentions",
                f'parse:["{name}"] and {name}: [ids...] are mutually exclusive.',
                "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE",
            )


def _let_through(
    ids: dict[Snowflake, None], listed: Sequence[Snowflake | None] | None, *, everybody: bool
) -> dict[Snowflake, None]:
    if everybody:
        return ids
    allowed = set(listed or ())
    return {one: None for one in ids if one in allowed}


def _guild(access: ChannelAccess) -> int:
    return 0 if access.guild_id is None else access.guild_id


def _reached(
    wish: Named,
    access: ChannelAccess,
    users: dict[repository.Key, MentionedUser],
    roles: dict[repository.Key, bool],
) -> Mentions:
    if wish.is_nobody:
        return NOBODY
    guild = _guild(access)
    may_all = allows(access.permissions, _MENTION_EVERYONE)
    return Mentions(
        tuple(users[guild, one] for one in wish.users if (guild, one) in users),
        tuple(
            one
            for one in wish.roles
            if (is_open := roles.get((guild, one))) is not None and (is_open or may_all)
        ),
        wish.everyone and may_all,
    )
