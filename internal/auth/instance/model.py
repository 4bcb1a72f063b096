"""The installation: who administers it, and whom it admits."""

from typing import Annotated, Literal

import msgspec

from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

Registration = Literal["open", "invite", "closed"]
RoleName = Literal["none", "moderator", "admin"]
# A code or secret from outside. Ours are shorter.
Code = Annotated[str, msgspec.Meta(max_length=128, pattern=NO_NUL)]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody shows to be admitted."""

    invite: str | None = None
    setup_secret: str | None = None


class ChangeRole(msgspec.Struct, frozen=True):
    role: RoleName


class CreateInvite(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation to register, for so many people and so many seconds."""

    max_uses: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    expires_in: Annotated[int, msgspec.Meta(ge=60, le=90 * 86_400)] = 7 * 86_400


class InvitePage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of invitations, the newest first."""

    before: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation to register, without its code, of which only a hash is kept."""

    id: Snowflake
    creator_id: Snowflake
    uses_left: int
    created_at: Timestamp
    expires_at: Timestamp


class NewInvite(Invite, frozen=True, kw_only=True):
    """An invitation with its code: the one time that it is shown."""

    code: str
