"""Every URL of the server on one screen."""

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any, Final

from internal.auth.handler import AuthHandler
from internal.auth.instance.handler import InstanceHandler
from internal.auth.instance.model import ChangeRole, CreateInvite, Invite, InvitePage, NewInvite
from internal.auth.model import ChangePassword, Login, Register, Setup, SignedIn
from internal.auth.session.handler import SessionHandler
from internal.auth.session.model import LoginSession, RefreshBody
from internal.channel.handler import ChannelHandler
from internal.channel.model import (
    CreateChannel,
    DirectMessage,
    DirectMessagePage,
    OpenDirectMessage,
    UpdateChannel,
)
from internal.chat.message.handler import MessageHandler
from internal.chat.message.model import (
    BulkDelete,
    Message,
    MessagePage,
    SendMessage,
    UpdateMessage,
)
from internal.chat.typing.handler import TypingHandler
from internal.chat.ws.handler import GatewayHandler
from internal.errors import (
    BadBulkDelete,
    BadOrigin,
    CannotMessageUser,
    EmptyMessage,
    HttpError,
    InvalidCredentials,
    InvalidSetupSecret,
    InvitationRequired,
    LastAdministrator,
    MissingPermissions,
    NonceMismatch,
    NotTheAuthor,
    OwnerCannotLeave,
    RegistrationClosed,
    SlowMode,
    TooManyChannels,
    TooManyDirectMessages,
    TooManyGuilds,
    TooManyMembers,
    Unauthorized,
    UnknownChannel,
    UnknownGuild,
    UnknownInvite,
    UnknownMember,
    UnknownMessage,
    UnknownSession,
    UnknownUser,
    UpgradeRequired,
    WrongChannelType,
)
from internal.guild.handler import GuildHandler
from internal.guild.model import (
    CreateGuild,
    GuildChannel,
    GuildDetails,
    GuildPage,
    Member,
    MemberPage,
    OwnGuild,
    PublicGuild,
    UpdateGuild,
)
from internal.middleware.rate_limit import (
    CREATE,
    CREDENTIALS,
    GATEWAY,
    LOGIN,
    PUBLIC,
    REFRESH,
    REGISTER,
    SEND,
    TYPING,
)
from internal.monitoring.health import Health
from internal.monitoring.load import Work
from internal.routes.route import Handle, Route
from internal.user.handler import UserHandler
from internal.user.model import ChangeUser, OwnUser, User

_V10: Final = "/api/v10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """Everyone who answers."""

    auth: AuthHandler
    sessions: SessionHandler
    instance: InstanceHandler
    users: UserHandler
    guilds: GuildHandler
    channels: ChannelHandler
    messages: MessageHandler
    typing: TypingHandler
    gateway: GatewayHandler
    health: Health


def table(to: Handlers) -> list[Route]:
    """The operations, in the order in which the documentation shows them."""
    return [
        *_tagged("Accounts", _accounts(to)),
        *_tagged("Users", _users(to.users)),
        *_tagged("Guilds", _guilds(to.guilds)),
        *_tagged("Channels", _channels(to.channels, to.typing)),
        *_tagged("Messages", _messages(to.messages)),
        *_tagged("Gateway and health", _gateway(to.gateway, to.health)),
    ]


def _accounts(to: Handlers) -> Iterable[Route]:
    auth, sessions, instance = to.auth, to.sessions, to.instance
    yield _row(
        "POST /auth/register",
        auth.post_register,
        "Make an account, and sign in",
        rule=REGISTER,
        is_public=True,
        body=Register,
        answer=SignedIn,
        status=201,
        errors=(RegistrationClosed, InvitationRequired, UnknownInvite, InvalidSetupSecret),
    )
    yield _row(
        "POST /auth/login",
        auth.post_login,
        "Sign in with an address or a name, and a password",
        rule=LOGIN,
        is_public=True,
        body=Login,
        answer=SignedIn,
        errors=(InvalidCredentials,),
    )
    yield _row(
        "POST /auth/refresh",
        auth.post_refresh,
        "Exchange a refresh token for a new pair",
        work=Work.FOREMOST,
        rule=REFRESH,
        is_public=True,
        body=RefreshBody,
        answer=SignedIn,
        errors=(Unauthorized,),
    )
    yield _row("POST /auth/logout", sessions.post_logout, "End this login session", status=204)
    yield _row(
        "GET /auth/sessions", sessions.get, "List one's login sessions", answer=list[LoginSession]
    )
    yield _row(
        "DELETE /auth/sessions/{session_id}",
        sessions.delete,
        "End one of one's login sessions",
        status=204,
        errors=(UnknownSession,),
    )
    yield _row(
        "POST /auth/password",
        auth.post_password,
        "Change one's password; all other sessions end",
        rule=CREDENTIALS,
        body=ChangePassword,
        answer=SignedIn,
    )
    yield _row(
        "POST /auth/setup",
        auth.post_setup,
        "Become the administrator of a new server, by the secret that its start prints",
        rule=CREDENTIALS,
        body=Setup,
        answer=SignedIn,
        errors=(InvalidSetupSecret,),
    )
    yield _row(
        "POST /auth/invites",
        instance.post_invite,
        "Invite somebody to register (administrators)",
        rule=CREATE,
        body=CreateInvite,
        answer=NewInvite,
        status=201,
        errors=(MissingPermissions,),
    )
    yield _row(
        "GET /auth/invites",
        instance.get_invites,
        "List open invitations to register (administrators)",
        query=InvitePage,
        answer=list[Invite],
        errors=(MissingPermissions,),
    )
    yield _row(
        "DELETE /auth/invites/{invite_id}",
        instance.delete_invite,
        "Withdraw an invitation to register (administrators)",
        status=204,
        errors=(MissingPermissions, UnknownInvite),
    )
    yield _row(
        "PUT /admin/users/{user_id}/role",
        instance.put_role,
        "Set an account's role on this server (administrators)",
        body=ChangeRole,
        status=204,
        errors=(MissingPermissions, UnknownUser, LastAdministrator),
    )


def _users(users: UserHandler) -> Iterable[Route]:
    yield _row("GET /users/@me", users.get_me, "See one's account", _v10=True, answer=OwnUser)
    yield _row(
        "PATCH /users/@me",
        users.patch_me,
        "Change one's account",
        _v10=True,
        body=ChangeUser,
        answer=OwnUser,
    )
    yield _row(
        "GET /users/{user_id}",
        users.get,
        "See an account",
        _v10=True,
        answer=User,
        errors=(UnknownUser,),
    )


def _guilds(guilds: GuildHandler) -> Iterable[Route]:
    yield _row(
        "POST /guilds",
        guilds.post,
        "Make a guild, with a first channel",
        _v10=True,
        rule=CREATE,
        body=CreateGuild,
        answer=GuildDetails,
        status=201,
        errors=(TooManyGuilds,),
    )
    yield _row(
        "GET /guilds",
        guilds.get_public,
        "List the guilds that anyone may join",
        work=Work.HISTORY,
        query=GuildPage,
        answer=list[PublicGuild],
    )
    yield _row(
        "GET /guilds/my",
        guilds.get_mine,
        "List one's guilds",
        f"{_V10}/users/@me/guilds",
        query=GuildPage,
        answer=list[OwnGuild],
    )
    yield _row(
        "GET /guilds/{guild_id}",
        guilds.get,
        "See a guild",
        _v10=True,
        answer=GuildDetails,
        errors=(UnknownGuild,),
    )
    yield _row(
        "PATCH /guilds/{guild_id}",
        guilds.patch,
        "Change a guild, or hand it over",
        _v10=True,
        body=UpdateGuild,
        answer=GuildDetails,
        errors=(UnknownGuild, MissingPermissions, UnknownMember),
    )
    yield _row(
        "DELETE /guilds/{guild_id}",
        guilds.delete,
        "Delete a guild and all in it",
        _v10=True,
        status=204,
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        "POST /guilds/{guild_id}/join",
        guilds.post_join,
        "Join a guild that anyone may join",
        rule=CREATE,
        answer=GuildDetails,
        errors=(UnknownGuild, TooManyGuilds, TooManyMembers),
    )
    yield _row(
        "POST /guilds/{guild_id}/leave",
        guilds.post_leave,
        "Leave a guild",
        status=204,
        errors=(UnknownGuild, OwnerCannotLeave),
    )
    yield _row(
        "DELETE /users/@me/guilds/{guild_id}",
        guilds.post_leave,
        "Leave a guild",
        _v10=True,
        status=204,
        errors=(UnknownGuild, OwnerCannotLeave),
    )
    yield _row(
        "GET /guilds/{guild_id}/members",
        guilds.get_members,
        "List the members of a guild, by id",
        _v10=True,
        work=Work.HISTORY,
        query=MemberPage,
        answer=list[Member],
        errors=(UnknownGuild,),
    )
    yield _row(
        "GET /guilds/{guild_id}/members/{user_id}",
        guilds.get_member,
        "See a member of a guild",
        _v10=True,
        answer=Member,
        errors=(UnknownGuild, UnknownMember),
    )


def _channels(channels: ChannelHandler, typing: TypingHandler) -> Iterable[Route]:
    yield _row(
        "POST /channels",
        channels.post,
        "Make a channel in a guild",
        f"{_V10}/guilds/{{guild_id}}/channels",
        rule=CREATE,
        body=CreateChannel,
        answer=GuildChannel,
        status=201,
        errors=(UnknownGuild, MissingPermissions, TooManyChannels),
    )
    yield _row(
        "GET /channels/guild/{guild_id}",
        channels.get_of_guild,
        "List the channels of a guild",
        f"{_V10}/guilds/{{guild_id}}/channels",
        answer=list[GuildChannel],
        errors=(UnknownGuild,),
    )
    yield _row(
        "GET /channels/{channel_id}",
        channels.get,
        "See a channel",
        _v10=True,
        answer=(GuildChannel, DirectMessage),
        errors=(UnknownChannel,),
    )
    yield _row(
        "PATCH /channels/{channel_id}",
        channels.patch,
        "Change a channel",
        _v10=True,
        body=UpdateChannel,
        answer=GuildChannel,
        errors=(UnknownChannel, MissingPermissions, WrongChannelType),
    )
    yield _row(
        "DELETE /channels/{channel_id}",
        channels.delete,
        "Delete a channel and all in it",
        _v10=True,
        answer=GuildChannel,
        errors=(UnknownChannel, MissingPermissions, WrongChannelType),
    )
    yield _row(
        "POST /users/@me/channels",
        channels.post_direct_message,
        "Open a direct message with somebody",
        _v10=True,
        rule=CREATE,
        body=OpenDirectMessage,
        answer=DirectMessage,
        errors=(UnknownUser, CannotMessageUser, TooManyDirectMessages),
    )
    yield _row(
        "GET /users/@me/channels",
        channels.get_direct_messages,
        "List one's direct messages",
        _v10=True,
        query=DirectMessagePage,
        answer=list[DirectMessage],
    )
    yield _row(
        "POST /channels/{channel_id}/typing",
        typing.post,
        "Show that one is typing",
        _v10=True,
        work=Work.EPHEMERA,
        rule=TYPING,
        status=204,
        errors=(UnknownChannel, MissingPermissions),
    )


def _messages(messages: MessageHandler) -> Iterable[Route]:
    many = f"{_V10}/channels/{{channel_id}}/messages"
    one = f"{many}/{{message_id}}"
    here = "/messages/{channel_id}/{message_id}"
    yield _row(
        "POST /messages",
        messages.post,
        "Send a message",
        many,
        work=Work.FOREMOST,
        rule=SEND,
        body=SendMessage,
        answer=Message,
        status=201,
        errors=(UnknownChannel, MissingPermissions, EmptyMessage, NonceMismatch, SlowMode),
    )
    yield _row(
        "GET /messages/channel/{channel_id}",
        messages.get_page,
        "Read a channel, newest first",
        many,
        work=Work.HISTORY,
        query=MessagePage,
        answer=list[Message],
        errors=(UnknownChannel,),
    )
    yield _row(
        f"GET {here}",
        messages.get,
        "Read a message",
        one,
        answer=Message,
        errors=(UnknownChannel, UnknownMessage),
    )
    yield _row(
        f"PATCH {here}",
        messages.patch,
        "Edit one's message",
        one,
        body=UpdateMessage,
        answer=Message,
        errors=(UnknownChannel, UnknownMessage, NotTheAuthor, EmptyMessage),
    )
    yield _row(
        f"DELETE {here}",
        messages.delete,
        "Delete a message",
        one,
        status=204,
        errors=(UnknownChannel, UnknownMessage, MissingPermissions),
    )
    yield _row(
        "POST /messages/{channel_id}/bulk-delete",
        messages.post_bulk_delete,
        "Delete several messages",
        f"{many}/bulk-delete",
        body=BulkDelete,
        status=204,
        errors=(UnknownChannel, MissingPermissions, BadBulkDelete),
    )


def _gateway(gateway: GatewayHandler, health: Health) -> Iterable[Route]:
    # With and without a slash: some libraries add one.
    yield _row(
        "GET /gateway",
        gateway.get,
        "Open the WebSocket of live events",
        "/gateway/",
        work=Work.FOREMOST,
        rule=GATEWAY,
        is_public=True,
        status=101,
        errors=(UpgradeRequired, BadOrigin, HttpError),
    )
    asked: dict[str, Any] = {"rule": PUBLIC, "is_public": True, "work": Work.FOREMOST}
    yield _row("GET /live", health.live, "Whether the process lives", **asked)
    yield _row("GET /ready", health.ready, "Whether it can serve", **asked)


def _row(
    operation: str, handle: Handle, summary: str, *others: str, _v10: bool = False, **rest: Any
) -> Route:
    """A row; `_v10` adds the same path under /api/v10, `others` are further names of it."""
    method, path = operation.split(" ")
    mirrored = (f"{_V10}{path}",) if _v10 else ()
    return Route(method, (path, *mirrored, *others), handle, summary, **rest)


def _tagged(tag: str, rows: Iterable[Route]) -> Iterable[Route]:
    return (changed(row, tag=tag) for row in rows)
