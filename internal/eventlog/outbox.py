"""The outbox: where a transaction leaves its events, as its last statement."""

from collections.abc import Sequence

from internal.db.postgres import Conn
from internal.events import Event
from internal.utils.json import encode


async def write(conn: Conn, events: Sequence[Event]) -> None:
    """Add events in order. Call it after all row locks of the transaction are held."""
    rows = [_row(event) for event in events]
    if len(rows) == 1:
        await conn.execute(_INSERT, *rows[0])
    else:
        await conn.executemany(_INSERT, rows)


_INSERT = """
INSERT INTO event_outbox (
       type, users, guild_id, channel_id, subject, retracts, revises, payload
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


def _row(event: Event) -> tuple[object, ...]:
    audience = event.audience()
    return (
        event.type,
        audience.users,
        audience.guild_id,
        audience.channel_id,
        event.subject(),
        event.retracts() or None,
        event.revises(),
        encode(event.payload()),
    )
