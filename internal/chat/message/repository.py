"""SQL for messages and for the nonces of their sends."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

import asyncpg
import msgspec

from internal.chat.mention.model import NOBODY, MentionedUser, Mentions
from internal.chat.message.model import AUTO_MODERATION_ACTION, AuthorPurge, Message, StoredNonce
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
_read_mentions = decoder(Mentions)


async def insert_all(conn: Conn, messages: Sequence[Message]) -> None:
    await conn.execute(
        """
        INSERT INTO messages (
               channel_id, id, author_id, flags, content, nonce, mention_everyone,
               mention_users, mention_roles
        )
        SELECT n.channel_id, n.id, n.author_id, n.flags, n.content, n.nonce, n.everyone,
               n.users::bigint[], n.roles::bigint[]
          FROM unnest(
               $1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[], $6::text[],
               $7::boolean[], $8::text[], $9::text[]
               ) AS n (channel_id, id, author_id, flags, content, nonce, everyone, users, roles)
        """,
        [message.channel_id for message in messages],
        [message.id for message in messages],
        [message.author.id for message in messages],
        [message.flags for message in messages],
        [message.content for message in messages],
        [_nonce_text(message.nonce) for message in messages],
        [message.mention_everyone for message in messages],
        # Arrays of arrays would have to be of one length.
        [_array([user.id for user in message.mentions]) for message in messages],
        [_array(message.mention_roles) for message in messages],
    )


async def insert_alert(conn: Conn, message: Message) -> None:
    """Keep what somebody said to be shown to moderators."""
    await conn.execute(
        """
        INSERT INTO messages (channel_id, id, author_id, type, content)
        VALUES ($1, $2, $3, $4, $5)
        """,
        message.channel_id,
        message.id,
        message.author.id,
        message.type,
        message.content,
    )


async def claim_nonces(conn: Conn, wishes: Sequence[tuple[NonceKey, StoredNonce]]) -> set[NonceKey]:
    """Take the nonces that are free; those of others come back as not taken.

    Waits for other transactions that are taking the same ones, so give them in one order.
    """
    rows = await conn.fetch(
        """
        INSERT INTO message_nonces (
               author_id, nonce, channel_id, message_id, body_hash, username, global_name, mentions
        )
        SELECT *
          FROM unnest(
               $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[],
               $7::text[], $8::text[]
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
        [None if wish.mentions.is_nobody else encode(wish.mentions).decode() for _, wish in wishes],
    )
    return {(row["author_id"], row["nonce"]) for row in rows}


async def find_nonces(conn: Conn, keys: Sequence[NonceKey]) -> dict[NonceKey, StoredNonce]:
    rows = await conn.fetch(
        """
        SELECT n.author_id, n.nonce, n.channel_id, n.message_id, n.body_hash,
               n.username, n.global_name, n.mentions
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
            mentions=NOBODY if row["mentions"] is None else _read_mentions(row["mentions"]),
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
               u.username, u.global_name, m.mention_everyone, m.mention_roles, w.mentions
          FROM messages AS m
          JOIN users AS u ON u.id = m.author_id
         CROSS JOIN LATERAL (
               SELECT array_agg((w.id, w.username, w.global_name)
                                ORDER BY array_position(m.mention_users, w.id)) AS mentions
                 FROM users AS w
                WHERE w.id = ANY (m.mention_users)
               ) AS w
         WHERE m.channel_id = $1 AND m.id = $2
        """,
        channel_id,
        message_id,
    )
    return None if row is None else _message(row)


async def lock(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Snowflake | None:
    """Wait for one's turn to change a message; its author, or None if there is no such message.

    What was shown to moderators is nobody's: its author is 0 here.
    """
    author_id = await conn.fetchval(
        """
        SELECT CASE WHEN type = $3 THEN 0 ELSE author_id END
          FROM messages
         WHERE channel_id = $1 AND id = $2
           FOR NO KEY UPDATE
        """,
        channel_id,
        message_id,
        AUTO_MODERATION_ACTION,
    )
    return None if author_id is None else Snowflake(author_id)


async def page_before(
    conn: Conn, channel_id: Snowflake, before: Snowflake | None, limit: int
) -> list[Message]:
    """List the newest messages older than `before`, newest first. Uses messages_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.channel_id, m.id, m.type, m.flags, m.content, m.edited_at, m.author_id,
               u.username, u.global_name, m.mention_everyone, m.mention_roles, w.mentions
          FROM messages AS m
          JOIN users AS u ON u.id = m.author_id
         CROSS JOIN LATERAL (
               SELECT array_agg((w.id, w.username, w.global_name)
                                ORDER BY array_position(m.mention_users, w.id)) AS mentions
                 FROM users AS w
                WHERE w.id = ANY (m.mention_users)
               ) AS w
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
               u.username, u.global_name, m.mention_everyone, m.mention_roles, w.mentions
          FROM messages AS m
          JOIN users AS u ON u.id = m.author_id
         CROSS JOIN LATERAL (
               SELECT array_agg((w.id, w.username, w.global_name)
                                ORDER BY array_position(m.mention_users, w.id)) AS mentions
                 FROM users AS w
                WHERE w.id = ANY (m.mention_users)
               ) AS w
         WHERE m.channel_id = $1 AND m.id > $2
         ORDER BY m.id
         LIMIT $3
        """,
        channel_id,
        after,
        limit,
    )
    return [_message(row) for row in reversed(rows)]


async def find_all(conn: Conn, pairs: Sequence[Pair]) -> dict[Pair, Message]:
    """Those of the messages that are there, each by its channel and its id."""
    rows = await conn.fetch(
        """
        SELECT m.channel_id, m.id, m.type, m.flags, m.content, m.edited_at, m.author_id,
               u.username, u.global_name, m.mention_everyone, m.mention_roles, w.mentions
          FROM unnest($1::bigint[], $2::bigint[]) AS p (channel_id, id)
          JOIN messages AS m ON m.channel_id = p.channel_id AND m.id = p.id
          JOIN users AS u ON u.id = m.author_id
         CROSS JOIN LATERAL (
               SELECT array_agg((w.id, w.username, w.global_name)
                                ORDER BY array_position(m.mention_users, w.id)) AS mentions
                 FROM users AS w
                WHERE w.id = ANY (m.mention_users)
               ) AS w
        """,
        [channel_id for channel_id, _ in pairs],
        [message_id for _, message_id in pairs],
    )
    return {(row["channel_id"], row["id"]): _message(row) for row in rows}


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
        UPDATE messages
           SET content = $3, flags = $4, edited_at = $5,
               mention_everyone = $6, mention_users = $7, mention_roles = $8
         WHERE channel_id = $1 AND id = $2
        """,
        message.channel_id,
        message.id,
        message.content,
        message.flags,
        edited_at,
        message.mention_everyone,
        [user.id for user in message.mentions],
        message.mention_roles,
    )


async def set_flags(conn: Conn, channel_id: Snowflake, message_id: Snowflake, flags: int) -> None:
    await conn.execute(
        "UPDATE messages SET flags = $3 WHERE channel_id = $1 AND id = $2",
        channel_id,
        message_id,
        flags,
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


async def queue_author_purge(
    conn: Conn, guild_id: Snowflake, author_ids: Sequence[Snowflake], from_id: Snowflake
) -> None:
    """Note whose messages from an id up to their last one are to be deleted in a guild."""
    await conn.execute(
        """
        INSERT INTO author_purges (guild_id, author_id, from_id, below_id)
        SELECT $1, a.id, $3, l.id + 1
          FROM unnest($2::bigint[]) AS a (id)
         CROSS JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.author_id = a.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l
        """,
        guild_id,
        author_ids,
        from_id,
    )


async def next_author_purge(conn: Conn) -> Snowflake | None:
    """A guild in which messages of somebody are to be deleted."""
    guild_id = await conn.fetchval("SELECT guild_id FROM author_purges ORDER BY id LIMIT 1")
    return None if guild_id is None else Snowflake(guild_id)


async def lock_author_purge(conn: Conn, guild_id: Snowflake) -> AuthorPurge | None:
    """Take on what is to be deleted in a guild and nobody else is at. Needs the guild's lock."""
    row = await conn.fetchrow(
        """
        SELECT id, author_id, from_id, below_id
          FROM author_purges
         WHERE guild_id = $1
         ORDER BY id
         LIMIT 1
           FOR UPDATE SKIP LOCKED
        """,
        guild_id,
    )
    if row is None:
        return None
    return AuthorPurge(
        id=row["id"],
        guild_id=guild_id,
        author_id=Snowflake(row["author_id"]),
        from_id=Snowflake(row["from_id"]),
        below_id=Snowflake(row["below_id"]),
    )


async def purge_author(
    conn: Conn, purge: AuthorPurge, limit: int
) -> tuple[int, dict[Snowflake, list[Snowflake]]]:
    """Look at the newest `limit` messages of a purge, and delete those of its guild.

    How many were looked at, and what was deleted by channel. Uses messages_author_idx, so that it
    costs no more where somebody said most of it elsewhere.
    """
    seen = await conn.fetch(
        """
        SELECT channel_id, id
          FROM messages
         WHERE author_id = $1 AND id >= $2 AND id < $3
         ORDER BY id DESC
         LIMIT $4
        """,
        purge.author_id,
        purge.from_id,
        purge.below_id,
        limit,
    )
    rows = await conn.fetch(
        """
        WITH doomed AS (
            SELECT m.channel_id, m.id
              FROM unnest($2::bigint[], $3::bigint[]) AS s (channel_id, id)
              JOIN channels AS c ON c.id = s.channel_id AND c.guild_id = $1
              JOIN messages AS m ON m.channel_id = s.channel_id AND m.id = s.id
             WHERE m.type <> $4
             ORDER BY m.channel_id, m.id
               FOR UPDATE OF m
        )
        DELETE FROM messages AS m
         USING doomed
         WHERE m.channel_id = doomed.channel_id AND m.id = doomed.id
        RETURNING m.channel_id, m.id
        """,
        purge.guild_id,
        [row["channel_id"] for row in seen],
        [row["id"] for row in seen],
        # What moderators were shown of it stays with them.
        AUTO_MODERATION_ACTION,
    )
    deleted: dict[Snowflake, list[Snowflake]] = {}
    for channel_id, message_id in sorted((row["channel_id"], row["id"]) for row in rows):
        deleted.setdefault(Snowflake(channel_id), []).append(Snowflake(message_id))
    if len(seen) < limit:
        await conn.execute("DELETE FROM author_purges WHERE id = $1", purge.id)
    else:
        await conn.execute(
            "UPDATE author_purges SET below_id = $2 WHERE id = $1", purge.id, seen[-1]["id"]
        )
    return len(seen), deleted


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
        mention_everyone=row["mention_everyone"],
        mention_roles=tuple(map(Snowflake, row["mention_roles"])),
        mentions=tuple(
            MentionedUser(id=Snowflake(user_id), username=username, global_name=global_name)
            for user_id, username, global_name in row["mentions"] or ()
        ),
    )


def _count(status: str) -> int:
    """How many rows a statement says that it was about."""
    return int(status.rpartition(" ")[2])


def _array(ids: Sequence[Snowflake]) -> str:
    """The text of an array of ids."""
    return "{" + ",".join(map(str, ids)) + "}"


def _nonce_text(nonce: Nonce | msgspec.UnsetType) -> str | None:
    """The JSON of a nonce, so that a number stays one."""
    return None if nonce is msgspec.UNSET else encode(nonce).decode()
