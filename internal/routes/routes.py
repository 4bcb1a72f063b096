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
from internal.channel.group.handler import GroupHandler
from internal.channel.handler import ChannelHandler
from internal.channel.layout.handler import LayoutHandler
from internal.channel.layout.model import MoveChannels, PutOverwrite
from internal.channel.model import (
    CreateChannel,
    DirectMessage,
    DirectMessagePage,
    OpenDirectMessage,
    UpdateChannel,
)
from internal.channel.thread.handler import ThreadHandler
from internal.channel.thread.model import (
    ArchivePage,
    OwnArchivePage,
    StartFromMessage,
    StartThread,
    ThreadList,
    ThreadMemberPage,
    ThreadMemberQuery,
    ThreadParticipant,
    UpdateThread,
)
from internal.channel.why.handler import WhyHandler
from internal.channel.why.model import Explanation
from internal.chat.mention.model import MentionPage
from internal.chat.message.handler import MessageHandler
from internal.chat.message.model import (
    BulkDelete,
    Message,
    MessagePage,
    SendMessage,
    UpdateMessage,
)
from internal.chat.report.handler import ReportHandler
from internal.chat.report.model import Report, ReportMessage, ReportPage, ResolveReport
from internal.chat.typing.handler import TypingHandler
from internal.chat.ws.handler import GatewayHandler
from internal.errors import (
    BadBulkDelete,
    BadOrigin,
    Banned,
    BlockedByAutomod,
    CannotMessageUser,
    EmptyMessage,
    HttpError,
    InvalidCredentials,
    InvalidRole,
    InvalidSetupSecret,
    InvitationRequired,
    LastAdministrator,
    MissingPermissions,
    NobodyBanned,
    NonceMismatch,
    NotATextChannel,
    NotFound,
    NotTheAuthor,
    NotVerified,
    OwnerCannotLeave,
    RegistrationClosed,
    SlowMode,
    TagRequired,
    ThreadArchived,
    ThreadExists,
    ThreadLocked,
    ThreadNotReady,
    TooManyChannels,
    TooManyDirectMessages,
    TooManyGuilds,
    TooManyInvites,
    TooManyMembers,
    TooManyOverwrites,
    TooManyPinnedThreads,
    TooManyRecipients,
    TooManyRoles,
    TooManyThreadMembers,
    TooManyThreads,
    Unauthorized,
    UnknownAutomodRule,
    UnknownBan,
    UnknownChannel,
    UnknownGuild,
    UnknownInvite,
    UnknownMember,
    UnknownMessage,
    UnknownOverwrite,
    UnknownReport,
    UnknownRole,
    UnknownSession,
    UnknownTag,
    UnknownUser,
    UpgradeRequired,
    WrongChannelType,
)
from internal.guild.audit.handler import AuditHandler
from internal.guild.audit.model import AuditLog, AuditPage
from internal.guild.automod.handler import AutomodHandler
from internal.guild.automod.model import AutomodRule, CreateRule, UpdateRule
from internal.guild.ban.handler import BanHandler
from internal.guild.ban.model import Ban, BanPage, BanUser, BulkBan, BulkBanned
from internal.guild.handler import GuildHandler
from internal.guild.invite.handler import InviteHandler
from internal.guild.invite.model import AcceptedInvite, InviteDetails, InviteQuery
from internal.guild.invite.model import CreateInvite as CreateGuildInvite
from internal.guild.invite.model import Invite as GuildInvite
from internal.guild.invite.model import InvitePage as GuildInvitePage
from internal.guild.member.handler import MemberHandler
from internal.guild.member.model import (
    ChangedRoles,
    ChangeRoles,
    MemberSearch,
    Prune,
    Pruned,
    PruneQuery,
    UpdateMember,
    UpdateOwnMember,
)
from internal.guild.model import (
    CreateGuild,
    GuildChannel,
    GuildCounts,
    GuildDetails,
    GuildPage,
    GuildPreview,
    Member,
    MemberPage,
    OwnGuild,
    PublicGuild,
    Role,
    Thread,
    UpdateGuild,
)
from internal.guild.role.handler import RoleHandler
from internal.guild.role.model import CreateRole, MoveRoles, UpdateRole
from internal.middleware.rate_limit import (
    CREATE,
    CREDENTIALS,
    GATEWAY,
    LOGIN,
    PUBLIC,
    REFRESH,
    REGISTER,
    REPORT,
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
    roles: RoleHandler
    members: MemberHandler
    bans: BanHandler
    invites: InviteHandler
    audit: AuditHandler
    channels: ChannelHandler
    layout: LayoutHandler
    groups: GroupHandler
    why: WhyHandler
    threads: ThreadHandler
    messages: MessageHandler
    reports: ReportHandler
    automod: AutomodHandler
    typing: TypingHandler
    gateway: GatewayHandler
    health: Health


def table(to: Handlers) -> list[Route]:
    """The operations, in the order in which the documentation shows them."""
    return [
        *_tagged("Accounts", _accounts(to)),
        *_tagged("Users", _users(to.users)),
        *_tagged("Guilds", _guilds(to.guilds)),
        *_tagged("Roles", _roles(to.roles)),
        *_tagged("Members", _members(to.members)),
        *_tagged("Bans and audit log", _bans(to.bans, to.audit)),
        *_tagged("Invites", _invites(to.invites)),
        *_tagged("Channels", _with_threads(to.threads, _channels(to.channels, to.typing))),
        *_tagged("Channels", _layout(to.layout, to.why)),
        *_tagged("Channels", _groups(to.groups)),
        *_tagged("Threads", _threads(to.threads)),
        *_tagged("Messages", _messages(to.messages)),
        *_tagged("Reports", _reports(to.reports)),
        *_tagged("Automatic moderation", _automod(to.automod)),
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
        query=GuildCounts,
        answer=GuildDetails,
        errors=(UnknownGuild,),
    )
    yield _row(
        "GET /guilds/{guild_id}/preview",
        guilds.get_preview,
        "See what a guild is, before joining it",
        _v10=True,
        answer=GuildPreview,
        errors=(UnknownGuild,),
    )
    yield _row(
        "GET /icons/{guild_id}/{icon}",
        guilds.get_icon,
        "See the picture of a guild",
        rule=PUBLIC,
        is_public=True,
        errors=(NotFound,),
    )
    yield _row(
        "PATCH /guilds/{guild_id}",
        guilds.patch,
        "Change a guild, or hand it over",
        _v10=True,
        body=UpdateGuild,
        answer=GuildDetails,
        errors=(
            UnknownGuild,
            MissingPermissions,
            UnknownMember,
            UnknownChannel,
            WrongChannelType,
        ),
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
        errors=(UnknownGuild, Banned, TooManyGuilds, TooManyMembers),
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


def _roles(roles: RoleHandler) -> Iterable[Route]:
    many, one = "/guilds/{guild_id}/roles", "/guilds/{guild_id}/roles/{role_id}"
    yield _row(
        f"GET {many}",
        roles.get_of_guild,
        "List the roles of a guild, lowest first",
        _v10=True,
        answer=list[Role],
        errors=(UnknownGuild,),
    )
    yield _row(
        f"POST {many}",
        roles.post,
        "Make a role, below all others",
        _v10=True,
        rule=CREATE,
        body=CreateRole,
        answer=Role,
        errors=(UnknownGuild, MissingPermissions, TooManyRoles),
    )
    yield _row(
        f"PATCH {many}",
        roles.patch_positions,
        "Put roles into another order",
        _v10=True,
        body=MoveRoles,
        answer=list[Role],
        errors=(UnknownGuild, MissingPermissions, UnknownRole),
    )
    yield _row(
        f"GET {many}/member-counts",
        roles.get_member_counts,
        "Count the members that have each role, by its id",
        _v10=True,
        work=Work.HISTORY,
        answer=dict[str, int],
        errors=(UnknownGuild,),
    )
    yield _row(
        f"GET {one}",
        roles.get,
        "See a role",
        _v10=True,
        answer=Role,
        errors=(UnknownGuild, UnknownRole),
    )
    yield _row(
        f"PATCH {one}",
        roles.patch,
        "Change a role",
        _v10=True,
        body=UpdateRole,
        answer=Role,
        errors=(UnknownGuild, MissingPermissions, UnknownRole, InvalidRole),
    )
    yield _row(
        f"DELETE {one}",
        roles.delete,
        "Delete a role, and what channels allow and deny to it",
        _v10=True,
        status=204,
        errors=(UnknownGuild, MissingPermissions, UnknownRole, InvalidRole),
    )


def _members(members: MemberHandler) -> Iterable[Route]:
    many, one = "/guilds/{guild_id}/members", "/guilds/{guild_id}/members/{user_id}"
    yield _row(
        f"GET {many}/search",
        members.get_search,
        "Find members one of whose names begins so",
        _v10=True,
        work=Work.HISTORY,
        query=MemberSearch,
        answer=list[Member],
        errors=(UnknownGuild,),
    )
    yield _row(
        f"PATCH {many}/@me",
        members.patch_own,
        "Change one's own name in a guild",
        _v10=True,
        body=UpdateOwnMember,
        answer=Member,
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        f"PATCH {one}",
        members.patch,
        "Change a member's name, roles or timeout",
        _v10=True,
        body=UpdateMember,
        answer=Member,
        errors=(UnknownGuild, MissingPermissions, UnknownMember, UnknownRole, InvalidRole),
    )
    yield _row(
        f"DELETE {one}",
        members.delete,
        "Kick a member",
        _v10=True,
        status=204,
        errors=(UnknownGuild, MissingPermissions, UnknownMember),
    )
    given: dict[str, Any] = {
        "status": 204,
        "errors": (UnknownGuild, MissingPermissions, UnknownMember, UnknownRole, InvalidRole),
    }
    role = f"{one}/roles/{{role_id}}"
    yield _row(f"PUT {role}", members.put_role, "Give a role to a member", _v10=True, **given)
    yield _row(
        f"DELETE {role}", members.delete_role, "Take a role from a member", _v10=True, **given
    )
    yield _row(
        f"POST {many}/roles",
        members.post_roles,
        "Give roles to many members, and take some, at once: of all of them or of nobody",
        body=ChangeRoles,
        answer=ChangedRoles,
        errors=(UnknownGuild, MissingPermissions, UnknownMember, UnknownRole, InvalidRole),
    )
    prune = "/guilds/{guild_id}/prune"
    yield _row(
        f"GET {prune}",
        members.get_prune,
        "Count the members that were not seen for some days",
        _v10=True,
        work=Work.HISTORY,
        query=PruneQuery,
        answer=Pruned,
        errors=(UnknownGuild, MissingPermissions, UnknownRole),
    )
    yield _row(
        f"POST {prune}",
        members.post_prune,
        "Throw out members that were not seen for some days",
        _v10=True,
        rule=CREATE,
        body=Prune,
        answer=Pruned,
        errors=(UnknownGuild, MissingPermissions, UnknownRole),
    )


def _invites(invites: InviteHandler) -> Iterable[Route]:
    yield _row(
        "POST /channels/{channel_id}/invites",
        invites.post,
        "Invite people to a guild, to arrive in a channel",
        _v10=True,
        rule=CREATE,
        body=CreateGuildInvite,
        answer=InviteDetails,
        errors=(UnknownChannel, MissingPermissions, WrongChannelType, TooManyInvites),
    )
    yield _row(
        "GET /channels/{channel_id}/invites",
        invites.get_of_channel,
        "List the invites to a channel, by their codes",
        _v10=True,
        query=GuildInvitePage,
        answer=list[InviteDetails],
        errors=(UnknownChannel, MissingPermissions, WrongChannelType),
    )
    yield _row(
        "GET /guilds/{guild_id}/invites",
        invites.get_of_guild,
        "List the invites to a guild, by their codes",
        _v10=True,
        query=GuildInvitePage,
        answer=list[InviteDetails],
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        "GET /invites/{code}",
        invites.get,
        "See what an invite leads to",
        _v10=True,
        rule=PUBLIC,
        is_public=True,
        query=InviteQuery,
        answer=GuildInvite,
        errors=(UnknownInvite,),
    )
    yield _row(
        "POST /invites/{code}",
        invites.post_accept,
        "Join a guild by an invite",
        _v10=True,
        rule=CREATE,
        answer=AcceptedInvite,
        errors=(UnknownInvite, Banned, TooManyGuilds, TooManyMembers),
    )
    yield _row(
        "DELETE /invites/{code}",
        invites.delete,
        "Take an invite back",
        _v10=True,
        answer=GuildInvite,
        errors=(UnknownInvite, MissingPermissions),
    )


def _bans(bans: BanHandler, audit: AuditHandler) -> Iterable[Route]:
    yield _row(
        "GET /guilds/{guild_id}/bans",
        bans.get_page,
        "List the bans of a guild, by the ids of the banned",
        _v10=True,
        query=BanPage,
        answer=list[Ban],
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        "GET /guilds/{guild_id}/bans/{user_id}",
        bans.get,
        "See whether somebody is banned, and why",
        _v10=True,
        answer=Ban,
        errors=(UnknownGuild, MissingPermissions, UnknownBan),
    )
    yield _row(
        "PUT /guilds/{guild_id}/bans/{user_id}",
        bans.put,
        "Ban somebody, and delete what they said lately",
        _v10=True,
        body=BanUser,
        status=204,
        errors=(UnknownGuild, MissingPermissions, UnknownUser),
    )
    yield _row(
        "DELETE /guilds/{guild_id}/bans/{user_id}",
        bans.delete,
        "End a ban",
        _v10=True,
        status=204,
        errors=(UnknownGuild, MissingPermissions, UnknownBan),
    )
    yield _row(
        "POST /guilds/{guild_id}/bulk-ban",
        bans.post_bulk,
        "Ban up to 200 accounts",
        _v10=True,
        rule=CREATE,
        body=BulkBan,
        answer=BulkBanned,
        errors=(UnknownGuild, MissingPermissions, NobodyBanned),
    )
    yield _row(
        "GET /guilds/{guild_id}/audit-logs",
        audit.get,
        "Read what was done in a guild's administration",
        _v10=True,
        work=Work.HISTORY,
        query=AuditPage,
        answer=AuditLog,
        errors=(UnknownGuild, MissingPermissions),
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
        errors=(
            UnknownGuild,
            MissingPermissions,
            UnknownRole,
            TooManyChannels,
            TooManyOverwrites,
        ),
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
        "Change a channel, a group or a thread",
        _v10=True,
        body=(UpdateChannel, UpdateThread),
        answer=(GuildChannel, DirectMessage),
        errors=(
            UnknownChannel,
            MissingPermissions,
            WrongChannelType,
            UnknownRole,
            TooManyOverwrites,
        ),
    )
    yield _row(
        "DELETE /channels/{channel_id}",
        channels.delete,
        "Delete a channel or thread and all in it, or leave a group",
        _v10=True,
        answer=(GuildChannel, DirectMessage),
        errors=(UnknownChannel, MissingPermissions, WrongChannelType),
    )
    yield _row(
        "POST /users/@me/channels",
        channels.post_direct_message,
        "Open a direct message with somebody, or a group",
        _v10=True,
        rule=CREATE,
        body=OpenDirectMessage,
        answer=DirectMessage,
        errors=(UnknownUser, CannotMessageUser, TooManyDirectMessages, TooManyRecipients),
    )
    yield _row(
        "GET /users/@me/channels",
        channels.get_direct_messages,
        "List one's direct messages and groups",
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


def _with_threads(threads: ThreadHandler, rows: Iterable[Route]) -> Iterable[Route]:
    """Let threads answer for themselves at the addresses that they share with channels."""
    here = {
        "GET": (threads.get, ()),
        "PATCH": (
            threads.patch,
            (ThreadArchived, TooManyThreads, UnknownTag, TagRequired, TooManyPinnedThreads),
        ),
        "DELETE": (threads.delete, ()),
    }
    for row in rows:
        if row.paths[0] != "/channels/{channel_id}" or row.method not in here:
            yield row
            continue
        handle, errors = here[row.method]
        answers = row.answer if isinstance(row.answer, tuple) else (row.answer,)
        yield changed(
            row,
            handle=threads.unless_thread(row.handle, handle),
            answer=tuple(dict.fromkeys((*answers, Thread))),
            errors=tuple(dict.fromkeys((*row.errors, *errors))),
        )


def _threads(threads: ThreadHandler) -> Iterable[Route]:
    channel = "/channels/{channel_id}"
    members, archived = f"{channel}/thread-members", f"{channel}/threads/archived"
    unseen = (UnknownChannel, WrongChannelType)
    yield _row(
        f"POST {channel}/messages/{{message_id}}/threads",
        threads.post_from_message,
        "Start the thread of a message",
        _v10=True,
        rule=CREATE,
        body=StartFromMessage,
        answer=Thread,
        status=201,
        errors=(
            *unseen,
            UnknownMessage,
            MissingPermissions,
            NotVerified,
            ThreadExists,
            TooManyThreads,
        ),
    )
    yield _row(
        f"POST {channel}/threads",
        threads.post,
        "Start a thread, or a post in a forum",
        _v10=True,
        rule=CREATE,
        body=StartThread,
        answer=Thread,
        status=201,
        errors=(
            *unseen,
            MissingPermissions,
            NotVerified,
            TooManyThreads,
            UnknownTag,
            TagRequired,
            EmptyMessage,
            BlockedByAutomod,
        ),
    )
    yield _row(
        f"GET {archived}/public",
        threads.get_archived_public,
        "List archived threads of a channel, archived last first",
        _v10=True,
        work=Work.HISTORY,
        query=ArchivePage,
        answer=ThreadList,
        errors=(*unseen, MissingPermissions),
    )
    yield _row(
        f"GET {archived}/private",
        threads.get_archived_private,
        "List archived private threads of a channel (moderators)",
        _v10=True,
        work=Work.HISTORY,
        query=ArchivePage,
        answer=ThreadList,
        errors=(*unseen, MissingPermissions),
    )
    yield _row(
        f"GET {channel}/users/@me/threads/archived/private",
        threads.get_own_archived,
        "List the archived private threads of a channel that one is in",
        _v10=True,
        work=Work.HISTORY,
        query=OwnArchivePage,
        answer=ThreadList,
        errors=(*unseen, MissingPermissions),
    )
    yield _row(
        "GET /guilds/{guild_id}/threads/active",
        threads.get_active,
        "List the active threads of a guild",
        _v10=True,
        work=Work.HISTORY,
        answer=ThreadList,
        errors=(UnknownGuild,),
    )
    yield _row(
        f"GET {members}",
        threads.get_members,
        "List the members of a thread, by id",
        _v10=True,
        work=Work.HISTORY,
        query=ThreadMemberPage,
        answer=list[ThreadParticipant],
        errors=unseen,
    )
    yield _row(
        f"PUT {members}/@me",
        threads.put_me,
        "Join a thread",
        _v10=True,
        status=204,
        errors=(*unseen, ThreadArchived, TooManyThreadMembers),
    )
    yield _row(
        f"DELETE {members}/@me",
        threads.delete_me,
        "Leave a thread",
        _v10=True,
        status=204,
        errors=(*unseen, ThreadArchived),
    )
    yield _row(
        f"GET {members}/{{user_id}}",
        threads.get_member,
        "See a member of a thread",
        _v10=True,
        query=ThreadMemberQuery,
        answer=ThreadParticipant,
        errors=(*unseen, UnknownMember),
    )
    yield _row(
        f"PUT {members}/{{user_id}}",
        threads.put_member,
        "Add somebody to a thread",
        _v10=True,
        status=204,
        errors=(
            *unseen,
            UnknownMember,
            MissingPermissions,
            ThreadArchived,
            ThreadLocked,
            TooManyThreadMembers,
        ),
    )
    yield _row(
        f"DELETE {members}/{{user_id}}",
        threads.delete_member,
        "Take somebody out of a thread",
        _v10=True,
        status=204,
        errors=(*unseen, MissingPermissions, ThreadArchived),
    )


def _layout(layout: LayoutHandler, why: WhyHandler) -> Iterable[Route]:
    one = "/channels/{channel_id}/permissions/{target_id}"
    yield _row(
        "PATCH /guilds/{guild_id}/channels",
        layout.patch,
        "Put channels of a guild into other places, all at once",
        _v10=True,
        body=MoveChannels,
        status=204,
        errors=(UnknownGuild, UnknownChannel, MissingPermissions),
    )
    yield _row(
        f"PUT {one}",
        layout.put_overwrite,
        "Set what a channel allows and denies to a role or a member",
        _v10=True,
        body=PutOverwrite,
        status=204,
        errors=(
            UnknownChannel,
            MissingPermissions,
            WrongChannelType,
            UnknownRole,
            TooManyOverwrites,
        ),
    )
    yield _row(
        f"DELETE {one}",
        layout.delete_overwrite,
        "Take back what a channel allows and denies to a role or a member",
        _v10=True,
        status=204,
        errors=(UnknownChannel, MissingPermissions, WrongChannelType, UnknownOverwrite),
    )
    yield _row(
        f"GET {one}",
        why.get,
        "See what a member may do in a channel, and why; `@me` is oneself",
        "/channels/{channel_id}/permissions/@me",
        f"{_V10}/channels/{{channel_id}}/permissions/@me",
        _v10=True,
        answer=Explanation,
        errors=(UnknownChannel, MissingPermissions, UnknownMember),
    )


def _groups(groups: GroupHandler) -> Iterable[Route]:
    one = "/channels/{channel_id}/recipients/{user_id}"
    yield _row(
        f"PUT {one}",
        groups.put_recipient,
        "Add somebody to a group",
        _v10=True,
        status=204,
        errors=(
            UnknownChannel,
            WrongChannelType,
            UnknownUser,
            CannotMessageUser,
            TooManyRecipients,
        ),
    )
    yield _row(
        f"DELETE {one}",
        groups.delete_recipient,
        "Take somebody out of a group (its owner), or leave it",
        _v10=True,
        status=204,
        errors=(UnknownChannel, WrongChannelType, MissingPermissions),
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
        errors=(
            UnknownChannel,
            MissingPermissions,
            NotVerified,
            EmptyMessage,
            NonceMismatch,
            BlockedByAutomod,
            SlowMode,
            NotATextChannel,
            ThreadArchived,
            ThreadLocked,
            ThreadNotReady,
            TooManyThreads,
            TooManyThreadMembers,
        ),
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
        "GET /users/@me/mentions",
        messages.get_mentions,
        "List messages that mention oneself, newest first",
        _v10=True,
        work=Work.HISTORY,
        query=MentionPage,
        answer=list[Message],
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
        errors=(
            UnknownChannel,
            UnknownMessage,
            NotTheAuthor,
            EmptyMessage,
            BlockedByAutomod,
            ThreadArchived,
        ),
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


def _reports(reports: ReportHandler) -> Iterable[Route]:
    yield _row(
        "POST /channels/{channel_id}/messages/{message_id}/report",
        reports.post,
        "Report a message to the moderators of its guild",
        _v10=True,
        rule=REPORT,
        body=ReportMessage,
        answer=Report,
        status=201,
        errors=(UnknownChannel, UnknownMessage, MissingPermissions, WrongChannelType),
    )
    yield _row(
        "GET /guilds/{guild_id}/reports",
        reports.get_page,
        "List reported messages, newest first",
        _v10=True,
        work=Work.HISTORY,
        query=ReportPage,
        answer=list[Report],
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        "PATCH /guilds/{guild_id}/reports/{report_id}",
        reports.patch,
        "Say what became of a report",
        _v10=True,
        body=ResolveReport,
        answer=Report,
        errors=(UnknownGuild, MissingPermissions, UnknownReport),
    )


def _automod(automod: AutomodHandler) -> Iterable[Route]:
    many = "/guilds/{guild_id}/auto-moderation/rules"
    one = f"{many}/{{rule_id}}"
    yield _row(
        f"GET {many}",
        automod.get_all,
        "List the rules that look at messages",
        _v10=True,
        answer=list[AutomodRule],
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        f"POST {many}",
        automod.post,
        "Make a rule that looks at messages",
        _v10=True,
        rule=CREATE,
        body=CreateRule,
        answer=AutomodRule,
        errors=(UnknownGuild, MissingPermissions),
    )
    yield _row(
        f"GET {one}",
        automod.get,
        "See a rule",
        _v10=True,
        answer=AutomodRule,
        errors=(UnknownGuild, MissingPermissions, UnknownAutomodRule),
    )
    yield _row(
        f"PATCH {one}",
        automod.patch,
        "Change a rule",
        _v10=True,
        body=UpdateRule,
        answer=AutomodRule,
        errors=(UnknownGuild, MissingPermissions, UnknownAutomodRule),
    )
    yield _row(
        f"DELETE {one}",
        automod.delete,
        "Delete a rule",
        _v10=True,
        status=204,
        errors=(UnknownGuild, MissingPermissions, UnknownAutomodRule),
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
