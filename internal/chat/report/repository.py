"""SQL for reports."""

import asyncpg

from internal.chat.message.model import Message
from internal.chat.report.model import Filed, Readable, Report, ReportPage, Resolution
from internal.db.postgres import Conn
from internal.user.model import User
from internal.utils.json import Timestamp, decoder, encode
from internal.utils.snowflake import Snowflake

_read_message = decoder(Message)


async def insert(conn: Conn, filed: Filed) -> bool:
    """File a report; False if the same person's report of the message is open already."""
    report = filed.report
    status: str = await conn.execute(
        """
        INSERT INTO reports (
               guild_id, id, channel_id, root_id, is_private, message_id, author_id, reporter_id,
               reason, category, snapshot
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (reporter_id, message_id) WHERE status = 'open' DO NOTHING
        """,
        report.guild_id,
        report.id,
        report.channel_id,
        filed.root_id,
        filed.is_private,
        report.message_id,
        report.message.author.id,
        report.reporter.id,
        report.reason,
        report.category,
        encode(report.message).decode(),
    )
    return status.endswith(" 1")


async def find_open(conn: Conn, reporter_id: Snowflake, message_id: Snowflake) -> Filed | None:
    """Somebody's open report of a message. Uses reports_open_idx."""
    row = await conn.fetchrow(
        """
        SELECT p.guild_id, p.id, p.channel_id, p.root_id, p.is_private, p.message_id, p.reason,
               p.category, p.snapshot, p.status, p.note, p.resolved_at, p.reporter_id,
               u.username, u.global_name, p.resolver_id, r.username AS resolver_username,
               r.global_name AS resolver_global_name
          FROM reports AS p
          JOIN users AS u ON u.id = p.reporter_id
          LEFT JOIN users AS r ON r.id = p.resolver_id
         WHERE p.reporter_id = $1 AND p.message_id = $2 AND p.status = 'open'
        """,
        reporter_id,
        message_id,
    )
    return None if row is None else _filed(row)


async def find(
    conn: Conn, guild_id: Snowflake, report_id: Snowflake, reader: Readable
) -> Filed | None:
    """A report of a guild that somebody may see."""
    row = await conn.fetchrow(
        """
        SELECT p.guild_id, p.id, p.channel_id, p.root_id, p.is_private, p.message_id, p.reason,
               p.category, p.snapshot, p.status, p.note, p.resolved_at, p.reporter_id,
               u.username, u.global_name, p.resolver_id, r.username AS resolver_username,
               r.global_name AS resolver_global_name
          FROM reports AS p
          JOIN users AS u ON u.id = p.reporter_id
          LEFT JOIN users AS r ON r.id = p.resolver_id
         WHERE p.guild_id = $1 AND p.id = $2
           AND p.author_id <> $3
           AND ($4::bigint[] IS NULL OR p.root_id = ANY ($4))
           AND (NOT p.is_private OR $5::bigint[] IS NULL OR p.root_id = ANY ($5))
        """,
        guild_id,
        report_id,
        reader.user_id,
        reader.channels,
        reader.private_threads,
    )
    return None if row is None else _filed(row)


async def page(conn: Conn, guild_id: Snowflake, page: ReportPage, reader: Readable) -> list[Filed]:
    """One page, by id: downwards, or upwards from `after`. Uses reports_status_idx."""
    order = "ASC" if page.after is not None else "DESC"
    rows = await conn.fetch(
        f"""
        SELECT p.guild_id, p.id, p.channel_id, p.root_id, p.is_private, p.message_id, p.reason,
               p.category, p.snapshot, p.status, p.note, p.resolved_at, p.reporter_id,
               u.username, u.global_name, p.resolver_id, r.username AS resolver_username,
               r.global_name AS resolver_global_name
          FROM reports AS p
          JOIN users AS u ON u.id = p.reporter_id
          LEFT JOIN users AS r ON r.id = p.resolver_id
         WHERE p.guild_id = $1
           AND ($2::text IS NULL OR p.status = $2)
           AND ($3::bigint IS NULL OR p.id < $3)
           AND ($4::bigint IS NULL OR p.id > $4)
           AND p.author_id <> $5
           AND ($6::bigint[] IS NULL OR p.root_id = ANY ($6))
           AND (NOT p.is_private OR $7::bigint[] IS NULL OR p.root_id = ANY ($7))
         ORDER BY p.id {order}
         LIMIT $8
        """,  # noqa: S608  # one of two constants
        guild_id,
        page.status,
        page.before,
        page.after,
        reader.user_id,
        reader.channels,
        reader.private_threads,
        page.limit,
    )
    return [_filed(row) for row in rows]


async def resolve(
    conn: Conn, guild_id: Snowflake, report_id: Snowflake, resolution: Resolution
) -> None:
    await conn.execute(
        """
        UPDATE reports
           SET status = $3, note = $4, resolver_id = $5, resolved_at = $6
         WHERE guild_id = $1 AND id = $2
        """,
        guild_id,
        report_id,
        resolution.status,
        resolution.note,
        resolution.resolver_id,
        resolution.at,
    )


def _filed(row: asyncpg.Record) -> Filed:
    report_id = Snowflake(row["id"])
    resolved_at = row["resolved_at"]
    return Filed(
        report=Report(
            id=report_id,
            guild_id=Snowflake(row["guild_id"]),
            channel_id=Snowflake(row["channel_id"]),
            message_id=Snowflake(row["message_id"]),
            reporter=User(
                id=Snowflake(row["reporter_id"]),
                username=row["username"],
                global_name=row["global_name"],
            ),
            reason=row["reason"],
            category=row["category"],
            created_at=Timestamp.at(report_id.created_at),
            message=_read_message(row["snapshot"]),
            status=row["status"],
            note=row["note"],
            resolver=_resolver(row),
            resolved_at=None if resolved_at is None else Timestamp.at(resolved_at),
        ),
        root_id=Snowflake(row["root_id"]),
        is_private=row["is_private"],
    )


def _resolver(row: asyncpg.Record) -> User | None:
    if row["resolver_id"] is None:
        return None
    return User(
        id=Snowflake(row["resolver_id"]),
        username=row["resolver_username"],
        global_name=row["resolver_global_name"],
    )
