"""Login sessions: where an account is signed in, and the tokens that show it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

# Past this the session that was used longest ago ends.
MAX_SESSIONS = 50


class Client(msgspec.Struct, frozen=True):
    """Where a request comes from, as its session remembers it."""

    address: str
    user_agent: str


class RefreshBody(msgspec.Struct, frozen=True):
    """What a client sends for the next pair of tokens."""

    refresh_token: Annotated[str, msgspec.Meta(max_length=2048, pattern=NO_NUL)]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a session."""

    user_id: Snowflake
    session_id: Snowflake
    access_token: str
    refresh_token: str
    expires_in: int


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its row tells what a refresh needs."""

    id: Snowflake
    user_id: Snowflake
    refresh_hash: bytes
    generation: int
    rotated_at: datetime
    expires_at: datetime


class LivingSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was found alive, as nodes tell each other."""

    user_id: Snowflake
    expires_at: datetime


class LoginSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its owner sees it in the list."""

    id: Snowflake
    created_at: Timestamp
    last_used_at: Timestamp
    expires_at: Timestamp
    address: str
    user_agent: str
    current: bool


class SessionEnded(Event, frozen=True, kw_only=True):
    """Sessions of an account ended: its sockets close, its tokens are refused."""

    type: ClassVar[str] = "session_ended"
    user_id: Snowflake
    session_ids: Sequence[Snowflake]

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user_id,))

    @override
    def payload(self) -> "EndedSessions":
        return EndedSessions(session_ids=tuple(self.session_ids))


class EndedSessions(msgspec.Struct, frozen=True):
    """The payload of SessionEnded."""

    session_ids: tuple[Snowflake, ...]
