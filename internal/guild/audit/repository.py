"""SQL for the audit log."""

from collections.abc import Sequence

import asyncpg
import msgspec

from internal.db.postgres import Conn
from internal.guild.audit.model import AuditEntry, AuditPage, Change, EntryOfGuild
from internal.user.model import User
from internal.utils.json import decoder, encode
from internal.utils.snowflake import Snowflake

_read_changes = decoder(tuple[Change, ...])
_read_options = decoder(dict[str, str])


async def insert(conn: Conn, entries: Sequence[EntryOfGuild]) -> None:
    await conn.executemany(
        """
        INSERT INTO audit_log (
               id, guild_id, actor_id, action_type, target_id, changes, options, reason
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        [
            (
                entry.id,
                entry.guild_id,
                entry.user_id,
                entry.action_type,
                entry.target_id,
                _json(entry.changes),
                _json(entry.options),
                None if entry.reason is msgspec.UNSET else entry.reason,
            )
            for entry in entries
        ],
    )


async def page(conn: Conn, guild_id: Snowflake, page: AuditPage) -> list[AuditEntry]:
    """One page, by id: downwards, or upwards from `after`."""
    order = "ASC" if page.after is not None else "DESC"
    rows = await conn.fetch(
        f"""
        SELECT id, actor_id, action_type, target_id, changes, options, reason
          FROM audit_log
         WHERE guild_id = $1
           AND ($2::bigint IS NULL OR actor_id = $2)
           AND ($3::smallint IS NULL OR action_type = $3)
           AND ($4::bigint IS NULL OR target_id = $4)
           AND ($5::bigint IS NULL OR id < $5)
           AND ($6::bigint IS NULL OR id > $6)
         ORDER BY id {order}
         LIMIT $7
        """,  # noqa: S608  # one of two constants
        guild_id,
        page.user_id,
        page.action_type,
        page.target_id,
        page.before,
        page.after,
        page.limit,
    )
    return [_entry(row) for row in rows]


async def accounts(conn: Conn, ids: Sequence[Snowflake]) -> list[User]:
    """Those of these ids that are accounts, by id: targets may be anything."""
    rows = await conn.fetch(
        "SELECT id, username, global_name FROM users WHERE id = ANY($1::bigint[]) ORDER BY id", ids
    )
    return [
        User(id=Snowflake(row["id"]), username=row["username"], global_name=row["global_name"])
        for row in rows
    ]


def _json(value: object) -> str | None:
    return None if value is msgspec.UNSET else encode(value).decode()


def _id(number: int | None) -> Snowflake | None:
    return None if number is None else Snowflake(number)


def _entry(row: asyncpg.Record) -> AuditEntry:
    changes, options, reason = row["changes"], row["options"], row["reason"]
    return AuditEntry(
        id=Snowflake(row["id"]),
        user_id=_id(row["actor_id"]),
        target_id=_id(row["target_id"]),
        action_type=row["action_type"],
        changes=msgspec.UNSET if changes is None else _read_changes(changes),
        options=msgspec.UNSET if options is None else _read_options(options),
        reason=msgspec.UNSET if reason is None else reason,
    )
