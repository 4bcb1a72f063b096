"""SQL for the rules of automatic moderation, and for what they found."""

from collections.abc import Collection, Sequence
from datetime import datetime

import asyncpg

from internal.db.postgres import Conn
from internal.guild.automod.model import AutomodRule, Hit, OpenHit
from internal.user.model import User
from internal.utils.json import decoder, encode
from internal.utils.snowflake import Snowflake

# A rule, by its id and its version.
Edition = tuple[Snowflake, int]

_read_rule = decoder(AutomodRule)


async def insert(conn: Conn, rule: AutomodRule, version: int) -> None:
    await conn.execute(
        """
        INSERT INTO automod_rules (id, guild_id, creator_id, version, trigger_type, enabled, body)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        rule.id,
        rule.guild_id,
        rule.creator_id,
        version,
        rule.trigger_type,
        rule.enabled,
        encode(rule).decode(),
    )


async def of_guild(conn: Conn, guild_id: Snowflake) -> list[AutomodRule]:
    """The rules of a guild, by id: there are few. Uses automod_rules_pkey."""
    rows = await conn.fetch(
        "SELECT body FROM automod_rules WHERE guild_id = $1 ORDER BY id", guild_id
    )
    return [_read_rule(row["body"]) for row in rows]


async def find(conn: Conn, guild_id: Snowflake, rule_id: Snowflake) -> AutomodRule | None:
    body = await conn.fetchval(
        "SELECT body FROM automod_rules WHERE guild_id = $1 AND id = $2", guild_id, rule_id
    )
    return None if body is None else _read_rule(body)


async def enabled_in(
    conn: Conn, guild_ids: Collection[Snowflake]
) -> dict[Snowflake, list[Edition]]:
    """The rules that are in force in guilds, by id. Uses automod_rules_pkey."""
    rows = await conn.fetch(
        """
        SELECT guild_id, id, version
          FROM automod_rules
         WHERE guild_id = ANY ($1::bigint[]) AND enabled
         ORDER BY guild_id, id
        """,
        list(guild_ids),
    )
    found: dict[Snowflake, list[Edition]] = {}
    for row in rows:
        edition = (Snowflake(row["id"]), row["version"])
        found.setdefault(Snowflake(row["guild_id"]), []).append(edition)
    return found


async def bodies(
    conn: Conn, guild_ids: Collection[Snowflake], rule_ids: Sequence[Snowflake]
) -> dict[Edition, AutomodRule]:
    rows = await conn.fetch(
        """
        SELECT id, version, body
          FROM automod_rules
         WHERE guild_id = ANY ($1::bigint[]) AND id = ANY ($2::bigint[])
        """,
        list(guild_ids),
        rule_ids,
    )
    return {(Snowflake(row["id"]), row["version"]): _read_rule(row["body"]) for row in rows}


async def update(conn: Conn, rule: AutomodRule, version: int) -> None:
    await conn.execute(
        """
        UPDATE automod_rules
           SET version = $3, enabled = $4, body = $5
         WHERE guild_id = $1 AND id = $2
        """,
        rule.guild_id,
        rule.id,
        version,
        rule.enabled,
        encode(rule).decode(),
    )


async def delete(conn: Conn, guild_id: Snowflake, rule_id: Snowflake) -> None:
    await conn.execute(
        "DELETE FROM automod_rules WHERE guild_id = $1 AND id = $2", guild_id, rule_id
    )


# What rules found.


async def insert_hits(conn: Conn, hits: Sequence[Hit]) -> None:
    """Keep what is to be acted upon; what was found before, and rules that are no more, are not."""
    await conn.execute(
        """
        INSERT INTO automod_hits (
               id, guild_id, rule_id, author_id, channel_id, message_id, key, content,
               matched_keyword, matched_content
        )
        SELECT n.*
          FROM unnest(
               $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
               $7::text[], $8::text[], $9::text[], $10::text[]
               ) AS n (id, guild_id, rule_id, author_id, channel_id, message_id, key, content,
                       matched_keyword, matched_content)
          JOIN automod_rules AS r ON r.guild_id = n.guild_id AND r.id = n.rule_id
         ORDER BY n.guild_id, n.rule_id, n.author_id, n.key
        ON CONFLICT (guild_id, rule_id, author_id, key) DO NOTHING
        """,
        [hit.id for hit in hits],
        [hit.guild_id for hit in hits],
        [hit.rule_id for hit in hits],
        [hit.author_id for hit in hits],
        [hit.channel_id for hit in hits],
        [hit.message_id for hit in hits],
        [hit.key for hit in hits],
        [hit.content for hit in hits],
        [hit.matched_keyword for hit in hits],
        [hit.matched_content for hit in hits],
    )


async def next_open(conn: Conn) -> tuple[Snowflake, Snowflake] | None:
    """The oldest hit that is yet to be acted upon, and its guild. Uses automod_hits_open_idx."""
    row = await conn.fetchrow(
        "SELECT id, guild_id FROM automod_hits WHERE NOT is_done ORDER BY id LIMIT 1"
    )
    return None if row is None else (Snowflake(row["id"]), Snowflake(row["guild_id"]))


async def take(conn: Conn, hit_id: Snowflake) -> OpenHit | None:
    """A hit to be acted upon now; None if that is done. Needs the guild's lock."""
    row = await conn.fetchrow(
        """
        SELECT h.id, h.guild_id, h.rule_id, h.author_id, h.channel_id, h.message_id, h.key,
               h.content, h.matched_keyword, h.matched_content, r.body, u.username, u.global_name,
               m.timed_out_until
          FROM automod_hits AS h
          JOIN automod_rules AS r ON r.guild_id = h.guild_id AND r.id = h.rule_id
          JOIN users AS u ON u.id = h.author_id
          LEFT JOIN members AS m ON m.guild_id = h.guild_id AND m.user_id = h.author_id
         WHERE h.id = $1 AND NOT h.is_done
        """,
        hit_id,
    )
    return None if row is None else _open(row)


async def finish(conn: Conn, hit_id: Snowflake) -> None:
    """Note that a hit was acted upon, and forget what was said."""
    await conn.execute(
        """
        UPDATE automod_hits
           SET is_done = true, content = '', matched_keyword = NULL, matched_content = NULL
         WHERE id = $1
        """,
        hit_id,
    )


async def forget(conn: Conn, older_than: datetime, limit: int) -> int:
    """Delete up to `limit` hits that are so old; how many it were. Uses automod_hits_age_idx."""
    status: str = await conn.execute(
        """
        DELETE FROM automod_hits
         WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM automod_hits WHERE created_at < $1 LIMIT $2
         ))
        """,
        older_than,
        limit,
    )
    return int(status.rpartition(" ")[2])


async def time_out(conn: Conn, guild_id: Snowflake, user_id: Snowflake, until: datetime) -> None:
    await conn.execute(
        "UPDATE members SET timed_out_until = $3 WHERE guild_id = $1 AND user_id = $2",
        guild_id,
        user_id,
        until,
    )


def _open(row: asyncpg.Record) -> OpenHit:
    message_id = row["message_id"]
    author_id = Snowflake(row["author_id"])
    return OpenHit(
        hit=Hit(
            id=Snowflake(row["id"]),
            guild_id=Snowflake(row["guild_id"]),
            rule_id=Snowflake(row["rule_id"]),
            author_id=author_id,
            channel_id=Snowflake(row["channel_id"]),
            message_id=None if message_id is None else Snowflake(message_id),
            key=row["key"],
            content=row["content"],
            matched_keyword=row["matched_keyword"],
            matched_content=row["matched_content"],
        ),
        rule=_read_rule(row["body"]),
        author=User(id=author_id, username=row["username"], global_name=row["global_name"]),
        timed_out_until=row["timed_out_until"],
    )
