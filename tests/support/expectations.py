"""What each route of the table needs, and what it is about: the expectations of the matrix.

A route that is new has to be told of here; a test fails until it is.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from internal.permission.model import NOTHING, Permission
from internal.routes.catalogue import routes
from tests.support import things
from tests.support.matrix import (
    FORBIDDEN,
    NO_CHANNEL,
    NO_INVITE,
    NOBODY,
    Actor,
    Expectation,
    Kind,
    Outcome,
)

NO_MEMBER: Final[Outcome] = (404, 10007)
NO_MESSAGE: Final[Outcome] = (404, 10008)
NO_ROLE: Final[Outcome] = (404, 10011)
NO_USER: Final[Outcome] = (404, 10013)
NO_SESSION: Final[Outcome] = (404, 10020)
NO_BAN: Final[Outcome] = (404, 10026)
BANNED: Final[Outcome] = (403, 40007)
NOT_THE_AUTHOR: Final[Outcome] = (403, 50005)
OWNER_STAYS: Final[Outcome] = (400, 50055)
BAD_BODY: Final[Outcome] = (400, 50035)

NO_RULE: Final[Outcome] = (404, 90040)
NO_REPORT: Final[Outcome] = (404, 90041)
NO_OVERWRITE: Final[Outcome] = (404, 10009)
NOTHING_THERE: Final[Outcome] = (404, 10000)

Rule = Expectation | tuple[Expectation, ...]


def public(ok: Outcome | None = None, **more: object) -> Expectation:
    """A route for anybody."""
    return _rule(scope="public", ok=ok, **more)


def account(ok: Outcome | None = None, **more: object) -> Expectation:
    """A route for whoever is signed in."""
    return _rule(scope="account", ok=ok, **more)


def owned(target: str, unknown: Outcome, **more: object) -> Expectation:
    """A route to a thing of an account, which is there for nobody else."""
    return _rule(scope="owned", target=target, unknown=unknown, **more)


def guild(needs: int = NOTHING, **more: object) -> Expectation:
    """A route of a guild, which is not there for strangers."""
    return _rule(**{"scope": "guild", "needs": needs, "target": "guild_id", **more})


def channel(needs: int = Permission.VIEW_CHANNEL, **more: object) -> Expectation:
    """A route of a channel, which is not there for those who can't see it."""
    hidden = frozenset({Actor.UNSEEING})
    words = {"scope": "channel", "needs": needs, "target": "channel_id", "hides_from": hidden}
    return _rule(**{**words, **more})


def _rule(**words: object) -> Expectation:
    return Expectation(**words)  # type: ignore[arg-type]  # each word is checked where it is used


def thread(needs: int = Permission.VIEW_CHANNEL, **more: object) -> Expectation:
    """A route of a thread that everyone sees who sees its channel."""
    return channel(needs, **{**more, "things": {"channel_id": "thread", **_told(more)}})


def private_thread(needs: int = Permission.VIEW_CHANNEL, **more: object) -> Expectation:
    """A route of a private thread: of others, only moderators know of it."""
    hidden = frozenset({Actor.UNSEEING, Actor.MEMBER})
    named = {"channel_id": "private thread", **_told(more)}
    return channel(needs, **{**more, "hides_from": hidden, "things": named})


def group(needs: int = NOTHING, **more: object) -> Expectation:
    """A route of a group, which is not there for who is not in it."""
    return channel(needs, **{**more, "things": {"channel_id": "group", **_told(more)}})


def _told(more: dict[str, object]) -> dict[str, str]:
    found = more.get("things", {})
    assert isinstance(found, dict)
    return found


# Whatever an expectation names can be made.
THINGS: Final = things.THINGS
P = Permission
_PRUNE: Final = P.KICK_MEMBERS | P.MANAGE_GUILD
_BAN_MANY: Final = P.BAN_MEMBERS | P.MANAGE_GUILD
_READ: Final = P.VIEW_CHANNEL | P.READ_MESSAGE_HISTORY
_TOMORROW: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()

_ACCOUNTS: Final[dict[str, Rule]] = {
    "POST /auth/register": public(BAD_BODY, body={}),
    "POST /auth/login": public((401, 40011), body={"email": "a@example.org", "password": "x"}),
    "POST /auth/refresh": public(NOBODY, body={"refresh_token": "x"}),
    "POST /auth/logout": account(),
    "GET /auth/sessions": account(),
    "DELETE /auth/sessions/{session_id}": owned(
        "session_id", NO_SESSION, things={"session_id": "session"}
    ),
    "POST /auth/password": account(BAD_BODY, body={"password": "x", "new_password": "long enough"}),
    "POST /auth/setup": account((403, 40014), body={"secret": "x"}),
    # Owning a guild makes nobody an administrator of the server.
    "POST /auth/invites": account(FORBIDDEN, body={}),
    "GET /auth/invites": account(FORBIDDEN),
    "DELETE /auth/invites/{invite_id}": account(
        FORBIDDEN,
        target="invite_id",
        unknown=FORBIDDEN,
        things={"invite_id": "registration invite"},
    ),
    "PUT /admin/users/{user_id}/role": account(
        FORBIDDEN,
        target="user_id",
        unknown=FORBIDDEN,
        things={"user_id": "user"},
        body={"role": "admin"},
    ),
    "GET /users/@me": account(),
    "PATCH /users/@me": account(body={"bio": "here"}),
    "GET /users/{user_id}": account(target="user_id", unknown=NO_USER, things={"user_id": "user"}),
    "GET /users/@me/mentions": account(),
}

_GUILDS: Final[dict[str, Rule]] = {
    "POST /guilds": account(body={"name": "Another"}),
    "GET /guilds": account(),
    "GET /guilds/my": account(),
    "GET /guilds/{guild_id}": guild(),
    "GET /guilds/{guild_id}/preview": guild(),
    "GET /icons/{guild_id}/{icon}": public(NOTHING_THERE),
    "PATCH /guilds/{guild_id}": (
        guild(P.MANAGE_GUILD, body={"name": "Renamed"}),
        guild(for_owner=True, target="user_id", unknown=NO_MEMBER, body={"owner_id": "{user_id}"}),
        guild(
            P.MANAGE_GUILD,
            target="channel_id",
            unknown=NO_CHANNEL,
            body={"system_channel_id": "{channel_id}"},
        ),
        guild(
            P.MANAGE_GUILD,
            target="channel_id",
            unknown=NO_CHANNEL,
            body={"rules_channel_id": "{channel_id}"},
        ),
    ),
    "DELETE /guilds/{guild_id}": guild(for_owner=True),
    # The guild is no public one.
    "POST /guilds/{guild_id}/join": guild(),
    "POST /guilds/{guild_id}/leave": guild(but={Actor.OWNER: OWNER_STAYS}),
    "DELETE /users/@me/guilds/{guild_id}": guild(but={Actor.OWNER: OWNER_STAYS}),
    "GET /guilds/{guild_id}/bans": guild(P.BAN_MEMBERS),
    "GET /guilds/{guild_id}/bans/{user_id}": guild(
        P.BAN_MEMBERS, target="user_id", unknown=NO_BAN, things={"user_id": "ban"}
    ),
    # Who is no member can be banned as well.
    "PUT /guilds/{guild_id}/bans/{user_id}": guild(
        P.BAN_MEMBERS,
        target="user_id",
        unknown=204,
        unknown_as={Kind.NONEXISTENT: NO_USER},
        body={},
    ),
    "DELETE /guilds/{guild_id}/bans/{user_id}": guild(
        P.BAN_MEMBERS, target="user_id", unknown=NO_BAN, things={"user_id": "ban"}
    ),
    "POST /guilds/{guild_id}/bulk-ban": guild(
        _BAN_MANY,
        target="user_id",
        unknown=200,
        unknown_as={Kind.NONEXISTENT: (400, 500000)},
        body={"user_ids": ["{user_id}"]},
    ),
    "GET /guilds/{guild_id}/audit-logs": guild(P.VIEW_AUDIT_LOG),
}

_ROLES: Final[dict[str, Rule]] = {
    "GET /guilds/{guild_id}/roles": guild(),
    "POST /guilds/{guild_id}/roles": guild(P.MANAGE_ROLES, body={"name": "herald"}),
    "PATCH /guilds/{guild_id}/roles": guild(
        P.MANAGE_ROLES,
        target="role_id",
        unknown=NO_ROLE,
        body=[{"id": "{role_id}", "position": 2}],
    ),
    "GET /guilds/{guild_id}/roles/member-counts": guild(),
    "GET /guilds/{guild_id}/roles/{role_id}": guild(target="role_id", unknown=NO_ROLE),
    "PATCH /guilds/{guild_id}/roles/{role_id}": guild(
        P.MANAGE_ROLES, target="role_id", unknown=NO_ROLE, body={"name": "herald"}
    ),
    "DELETE /guilds/{guild_id}/roles/{role_id}": guild(
        P.MANAGE_ROLES, target="role_id", unknown=NO_ROLE
    ),
}

_MEMBERS: Final[dict[str, Rule]] = {
    "GET /guilds/{guild_id}/members": guild(),
    "GET /guilds/{guild_id}/members/{user_id}": guild(target="user_id", unknown=NO_MEMBER),
    "GET /guilds/{guild_id}/members/search": guild(query={"query": "m"}),
    "PATCH /guilds/{guild_id}/members/@me": guild(P.CHANGE_NICKNAME, body={"nick": "I"}),
    "PATCH /guilds/{guild_id}/members/{user_id}": (
        guild(P.MANAGE_NICKNAMES, target="user_id", unknown=NO_MEMBER, body={"nick": "You"}),
        guild(
            P.MODERATE_MEMBERS,
            target="user_id",
            unknown=NO_MEMBER,
            body={"communication_disabled_until": _TOMORROW},
        ),
        guild(P.MANAGE_ROLES, target="role_id", unknown=NO_ROLE, body={"roles": ["{role_id}"]}),
    ),
    "DELETE /guilds/{guild_id}/members/{user_id}": guild(
        P.KICK_MEMBERS, target="user_id", unknown=NO_MEMBER
    ),
    "PUT /guilds/{guild_id}/members/{user_id}/roles/{role_id}": (
        guild(P.MANAGE_ROLES, target="role_id", unknown=NO_ROLE),
        guild(P.MANAGE_ROLES, target="user_id", unknown=NO_MEMBER),
    ),
    "DELETE /guilds/{guild_id}/members/{user_id}/roles/{role_id}": (
        guild(P.MANAGE_ROLES, target="role_id", unknown=NO_ROLE),
        guild(P.MANAGE_ROLES, target="user_id", unknown=NO_MEMBER),
    ),
    "POST /guilds/{guild_id}/members/roles": (
        guild(
            P.MANAGE_ROLES,
            target="role_id",
            unknown=NO_ROLE,
            body={"user_ids": ["{user_id}"], "add_role_ids": ["{role_id}"]},
        ),
        guild(
            P.MANAGE_ROLES,
            target="user_id",
            unknown=NO_MEMBER,
            body={"user_ids": ["{user_id}"], "remove_role_ids": ["{role_id}"]},
        ),
    ),
    "GET /guilds/{guild_id}/prune": (
        guild(_PRUNE),
        guild(_PRUNE, target="role_id", unknown=NO_ROLE, query={"include_roles": "{role_id}"}),
    ),
    "POST /guilds/{guild_id}/prune": (
        guild(_PRUNE, body={"days": 7}),
        guild(_PRUNE, target="role_id", unknown=NO_ROLE, body={"include_roles": ["{role_id}"]}),
    ),
}

_CHANNELS: Final[dict[str, Rule]] = {
    "POST /channels": (
        guild(P.MANAGE_CHANNELS, body={"guild_id": "{guild_id}", "name": "hall"}),
        guild(
            P.MANAGE_CHANNELS,
            target="category",
            unknown=BAD_BODY,
            looks_first=True,
            body={"guild_id": "{guild_id}", "name": "hall", "parent_id": "{category}"},
        ),
        guild(
            P.MANAGE_CHANNELS | P.MANAGE_ROLES,
            target="role_id",
            unknown=NO_ROLE,
            body={
                "guild_id": "{guild_id}",
                "name": "hall",
                "permission_overwrites": [{"id": "{role_id}", "type": 0, "deny": "2048"}],
            },
        ),
    ),
    "GET /channels/guild/{guild_id}": guild(),
    "PATCH /guilds/{guild_id}/channels": guild(
        P.MANAGE_CHANNELS,
        target="channel_id",
        unknown=NO_CHANNEL,
        unseen=NO_CHANNEL,
        looks_first=True,
        body=[{"id": "{channel_id}", "position": 7}],
    ),
    "GET /channels/{channel_id}": (channel(), thread(), private_thread(), group()),
    "PATCH /channels/{channel_id}": (
        channel(P.MANAGE_CHANNELS, body={"name": "hall"}),
        channel(
            P.MANAGE_CHANNELS,
            target="category",
            unknown=BAD_BODY,
            body={"parent_id": "{category}"},
        ),
        channel(
            P.MANAGE_CHANNELS | P.MANAGE_ROLES,
            target="role_id",
            unknown=NO_ROLE,
            body={"permission_overwrites": [{"id": "{role_id}", "type": 0, "deny": "2048"}]},
        ),
        thread(P.MANAGE_THREADS, body={"name": "yarn"}),
        private_thread(body={"name": "yarn"}),
        group(body={"name": "we"}),
    ),
    "DELETE /channels/{channel_id}": (
        channel(P.MANAGE_CHANNELS),
        thread(P.MANAGE_THREADS),
        private_thread(),
        group(),
    ),
    "PUT /channels/{channel_id}/permissions/{target_id}": channel(
        P.MANAGE_ROLES,
        target="target_id",
        unknown=NO_ROLE,
        things={"target_id": "role"},
        body={"type": 0, "allow": "0", "deny": "2048"},
    ),
    "DELETE /channels/{channel_id}/permissions/{target_id}": channel(
        P.MANAGE_ROLES, target="target_id", unknown=NO_OVERWRITE, things={"target_id": "overwrite"}
    ),
    "POST /users/@me/channels": account(
        target="user_id",
        unknown=NO_USER,
        things={"user_id": "user"},
        body={"recipient_id": "{user_id}"},
    ),
    "GET /users/@me/channels": account(),
    "POST /channels/{channel_id}/typing": (channel(P.SEND_MESSAGES), thread(), group()),
    "PUT /channels/{channel_id}/recipients/{user_id}": group(
        target="user_id",
        unknown=NO_USER,
        # Accounts are of no guild.
        unknown_as={Kind.OTHER_PARENT: 204},
        things={"user_id": "newcomer"},
    ),
    "DELETE /channels/{channel_id}/recipients/{user_id}": group(
        for_owner=True, target="user_id", unknown=204
    ),
}

_THREADS: Final[dict[str, Rule]] = {
    "POST /channels/{channel_id}/messages/{message_id}/threads": channel(
        P.CREATE_PUBLIC_THREADS | _READ,
        target="message_id",
        unknown=NO_MESSAGE,
        body={"name": "yarn"},
    ),
    "POST /channels/{channel_id}/threads": (
        channel(P.CREATE_PUBLIC_THREADS, body={"name": "yarn", "type": 11}),
        channel(P.CREATE_PRIVATE_THREADS, body={"name": "yarn", "type": 12}),
    ),
    "GET /channels/{channel_id}/threads/archived/public": channel(_READ),
    "GET /channels/{channel_id}/threads/archived/private": channel(_READ | P.MANAGE_THREADS),
    "GET /channels/{channel_id}/users/@me/threads/archived/private": channel(_READ),
    "GET /guilds/{guild_id}/threads/active": guild(),
    "GET /channels/{channel_id}/thread-members": (thread(), private_thread()),
    "PUT /channels/{channel_id}/thread-members/@me": (thread(), private_thread()),
    "DELETE /channels/{channel_id}/thread-members/@me": (thread(), private_thread()),
    "GET /channels/{channel_id}/thread-members/{user_id}": (
        thread(target="user_id", unknown=NO_MEMBER),
        private_thread(target="user_id", unknown=NO_MEMBER),
    ),
    "PUT /channels/{channel_id}/thread-members/{user_id}": thread(
        target="user_id", unknown=NO_MEMBER, things={"user_id": "ruler"}
    ),
    # Who is not in it stays out.
    "DELETE /channels/{channel_id}/thread-members/{user_id}": thread(
        P.MANAGE_THREADS, target="user_id", unknown=204
    ),
}

_MESSAGES: Final[dict[str, Rule]] = {
    "POST /messages": (
        channel(P.SEND_MESSAGES, body={"channel_id": "{channel_id}", "content": "hello"}),
        thread(body={"channel_id": "{channel_id}", "content": "hello"}),
        private_thread(body={"channel_id": "{channel_id}", "content": "hello"}),
        group(body={"channel_id": "{channel_id}", "content": "hello"}),
    ),
    "GET /messages/channel/{channel_id}": (
        channel(P.READ_MESSAGE_HISTORY),
        thread(),
        private_thread(),
        group(),
    ),
    "GET /messages/{channel_id}/{message_id}": channel(
        P.READ_MESSAGE_HISTORY, target="message_id", unknown=NO_MESSAGE
    ),
    "PATCH /messages/{channel_id}/{message_id}": channel(
        target="message_id",
        unknown=NO_MESSAGE,
        things={"message_id": "message of a member"},
        ok=NOT_THE_AUTHOR,
        but={Actor.MEMBER: 200},
        body={"content": "new"},
    ),
    "DELETE /messages/{channel_id}/{message_id}": (
        channel(P.MANAGE_MESSAGES, target="message_id", unknown=NO_MESSAGE, looks_first=True),
        channel(
            target="message_id",
            unknown=NO_MESSAGE,
            things={"message_id": "message of a member"},
        ),
    ),
    # Ids of other channels are passed over.
    "POST /messages/{channel_id}/bulk-delete": channel(
        P.MANAGE_MESSAGES,
        target="message_id",
        unknown=204,
        body={"messages": ["{message_id}"]},
    ),
}

_INVITES: Final[dict[str, Rule]] = {
    "POST /channels/{channel_id}/invites": channel(P.CREATE_INSTANT_INVITE, body={}),
    "GET /channels/{channel_id}/invites": channel(P.MANAGE_CHANNELS),
    "GET /guilds/{guild_id}/invites": guild(P.MANAGE_GUILD),
    "GET /invites/{code}": public(),
    "POST /invites/{code}": account(target="code", unknown=NO_INVITE, but={Actor.BANNED: BANNED}),
    # Whoever has the code knows that it is there.
    "DELETE /invites/{code}": _rule(
        scope="invite", needs=P.MANAGE_GUILD, target="code", stranger=FORBIDDEN
    ),
}

_REPORTS: Final[dict[str, Rule]] = {
    "POST /channels/{channel_id}/messages/{message_id}/report": (
        channel(_READ, target="message_id", unknown=NO_MESSAGE, body={"reason": "rude"}),
    ),
    "GET /guilds/{guild_id}/reports": guild(P.MANAGE_MESSAGES),
    "PATCH /guilds/{guild_id}/reports/{report_id}": guild(
        P.MANAGE_MESSAGES,
        target="report_id",
        unknown=NO_REPORT,
        things={"report_id": "report"},
        body={"status": "dismissed"},
    ),
}

_RULES_OF: Final = "/guilds/{guild_id}/auto-moderation/rules"
_RULE: Final[dict[str, object]] = {
    "name": "no foxes",
    "event_type": 1,
    "trigger_type": 1,
    "trigger_metadata": {"keyword_filter": ["fox"]},
    "actions": [{"type": 1}],
}
_AUTOMOD: Final[dict[str, Rule]] = {
    f"GET {_RULES_OF}": guild(P.MANAGE_GUILD),
    f"POST {_RULES_OF}": (
        guild(P.MANAGE_GUILD, body=_RULE),
        guild(
            P.MANAGE_GUILD,
            target="role_id",
            unknown=BAD_BODY,
            body={**_RULE, "exempt_roles": ["{role_id}"]},
        ),
        guild(
            P.MANAGE_GUILD,
            target="channel_id",
            unknown=BAD_BODY,
            body={**_RULE, "exempt_channels": ["{channel_id}"]},
        ),
        guild(
            P.MANAGE_GUILD,
            target="channel_id",
            unknown=BAD_BODY,
            body={**_RULE, "actions": [{"type": 2, "metadata": {"channel_id": "{channel_id}"}}]},
        ),
    ),
    f"GET {_RULES_OF}/{{rule_id}}": guild(
        P.MANAGE_GUILD, target="rule_id", unknown=NO_RULE, things={"rule_id": "rule"}
    ),
    f"PATCH {_RULES_OF}/{{rule_id}}": guild(
        P.MANAGE_GUILD,
        target="rule_id",
        unknown=NO_RULE,
        things={"rule_id": "rule"},
        body={"enabled": False},
    ),
    f"DELETE {_RULES_OF}/{{rule_id}}": guild(
        P.MANAGE_GUILD, target="rule_id", unknown=NO_RULE, things={"rule_id": "rule"}
    ),
}

# By the operation's own path. The things are those of things.py: messages and threads are somebody
# else's, and the member whom something is done to stands below the moderators.
RULES: Final[dict[str, Rule]] = {
    **_ACCOUNTS,
    **_GUILDS,
    **_ROLES,
    **_MEMBERS,
    **_CHANNELS,
    "GET /channels/{channel_id}/permissions/{target_id}": channel(
        P.MANAGE_ROLES,
        needs_alone=P.VIEW_CHANNEL,
        target="target_id",
        unknown=NO_MEMBER,
        things={"target_id": "member"},
    ),
    **_INVITES,
    **_THREADS,
    **_MESSAGES,
    **_REPORTS,
    **_AUTOMOD,
    "GET /gateway": public((426, 90005)),
    "GET /live": public(),
    "GET /ready": public(),
}

TABLE: Final = {f"{row.method} {row.paths[0]}": row for row in routes()}


def rules_of(name: str) -> tuple[Expectation, ...]:
    found = RULES[name]
    return found if isinstance(found, tuple) else (found,)
