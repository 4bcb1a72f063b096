"""The catalogue of errors: what is wrong, as a status, a stable code and one sentence.

Codes follow the ranges of the public Discord HTTP API, which existing client libraries parse:
10xxx unknown, 20xxx not for you, 30xxx limits, 40xxx account, 50xxx invalid or forbidden,
and 90xxx for what only this server knows.
"""

from typing import ClassVar

from typing_extensions import override

type_by_code: dict[int, type["AppError"]] = {}


class AppError(Exception):
    """Base of the catalogue. A leaf sets `status`, `code` and `message`, and nothing more."""

    status: ClassVar[int] = 500
    code: ClassVar[int] = 0
    message: ClassVar[str] = "Internal Server Error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: dict[str, object] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """`detail` replaces the catalogue's sentence; `errors` nests faults by field."""
        super().__init__(detail or self.message)
        self.errors = errors
        self.retry_after = retry_after

    @override
    def __init_subclass__(cls) -> None:
        """Refuse a code that another error has taken."""
        super().__init_subclass__()
        taken = type_by_code.setdefault(cls.code, cls)
        if taken is not cls and taken.__qualname__ != cls.__qualname__:
            raise TypeError(f"{cls.__name__} takes code {cls.code} of {taken.__name__}")


def error_body(error: AppError) -> dict[str, object]:
    """The one shape of errors, for REST and for the gateway's answers."""
    body: dict[str, object] = {"code": error.code, "message": str(error)}
    if error.errors is not None:
        body["errors"] = error.errors
    if error.retry_after is not None:
        body["retry_after"] = round(error.retry_after, 3)
    return body


class NotFound(AppError):
    status, code, message = 404, 10000, "Not Found"


class UnknownChannel(AppError):
    status, code, message = 404, 10003, "Unknown Channel"


class UnknownGuild(AppError):
    status, code, message = 404, 10004, "Unknown Guild"


class UnknownMember(AppError):
    status, code, message = 404, 10007, "Unknown Member"


class UnknownMessage(AppError):
    status, code, message = 404, 10008, "Unknown Message"


class UnknownUser(AppError):
    status, code, message = 404, 10013, "Unknown User"


class UnknownSession(AppError):
    status, code, message = 404, 10020, "Unknown Session"


class UnknownInvite(AppError):
    status, code, message = 404, 10006, "Unknown Invite"


class SlowMode(AppError):
    status, code, message = (
        429,
        20016,
        "This action cannot be performed due to slowmode rate limit",
    )


class SlowDown(AppError):
    status, code, message = 429, 20028, "You are being rate limited."


class TooManyGuilds(AppError):
    status, code, message = 400, 30001, "Maximum number of guilds reached"


class TooManyInvites(AppError):
    status, code, message = 400, 30016, "Maximum number of invites reached (1000)"


class TooManyRoles(AppError):
    status, code, message = 400, 30005, "Maximum number of guild roles reached (250)"


class TooManyRecipients(AppError):
    status, code, message = 400, 30004, "Maximum number of recipients reached (10)"


class TooManyOverwrites(AppError):
    status, code, message = 400, 30060, "Maximum number of channel permission overwrites reached"


class TooManyChannels(AppError):
    status, code, message = 400, 30013, "Maximum number of guild channels reached"


class TooManyMembers(AppError):
    status, code, message = 400, 30019, "Maximum number of server members reached"


class UnknownOverwrite(AppError):
    status, code, message = 404, 10009, "Unknown permission overwrite"


class UnknownRole(AppError):
    status, code, message = 404, 10011, "Unknown Role"


class UnknownBan(AppError):
    status, code, message = 404, 10026, "Unknown Ban"


class Banned(AppError):
    status, code, message = 403, 40007, "The user is banned from this guild"


class Unauthorized(AppError):
    status, code, message = 401, 40001, "Unauthorized"


class NotVerified(AppError):
    status, code, message = (
        403,
        40002,
        "You need to verify your account in order to perform this action",
    )


class BodyTooLarge(AppError):
    status, code, message = 413, 40005, "Request entity too large"


class InvalidCredentials(AppError):
    status, code, message = 401, 40011, "The address or the password is wrong"


class RegistrationClosed(AppError):
    status, code, message = 403, 40012, "This server does not take new accounts"


class InvitationRequired(AppError):
    status, code, message = 403, 40013, "This server takes new accounts by invitation only"


class InvalidSetupSecret(AppError):
    status, code, message = 403, 40014, "The setup secret is wrong or has been used"


class NonceMismatch(AppError):
    status, code, message = (
        409,
        40015,
        "This nonce was used before for another channel or another body",
    )


class WrongChannelType(AppError):
    status, code, message = 400, 50024, "Cannot execute action on this channel type"


class NotATextChannel(AppError):
    status, code, message = 400, 50008, "Cannot send messages in a non-text channel"


class NotTheAuthor(AppError):
    status, code, message = 403, 50005, "Cannot edit a message authored by another user"


class EmptyMessage(AppError):
    status, code, message = 400, 50006, "Cannot send an empty message"


class CannotMessageUser(AppError):
    status, code, message = 403, 50007, "Cannot send messages to this user"


class MissingPermissions(AppError):
    status, code, message = 403, 50013, "You lack permissions to perform that action"


class BadBulkDelete(AppError):
    status, code, message = (
        400,
        50016,
        "Provided too few or too many messages to delete: it takes 1 to 100",
    )


class InvalidRole(AppError):
    status, code, message = 400, 50028, "Invalid Role"


class InvalidFormBody(AppError):
    status, code, message = 400, 50035, "Invalid Form Body"


class OwnerCannotLeave(AppError):
    status, code, message = (
        400,
        50055,
        "The owner of a guild cannot leave it; delete the guild or hand it over",
    )


class InvalidRequest(AppError):
    status, code, message = 400, 50109, "The request body contains invalid JSON."


class BadOrigin(AppError):
    status, code, message = 403, 90001, "This origin may not connect"


class MethodNotAllowed(AppError):
    status, code, message = 405, 90002, "Method not allowed"


class HttpError(AppError):
    """What the HTTP layer itself refuses; the status is that of the refusal."""

    status, code, message = 400, 90003, "Bad request"


class Unavailable(AppError):
    status, code, message = 503, 90004, "The server can't do this now; try again"


class UpgradeRequired(AppError):
    status, code, message = 426, 90005, "This address speaks WebSocket only"


class LastAdministrator(AppError):
    status, code, message = 400, 90010, "The last administrator of the server can't step down"


class UnsupportedEncoding(AppError):
    status, code, message = 415, 90011, "Bodies are taken as they are, without a content encoding"


class TooManyDirectMessages(AppError):
    status, code, message = 400, 90012, "Maximum number of direct messages reached"


class NobodyBanned(AppError):
    status, code, message = 400, 500000, "Failed to ban users"


class UnknownTag(AppError):
    status, code, message = 404, 10087, "Unknown tag"


class TooManyThreadMembers(AppError):
    status, code, message = 400, 30033, "Maximum number of thread participants has been reached"


class TooManyPinnedThreads(AppError):
    status, code, message = (
        400,
        30047,
        "Maximum number of pinned threads in a forum channel has been reached",
    )


class TagRequired(AppError):
    status, code, message = 400, 40067, "A tag is required to create a forum post in this channel"


class ThreadArchived(AppError):
    status, code, message = (
        400,
        50083,
        "Tried to perform an operation on an archived thread",
    )


class ThreadNotReady(AppError):
    """Said between a send and its second attempt; told to a client only if that is refused, too."""

    status, code, message = 409, 90031, "The thread is being archived or left; try again"


class ThreadExists(AppError):
    status, code, message = 400, 160004, "A thread has already been created for this message"


class ThreadLocked(AppError):
    status, code, message = 400, 160005, "Thread is locked"


class TooManyThreads(AppError):
    status, code, message = 400, 160006, "Maximum number of active threads reached"


class UnknownAutomodRule(AppError):
    status, code, message = 404, 90040, "Unknown Auto Moderation Rule"


class UnknownReport(AppError):
    status, code, message = 404, 90041, "Unknown Report"


class BlockedByAutomod(AppError):
    status, code, message = 400, 200000, "Message was blocked by automatic moderation"
