"""Entries of the log for unit tests."""

from collections.abc import Iterable
from datetime import UTC, datetime

from internal.eventlog.model import Entry


def entry(  # every column has a default
    pos: int,
    kind: str = "MESSAGE_CREATE",
    *,
    guild: int | None = None,
    users: Iterable[int] | None = None,
    payload: bytes | None = b"{}",
    subject: int | None = None,
    retracts: list[int] | None = None,
    retracts_channels: list[int] | None = None,
    channel: int | None = None,
    revises: int | None = None,
    parent: int | None = None,
    reshapes: int | None = None,
) -> Entry:
    """An entry at `pos`; its outbox id is `1000 + pos`."""
    return Entry(
        {
            "pos": pos,
            "outbox_id": 1000 + pos,
            "type": kind,
            "users": None if users is None else list(users),
            "guild_id": guild,
            "channel_id": channel,
            "subject": subject,
            "retracts": retracts,
            "retracts_channels": retracts_channels,
            "revises": revises,
            "parent_id": parent,
            "reshapes": reshapes,
            "payload": payload,
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
    )
