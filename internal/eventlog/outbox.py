"""The outbox: where a transaction leaves its events, as its last statement."""

from collections.abc import Iterable, Sequence

from internal.db.postgres import Conn
from internal.events import Event
from internal.utils.json import encode


async def write(conn: Conn, events: Sequence[Event]) -> None:
    """Add events in order. Call it after all row locks of the transaction are held.

    One statement, however many there are: lists of ids go as text, for arrays of arrays that
    differ in length can't be sent.
    """
    audiences = [event.audience() for event in events]
    await conn.execute(
        """
        INSERT INTO event_outbox (
               type, users, guild_id, channel_id, subject, retracts, retracts_channels, revises,
               payload, parent_id, reshapes
        )
        SELECT e.type, e.users::bigint[], e.guild_id, e.channel_id, e.subject,
               e.retracts::bigint[], e.retracts_channels::bigint[], e.revises, e.payload,
               e.parent_id, e.reshapes
          FROM unnest(
               $1::text[], $2::text[], $3::bigint[], $4::bigint[],
               $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::bytea[],
               $10::bigint[], $11::bigint[]
               ) WITH ORDINALITY AS e (
               type, users, guild_id, channel_id, subject, retracts, retracts_channels, revises,
               payload, parent_id, reshapes, place
               )
         ORDER BY e.place
        """,
        [event.type for event in events],
        [_ids(audience.users) for audience in audiences],
        [audience.guild_id for audience in audiences],
        [audience.channel_id for audience in audiences],
        [event.subject() for event in events],
        [_ids(event.retracts() or None) for event in events],
        [_ids(event.retracts_channels() or None) for event in events],
        [event.revises() for event in events],
        [encode(event.payload()) for event in events],
        [audience.parent_id for audience in audiences],
        [event.reshapes() for event in events],
    )


def _ids(ids: Iterable[int] | None) -> str | None:
    """Write ids as PostgreSQL reads an array."""
    return None if ids is None else f"{{{','.join(map(str, ids))}}}"
