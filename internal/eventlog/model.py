"""An entry of the event log, as a node keeps it in memory."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from internal.utils.snowflake import Snowflake


class Row(Protocol):
    """What the log's columns come in, whether from the driver or from a test."""

    def __getitem__(self, column: str, /) -> Any: ...


class Entry:
    """One event at its position. Frozen but for what takes its content back.

    A class with slots, not a struct: a busy node holds tens of thousands.
    """

    __slots__ = (
        "channel_id",
        "created_at",
        "frame",
        "guild_id",
        "outbox_id",
        "parent_id",
        "payload",
        "pos",
        "reshapes",
        "retracts",
        "retracts_channels",
        "revises",
        "subject",
        "type",
        "users",
    )

    def __init__(self, row: Row) -> None:
        self.pos: int = row["pos"]
        self.outbox_id: int = row["outbox_id"]
        self.type: str = row["type"]
        users = row["users"]
        # None: the members of `guild_id`. Otherwise these people and nobody else.
        self.users: frozenset[int] | None = None if users is None else frozenset(users)
        self.guild_id: Snowflake | None = row["guild_id"]
        self.channel_id: Snowflake | None = row["channel_id"]
        # The channel of the thread `channel_id`: who may see it may see what is in the thread.
        self.parent_id: Snowflake | None = row["parent_id"]
        # Whose sight of channels is another behind it: an account's, or with 0 anybody's.
        self.reshapes: int | None = row["reshapes"]
        self.subject: int | None = row["subject"]
        self.retracts: list[int] | None = row["retracts"]
        self.retracts_channels: list[int] | None = row["retracts_channels"]
        self.revises: int | None = row["revises"]
        # None once the content was taken back: such an entry is passed over.
        self.payload: bytes | None = row["payload"]
        self.created_at: datetime = row["created_at"]
        # What the gateway made of it, kept because all receivers get the same bytes.
        self.frame: bytes | None = None

    @property
    def is_internal(self) -> bool:
        """Whether it is for the server's own ears. The gateway's events are in capitals."""
        return self.type.islower()

    @property
    def size(self) -> int:
        """Roughly the bytes of memory that it holds."""
        return 400 + 2 * len(self.payload or b"") + 70 * len(self.users or ())

    def revise(self, payload: bytes | None) -> None:
        """Replace the content, or blank it with None."""
        self.payload = payload
        self.frame = None
