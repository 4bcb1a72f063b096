"""Migrations: numbered SQL files, applied once each, in order, and never backwards."""

import asyncio
import hashlib
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

if TYPE_CHECKING:
    from internal.db.postgres import Conn

__all__ = ["Migration", "MigrationError", "check", "migrate", "pending", "read_folder"]

# "parley" in ASCII: whoever holds it migrates, and the others wait.
ADVISORY_LOCK: Final = 0x7061726C6579
WAIT_FOR_OTHERS_S: Final = 600.0
LOOK_AGAIN_S: Final = 0.1
REPORT_S: Final = 5.0

# A statement that waits for a lock makes all behind it wait, so it gives up early and comes again.
LOCK_TIMEOUT: Final = "1s"
STATEMENT_TIMEOUT: Final = "5s"
ATTEMPTS: Final = 10
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0

WITHOUT_TRANSACTION: Final = "-- migrate: no-transaction"
_FILE_NAME: Final = re.compile(r"(?P<version>[0-9]{4})_(?P<name>[a-z0-9_]+)\.sql")
_REPEATABLE: Final = re.compile(r"\bIF\s+(NOT\s+)?EXISTS\b", re.IGNORECASE)

_log = structlog.stdlib.get_logger(__name__)


class MigrationError(Exception):
    """Why the schema can't be brought up to date, in one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the folder."""

    version: int
    file: str
    sql: str

    @property
    def checksum(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()

    @property
    def is_transactional(self) -> bool:
        return self.sql.split("\n", 1)[0].strip() != WITHOUT_TRANSACTION


def read_folder(folder: Path) -> tuple[Migration, ...]:
    """All migrations in order. MigrationError if the numbers have a gap or a number is twice."""
    found = sorted((_read(path) for path in folder.glob("*.sql")), key=lambda each: each.version)
    if not found:
        raise MigrationError(f"There are no migrations in {folder}.")
    for expected, migration in enumerate(found, start=1):
        if migration.version < expected:
            raise MigrationError(f"The number of {migration.file} is there twice.")
        if migration.version > expected:
            raise MigrationError(f"Number {expected:04} is missing before {migration.file}.")
    return tuple(found)


async def migrate(target: "Conn | str", folder: Path) -> list[str]:
    """Apply what the database lacks, over a connection or a DSN; returns the files applied.

    Several processes may do this at once: one applies, the others wait and find nothing to do.
    """
    migrations = read_folder(folder)
    if isinstance(target, str):
        async with _connection(target) as conn:
            return await _apply_pending(conn, migrations)
    return await _apply_pending(target, migrations)


async def pending(conn: "Conn", folder: Path) -> list[str]:
    """List the files that the database lacks. MigrationError if it doesn't go with the folder."""
    migrations = read_folder(folder)
    return [each.file for each in migrations[await _applied(conn, migrations) :]]


async def check(conn: "Conn", migrations: Sequence[Migration]) -> bool:
    """Whether the database has all migrations that we know; cheap enough for every /ready.

    It may have more: a newer release migrates while this one still runs beside it.
    """
    try:
        newest = await conn.fetchval("SELECT max(version) FROM schema_migrations")
    except asyncpg.UndefinedTableError:
        return False
    return newest is not None and newest >= migrations[-1].version


def _read(path: Path) -> Migration:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise MigrationError(f"{path} is not named like 0007_add_pins.sql.")
    try:
        # In one form of line ends, so that a checkout on another system is no edit.
        sql = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MigrationError(f"{path} can't be read: {error}.") from error
    migration = Migration(int(match["version"]), path.name, sql)
    if not migration.is_transactional and not _REPEATABLE.search(sql):
        raise MigrationError(
            f"{path.name} runs outside of a transaction and may be repeated after a crash, "
            "so it must say IF NOT EXISTS or IF EXISTS."
        )
    return migration


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator["Conn"]:
    try:
        conn = await asyncpg.connect(dsn, timeout=30)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise MigrationError(f"The database can't be reached: {error}.") from error
    try:
        yield conn
    finally:
        await conn.close()


async def _apply_pending(conn: "Conn", migrations: Sequence[Migration]) -> list[str]:
    async with _alone(conn):
        await _make_table(conn)
        done = await _applied(conn, migrations)
        for migration in migrations[done:]:
            started = time.monotonic()
            await _patiently(migration, _way_of(conn, migration))
            seconds = round(time.monotonic() - started, 3)
            _log.info("migration_applied", file=migration.file, seconds=seconds)
    return [each.file for each in migrations[done:]]


@asynccontextmanager
async def _alone(conn: "Conn") -> AsyncIterator[None]:
    """Hold the lock of migrating.

    By asking again and again: one long statement that waits would hold a snapshot, for which
    the CREATE INDEX CONCURRENTLY of whoever has the lock would wait in turn, for ever.
    """
    begun, reported = time.monotonic(), 0.0
    while not await conn.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
        waited = time.monotonic() - begun
        if waited > WAIT_FOR_OTHERS_S:
            raise MigrationError(
                f"Another process has been migrating for over {WAIT_FOR_OTHERS_S:.0f} s."
            )
        if waited - reported > REPORT_S:
            reported = waited
            _log.info("migration_waits_for_another_process", seconds=round(waited))
        await asyncio.sleep(LOOK_AGAIN_S)
    try:
        yield
    finally:
        # A broken connection has let go of it already.
        if not conn.is_closed():
            await conn.execute("SELECT pg_advisory_unlock($1)", ADVISORY_LOCK)


async def _make_table(conn: "Conn") -> None:
    """Make our table if it isn't there. Whoever else may use the tables may only read this one."""
    if await conn.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        return
    await conn.execute(
        """
        CREATE TABLE schema_migrations (
            version int PRIMARY KEY CHECK (version > 0),
            name text NOT NULL,
            checksum bytea NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        );

        DO $$
        DECLARE
            other text;
        BEGIN
            FOR other IN
                SELECT DISTINCT quote_ident(pg_get_userbyid(acl.grantee))
                  FROM pg_class AS class, aclexplode(class.relacl) AS acl
                 WHERE class.oid = 'schema_migrations'::regclass
                   AND acl.grantee NOT IN (0, class.relowner)
            LOOP
                EXECUTE 'REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON schema_migrations FROM '
                        || other;
            END LOOP;
        END
        $$;
        """
    )


async def _applied(conn: "Conn", migrations: Sequence[Migration]) -> int:
    """How many have been applied, after comparing each with its file."""
    try:
        rows = await conn.fetch(
            "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
        )
    except asyncpg.UndefinedTableError:
        return 0
    if rows and rows[-1]["version"] > migrations[-1].version:
        raise MigrationError(
            f"The database is newer ({rows[-1]['name']}) than this release, which knows "
            f"{migrations[-1].file}: start the newer release, or restore a backup."
        )
    for row, migration in zip(rows, migrations, strict=False):
        if row["version"] != migration.version:
            raise MigrationError(f"The database has {row['name']} but lacks {migration.file}.")
        if row["name"] != migration.file:
            raise MigrationError(f"{row['name']} was renamed to {migration.file} after its use.")
        if row["checksum"] != migration.checksum:
            raise MigrationError(
                f"{migration.file} was edited after it had been applied: "
                "put it back as it was, and write a new migration."
            )
    return len(rows)


def _way_of(conn: "Conn", migration: Migration) -> Callable[[], Awaitable[None]]:
    way = _in_transaction if migration.is_transactional else _without_transaction
    return lambda: way(conn, migration)


async def _in_transaction(conn: "Conn", migration: Migration) -> None:
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await conn.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
        await conn.execute(migration.sql)
        if not conn.is_in_transaction():
            raise MigrationError(f"{migration.file} must not end the transaction it runs in.")
        await _note(conn, migration)


async def _without_transaction(conn: "Conn", migration: Migration) -> None:
    """Run a single statement such as CREATE INDEX CONCURRENTLY, which waits but blocks nobody."""
    await _drop_broken_indexes(conn, migration)
    await conn.execute("SET lock_timeout = 0")
    await conn.execute("SET statement_timeout = 0")
    try:
        await conn.execute(migration.sql)
    finally:
        if not conn.is_closed():
            await conn.execute("RESET lock_timeout")
            await conn.execute("RESET statement_timeout")
    await _note(conn, migration)


async def _drop_broken_indexes(conn: "Conn", migration: Migration) -> None:
    """Remove what an interrupted CONCURRENTLY left: IF NOT EXISTS would take it for the index."""
    rows = await conn.fetch(
        """
        SELECT class.relname AS name, format('%I.%I', space.nspname, class.relname) AS quoted
          FROM pg_index
          JOIN pg_class AS class ON class.oid = pg_index.indexrelid
          JOIN pg_namespace AS space ON space.oid = class.relnamespace
         WHERE NOT pg_index.indisvalid
           AND space.nspname = ANY (current_schemas(false))
        """
    )
    for row in rows:
        if re.search(rf"\b{re.escape(row['name'])}\b", migration.sql):
            await conn.execute(f"DROP INDEX CONCURRENTLY {row['quoted']}")


async def _note(conn: "Conn", migration: Migration) -> None:
    await conn.execute(
        """
        INSERT INTO schema_migrations (version, name, checksum)
        VALUES ($1, $2, $3)
        """,
        migration.version,
        migration.file,
        migration.checksum,
    )


async def _patiently(migration: Migration, apply: Callable[[], Awaitable[None]]) -> None:
    """Apply one migration, coming again when others were in its way."""
    for attempt in range(ATTEMPTS):
        try:
            await apply()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            # Half of it by chance, so that it falls between the others' transactions some time.
            pause = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311
            _log.warning("migration_in_the_way", file=migration.file, reason=str(error))
            await asyncio.sleep(pause)
        except asyncpg.QueryCanceledError as error:
            raise MigrationError(
                f"{migration.file} took longer than {STATEMENT_TIMEOUT} in one statement: "
                "split it, or fill the rows in batches."
            ) from error
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.file}{_line(migration, error)}: {error}.") from error
        else:
            return
    raise MigrationError(
        f"{migration.file} was kept from its locks {ATTEMPTS} times: try again at a quieter hour."
    )


def _line(migration: Migration, error: asyncpg.PostgresError) -> str:
    """Where in the file the server found the fault, if it says so."""
    position = getattr(error, "position", None)
    if not isinstance(position, str) or not position.isdecimal():
        return ""
    return f", line {migration.sql.count(chr(10), 0, int(position)) + 1}"
