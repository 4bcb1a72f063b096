"""What is done to members of a guild: names, roles, timeouts, kicks."""

from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

MAX_NICK: Final = 32
# For so long a member can be timed out.
MAX_TIMEOUT: Final = timedelta(days=28)
# So many members get other roles at once.
MAX_BULK: Final = 1000
MAX_ROLES_OF_CALL: Final = 250
# So many are pruned in one transaction, with the guild locked, and so many by one call.
PRUNED_AT_ONCE: Final = 200
PRUNED_BY_CALL: Final = 2000

# An empty one takes the name away, as null does: existing libraries send it.
Nick = Annotated[str, msgspec.Meta(max_length=MAX_NICK, pattern=NO_NUL)]
Prefix = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=NO_NUL)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Days = Annotated[int, msgspec.Meta(ge=1, le=30)]
RoleIds = Annotated[list[Snowflake], msgspec.Meta(max_length=MAX_ROLES_OF_CALL)]


# Requests.


class MemberSearch(msgspec.Struct, frozen=True, kw_only=True):
    query: Prefix
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class UpdateOwnMember(msgspec.Struct, frozen=True, kw_only=True):
    nick: Nick | msgspec.UnsetType | None = msgspec.UNSET


class UpdateMember(UpdateOwnMember, frozen=True, kw_only=True):
    """A wish for a member. What else is documented (voice, flags) is ignored: there is none."""

    roles: RoleIds | msgspec.UnsetType | None = msgspec.UNSET
    communication_disabled_until: Moment | msgspec.UnsetType | None = msgspec.UNSET


class ChangeRoles(msgspec.Struct, frozen=True, kw_only=True):
    """Roles to give to, and to take from, many members."""

    user_ids: Annotated[list[Snowflake], msgspec.Meta(min_length=1, max_length=MAX_BULK)]
    add_role_ids: RoleIds = []
    remove_role_ids: RoleIds = []


class PruneQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`include_roles` are ids with commas between them."""

    days: Days = 7
    include_roles: str | None = None


class Prune(msgspec.Struct, frozen=True, kw_only=True):
    days: Days | None = None
    include_roles: RoleIds | str | None = None
    compute_prune_count: bool | None = None


# Objects.


class ChangedRoles(msgspec.Struct, frozen=True, kw_only=True):
    """Who has other roles than before; the others had them already."""

    changed_user_ids: tuple[Snowflake, ...]


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """How many members went, or would go; null where that was not to be told."""

    pruned: int | None


class Unseen(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to prune: who came before `since` and was not seen after it, and has no other roles."""

    since: datetime
    include_roles: tuple[Snowflake, ...]
    # Who prunes stays; so does the owner.
    except_id: Snowflake
