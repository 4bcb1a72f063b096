"""SQL for messages and for the nonces of their sends."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

import asyncpg
import msgspec

from internal.chat.message.model import Message, StoredNonce
from internal.db.postgres import Conn
from internal.user.model import User
from internal.utils.json import Timestamp, decoder, encode
from internal.utils.snowflake import Snowflake

# Who sent, and the key that the sender gave.
NonceKey = tuple[Snowflake, str]
# An author and a channel.
Pair = tuple[Snowflake, Snowflake]
# As the sender gave it.
Nonce = str | int

_read_nonce = decoder(cast("type[Nonce]", Nonce))


async def insert_all(conn: Conn, messages: Sequence[Message]) -> None:
    await conn.execute(
        """
        INSERT INTO messages (channel_id, id, author_id, flags, content, nonce)
        SELECT *
          FROM unnest(
               $1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[], $6::text[]
               )
        """,
        [message.channel_id for message in messages],
        [message.id for message in messages],
        [message.author.id for message in messages],
        [message.flags for message in messages],
        [message.content for message in messages],
        [_nonce_text(message.nonce) for message in messages],
    )


async def claim_nonces(conn: Conn, wishes: Sequence[tuple[NonceKey, StoredNonce]]) -> set[NonceKey]:
    """Take the nonces that are free; those of others come back as not taken.

    Waits for other transactions that are taking the same ones, so give them in one order.
    """
    rows = await conn.fetch(
        """
        INSERT INTO message_nonces (
               author_id, nonce, channel_id, message_id, body_hash, username, global_name
        )
        SELECT *
          FROM unnest(
               $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[],
               $7::text[]
               )
        ON CONFLICT (author_id, nonce) DO NOTHING
        RETURNING author_id, nonce
        """,
        [author_id for (author_id, _), _ in wishes],
        [nonce for (_, nonce), _ in wishes],
        [wish.channel_id for _, wish in wishes],
        [wish.message_id for _, wish in wishes],
        [wish.body_hash for _, wish in wishes],
        [wish.author.username for _, wish in wishes],
        [wish.author.global_name for _, wish in wishes],
    )
    return {(row["author_id"], row["nonce"]) for row in rows}


async def find_nonces(conn: Conn, keys: Sequence[NonceKey]) -> dict[NonceKey, StoredNonce]:
    rows = await conn.fetch(
        """
        SELECT n.author_id, n.nonce, n.channel_id, n.message_id, n.body_hash,
               n.username, n.global_name
          FROM unnest($1::bigint[], $2::text[]) AS k (author_id, nonce)
          JOIN message_nonces AS n ON n.author_id = k.author_id AND n.nonce = k.nonce
        """,
        [author_id for author_id, _ in keys],
        [nonce for _, nonce in keys],
    )
    return {
        (row["author_id"], row["nonce"]): StoredNonce(
            channel_id=Snowflake(row["channel_id"]),
            message_id=Snowflake(row["message_id"]),
            body_hash=row["body_hash"],
            author=User(
                id=Snowflake(row["author_id"]),
                username=row["username"],
                global_name=row["global_name"],
            ),
        )
        for row in rows
    }


async def release_nonces(conn: Conn, keys: Sequence[NonceKey]) -> None:
    await conn.execute(
        """
        DELETE FROM message_nonces AS n
         USING unnest($1::bigint[], $2::text[]) AS k (author_id, nonce)
         WHERE n.author_id = k.author_id AND n.nonce = k.nonce
        """,
        [author_id for author_id, _ in keys],
        [nonce for _, nonce in keys],
    )


async def mark_sends(conn: Conn, sends: Sequence[tuple[Pair, Snowflake]]) -> set[Pair]:
    """Mark the new message of each author and channel with slow mode; those that come too soon.

    No pair may be there twice. Waits for other transactions that mark the same ones, so they are
    taken in one order.
    """
    ordered = sorted(sends)
    rows = await conn.fetch(
        """
        INSERT INTO slowmode_marks AS s (author_id, channel_id, message_id)
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
        ON CONFLICT (channel_id, author_id) DO UPDATE
           SET message_id = EXCLUDED.message_id
         WHERE (EXCLUDED.message_id >> 22) - (s.message_id >> 22) >= (
               SELECT 1000 * c.rate_limit_per_user FROM channels AS c WHERE c.id = s.channel_id
               )
        RETURNING author_id, channel_id
        """,
        [author_id for (author_id, _), _ in ordered],
        [channel_id for (_, channel_id), _ in ordered],
        [message_id for _, message_id in ordered],
    )
    marked = {(row["author_id"], row["channel_id"]) for row in rows}
    return {pair for pair, _ in sends if pair not in marked}


async def last_marked(conn: Conn, pairs: Sequence[Pair]) -> dict[Pair, Snowflake]:
    """Look up the last message of each author in the channel, as `mark_sends` left it."""
    rows = await conn.fetch(
        """
        SELECT s.author_id, s.channel_id, s.message_id
          FROM unnest($1::bigint[], $2::bigint[]) AS p (author_id, channel_id)
          JOIN slowmode_marks AS s ON s.channel_id = p.channel_id AND s.author_id = p.author_id
        """,
        [author_id for author_id, _ in pairs],
        [channel_id for _, channel_id in pairs],
    )
    return {(row["author_id"], row["channel_id"]): Snowflake(row["message_id"]) for row in rows}


async def sweep_marks(conn: Conn, older_than: Snowflake, limit: int) -> int:
    """Forget up to `limit` of the marks that no slow mode reaches back to; how many it were."""
    status: str = await conn.execute(
        """
        DELETE FROM slowmode_marks
         WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM slowmode_marks WHERE message_id < $1 LIMIT $2
         ))
        """,
        older_than,
        limit,
    )
    return _count(status)


async def lock_purge(conn: Conn) -> Snowflake | None:
    """Take on a channel whose messages are to be purged and that nobody else is at."""
    channel_id = await conn.fetchval(
        "SELECT channel_id FROM purges ORDER BY channel_id LIMIT 1 FOR UPDATE SKIP LOCKED"
    )
    return None if channel_id is None else Snowflake(channel_id)


async def purge(conn: Conn, channel_id: Snowflake, limit: int) -> int:
    """Delete up to `limit` messages of a channel; how many it were. Uses messages_pkey."""
    status: str = await conn.execute(
        """
        DELETE FROM messages
         WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM messages WHERE channel_id = $1 ORDER BY id LIMIT $2
         ))
        """,
        channel_id,
        limit,
    )
    return _count(status)


async def end_purge(conn: Conn, channel_id: Snowflake) -> None:
    """Note that nothing is left of a channel."""
    await conn.execute("DELETE FROM slowmode_marks WHERE channel_id = $1", channel_id)
    await conn.execute("DELETE FROM purges WHERE channel_id = $1", channel_id)


async def find(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Message | None:
    row = await conn.fetchrow(
        """
        SELECT m.channel_id, m.id, m.type, m.flags, m.content, m.edited_at, m.author_id,
               u.username, u.global_name
          FROM messages AS m
          JOIN users AS u ON u.id = m.author_id
         WHERE m.channel_id = $1 AND m.id = $2
        """,
        channel_id,
        message_id,
    )
    return None if row is None else _message(row)


async def lock(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Snowflake | None:
    """Wait for one's turn to change a message; its author, or None if there is no such message."""
    author_id = await conn.fetchval(
        "SELECT author_id FROM messages WHERE channel_id = $1 AND id = $2 FOR NO KEY UPDATE",
        channel_id,
        message_id,
    )
    return None if author_id is None else Snowflake(author_id)


async def page_before(
    conn: Conn, channel_id: Snowflake, before: Snowflake | None, limit: int
) -> list[Message]:
    """List the newest messages older than `before`, newest first. Uses messages_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.channel_id, m.id, m.type, m.flags, m.content, m.edited_at, m.author_id,
               u.username, u.global_name
          FROM messages AS m
          JOIN users AS u ON u.id = m.author_id
         WHERE m.channel_id = $1 AND m.id < coalesce($2::bigint, 9223372036854775807)
         ORDER BY m.id DESC
         LIMIT $3
        """,
        channel_id,
        before,
        limit,
    )
    return [_message(row) for row in rows]


async def page_after(
    conn: Conn, channel_id: Snowflake, after: Snowflake, limit: int
) -> list[Message]:
    """List the oldest messages newer than `after`, newest first all the same."""
    rows = await conn.fetch(
        """
        SELECT m.channel_id, m.id, m.type, m.flags, m.content, m.edited_at, m.author_id,
               u.username, u.global_name
          FROM messages AS m
          JOIN users AS u ON u.id = m.author_id
         WHERE m.channel_id = $1 AND m.id > $2
         ORDER BY m.id
         LIMIT $3
        """,
        channel_id,
        after,
        limit,
    )
    return [_message(row) for row in reversed(rows)]


async def find_nonce(
    conn: Conn, channel_id: Snowflake, message_id: Snowflake
) -> Nonce | msgspec.UnsetType:
    """What the sender called a message, if anything; enforced or not."""
    nonce = await conn.fetchval(
        "SELECT nonce FROM messages WHERE channel_id = $1 AND id = $2", channel_id, message_id
    )
    return msgspec.UNSET if nonce is None else _read_nonce(nonce)


async def update(conn: Conn, message: Message, edited_at: datetime) -> None:
    await conn.execute(
        """
        UPDATE messages SET content = $3, flags = $4, edited_at = $5
         WHERE channel_id = $1 AND id = $2
        """,
        message.channel_id,
        message.id,
        message.content,
        message.flags,
        edited_at,
    )


async def delete(
    conn: Conn, channel_id: Snowflake, message_ids: Sequence[Snowflake]
) -> list[Snowflake]:
    """Delete those of the messages that are there, and say which, ascending."""
    rows = await conn.fetch(
        """
        WITH doomed AS (
            SELECT id FROM messages
             WHERE channel_id = $1 AND id = ANY($2::bigint[])
             ORDER BY id
               FOR UPDATE
        )
        DELETE FROM messages AS m
         USING doomed
         WHERE m.channel_id = $1 AND m.id = doomed.id
        RETURNING m.id
        """,
        channel_id,
        message_ids,
    )
    return sorted(Snowflake(row["id"]) for row in rows)


async def sweep_nonces(conn: Conn, older_than: datetime, limit: int) -> int:
    """Forget up to `limit` of the nonces that are too old to be asked for; how many it were."""
    status: str = await conn.execute(
        """
        DELETE FROM message_nonces
         WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM message_nonces WHERE created_at < $1 LIMIT $2
         ))
        """,
        older_than,
        limit,
    )
    return _count(status)


def _message(row: asyncpg.Record) -> Message:
    message_id = Snowflake(row["id"])
    edited_at = row["edited_at"]
    return Message(
        id=message_id,
        channel_id=Snowflake(row["channel_id"]),
        author=User(
            id=Snowflake(row["author_id"]),
            username=row["username"],
            global_name=row["global_name"],
        ),
        content=row["content"],
        timestamp=Timestamp.at(message_id.created_at),
        edited_timestamp=None if edited_at is None else Timestamp.at(edited_at),
        type=row["type"],
        flags=row["flags"],
    )


def _count(status: str) -> int:
    """How many rows a statement says that it was about."""
    return int(status.rpartition(" ")[2])


def _nonce_text(nonce: Nonce | msgspec.UnsetType) -> str | None:
    """The JSON of a nonce, so that a number stays one."""
    return None if nonce is msgspec.UNSET else encode(nonce).decode()
