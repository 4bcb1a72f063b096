"""The migration runner on a real PostgreSQL, with folders of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from internal.db import migrate as runner
from internal.db.embedded import EmbeddedPostgres, embedded_postgres
from internal.db.migrate import MigrationError, check, migrate, pending, read_folder

if TYPE_CHECKING:
    Conn = asyncpg.Connection[asyncpg.Record]

ROOT = Path(__file__).resolve().parents[2]

Connect = Callable[[], Awaitable["Conn"]]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres(tmp_path_factory.mktemp("migrations") / "var") as server:
        yield server


@pytest.fixture
async def dsn(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """Make an empty database that belongs to the owner, as ours does."""
    conn = await asyncpg.connect(server.superuser_dsn)
    await conn.execute("CREATE DATABASE trial TEMPLATE parley OWNER parley_owner")
    yield server.dsn("parley_owner", "trial")
    await conn.execute("DROP DATABASE trial WITH (FORCE)")
    await conn.close()


@pytest.fixture
async def connect(dsn: str) -> AsyncIterator[Connect]:
    opened: list[Conn] = []

    async def connect() -> "Conn":
        opened.append(await asyncpg.connect(dsn))
        return opened[-1]

    yield connect
    for conn in opened:
        await conn.close()


@pytest.fixture
async def conn(connect: Connect) -> "Conn":
    return await connect()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "0001_create_words.sql", "CREATE TABLE words (word text NOT NULL);")
    write(tmp_path, "0002_add_length.sql", "ALTER TABLE words ADD COLUMN length int;")
    return tmp_path


def write(folder: Path, name: str, sql: str) -> None:
    (folder / name).write_text(sql + "\n", encoding="utf-8")


def turn_line_ends(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


async def applied(conn: "Conn") -> list[str]:
    rows = await conn.fetch("SELECT name FROM schema_migrations ORDER BY version")
    return [row["name"] for row in rows]


async def test_applies_in_order_and_once(conn: "Conn", folder: Path) -> None:
    files = ["0001_create_words.sql", "0002_add_length.sql"]
    assert await pending(conn, folder) == files
    assert await migrate(conn, folder) == files
    assert await migrate(conn, folder) == []
    assert await pending(conn, folder) == []
    assert await applied(conn) == files

    write(folder, "0003_add_index.sql", "CREATE INDEX words_word_idx ON words (word);")
    assert await migrate(conn, folder) == ["0003_add_index.sql"]


async def test_takes_a_dsn(dsn: str, folder: Path) -> None:
    assert len(await migrate(dsn, folder)) == 2


async def test_check_tells_readiness(conn: "Conn", folder: Path) -> None:
    old = read_folder(folder)
    assert not await check(conn, old)
    await migrate(conn, folder)
    assert await check(conn, old)
    write(folder, "0003_more.sql", "SELECT 1;")
    new = read_folder(folder)
    assert not await check(conn, new)
    await migrate(conn, folder)
    # The release before goes on while this one takes over.
    assert await check(conn, new)
    assert await check(conn, old)


async def test_failed_file_leaves_nothing(conn: "Conn", folder: Path) -> None:
    write(folder, "0003_wrong.sql", "CREATE TABLE half (id int);\n\nSELECT nonsense;")
    with pytest.raises(MigrationError, match=r"0003_wrong\.sql, line 3: .*nonsense"):
        await migrate(conn, folder)
    assert await applied(conn) == ["0001_create_words.sql", "0002_add_length.sql"]
    assert await conn.fetchval("SELECT to_regclass('half') IS NULL")
    write(folder, "0003_wrong.sql", "CREATE TABLE half (id int);")
    assert await migrate(conn, folder) == ["0003_wrong.sql"]


async def test_edited_file_is_refused(conn: "Conn", folder: Path) -> None:
    await migrate(conn, folder)
    write(folder, "0001_create_words.sql", "CREATE TABLE words (word text);")
    with pytest.raises(MigrationError, match=r"0001_create_words\.sql was edited"):
        await migrate(conn, folder)
    with pytest.raises(MigrationError, match=r"0001_create_words\.sql was edited"):
        await pending(conn, folder)


async def test_line_ends_are_no_edit(conn: "Conn", folder: Path) -> None:
    await migrate(conn, folder)
    turn_line_ends(folder)
    assert await migrate(conn, folder) == []


async def test_renamed_file_is_refused(conn: "Conn", folder: Path) -> None:
    await migrate(conn, folder)
    (folder / "0002_add_length.sql").rename(folder / "0002_lengthen.sql")
    with pytest.raises(MigrationError, match="was renamed to 0002_lengthen"):
        await migrate(conn, folder)


async def test_newer_database_is_refused(conn: "Conn", folder: Path) -> None:
    await migrate(conn, folder)
    (folder / "0002_add_length.sql").unlink()
    with pytest.raises(MigrationError, match=r"newer \(0002_add_length\.sql\) than this release"):
        await migrate(conn, folder)
    with pytest.raises(MigrationError, match="newer"):
        await pending(conn, folder)


@pytest.mark.parametrize(
    ("name", "sql", "sentence"),
    [
        ("0004_later.sql", "SELECT 1;", "Number 0003 is missing"),
        ("0002_again.sql", "SELECT 1;", "is there twice"),
        ("3_short.sql", "SELECT 1;", "is not named like"),
        ("0000_zero.sql", "SELECT 1;", "is there twice"),
        (
            "0003_index.sql",
            "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY words_idx ON words (word);",
            "must say IF NOT EXISTS",
        ),
    ],
)
async def test_bad_folder_is_refused(folder: Path, name: str, sql: str, sentence: str) -> None:
    write(folder, name, sql)
    with pytest.raises(MigrationError, match=sentence):
        read_folder(folder)


async def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="no migrations"):
        read_folder(tmp_path)


async def test_many_processes_migrate_once(connect: Connect, folder: Path) -> None:
    write(folder, "0003_slow.sql", "SELECT pg_sleep(0.3);")
    conns = [await connect() for _ in range(4)]
    results = await asyncio.gather(*(migrate(conn, folder) for conn in conns))
    assert sorted(len(result) for result in results) == [0, 0, 0, 3]


async def test_lock_in_the_way_is_waited_for(
    conn: "Conn", connect: Connect, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(runner, "FIRST_PAUSE_S", 0.01)
    await migrate(conn, folder)
    write(folder, "0003_add_column.sql", "ALTER TABLE words ADD COLUMN language text;")
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT 1 FROM words")

    migration = asyncio.create_task(migrate(conn, folder))
    waiting = await connect()
    # It lets go between its attempts, so that others are not queued behind it.
    while not await waiting.fetchval(
        "SELECT true FROM pg_locks WHERE relation = 'words'::regclass AND NOT granted"
    ):
        assert not migration.done()
    while await waiting.fetchval(
        "SELECT true FROM pg_locks WHERE relation = 'words'::regclass AND NOT granted"
    ):
        assert not migration.done()
    await transaction.rollback()
    assert await migration == ["0003_add_column.sql"]


async def test_lock_that_stays_is_given_up(
    conn: "Conn", connect: Connect, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_TIMEOUT", "10ms")
    monkeypatch.setattr(runner, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(runner, "ATTEMPTS", 3)
    await migrate(conn, folder)
    write(folder, "0003_add_column.sql", "ALTER TABLE words ADD COLUMN language text;")
    other = await connect()
    async with other.transaction():
        await other.execute("LOCK TABLE words")
        with pytest.raises(MigrationError, match="was kept from its locks 3 times"):
            await migrate(conn, folder)
    assert await migrate(conn, folder) == ["0003_add_column.sql"]


async def test_long_statement_is_stopped(
    conn: "Conn", folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STATEMENT_TIMEOUT", "20ms")
    write(folder, "0003_long.sql", "SELECT pg_sleep(60);")
    with pytest.raises(MigrationError, match="took longer than 20ms"):
        await migrate(conn, folder)


async def test_file_that_ends_its_transaction_is_refused(conn: "Conn", folder: Path) -> None:
    write(folder, "0003_commits.sql", "COMMIT;")
    with pytest.raises(MigrationError, match="must not end the transaction"):
        await migrate(conn, folder)
    assert len(await applied(conn)) == 2


async def test_index_is_made_without_a_transaction(conn: "Conn", folder: Path) -> None:
    write(folder, "0003_index.sql", CONCURRENTLY)
    assert "0003_index.sql" in await migrate(conn, folder)
    assert await is_valid(conn)


async def test_index_of_an_interrupted_migration_is_made_anew(conn: "Conn", folder: Path) -> None:
    await migrate(conn, folder)
    await conn.execute("INSERT INTO words (word) VALUES ('twice'), ('twice')")
    write(folder, "0003_index.sql", CONCURRENTLY)
    with pytest.raises(MigrationError, match="could not create unique index"):
        await migrate(conn, folder)
    assert not await is_valid(conn)

    await conn.execute("TRUNCATE words")
    assert await migrate(conn, folder) == ["0003_index.sql"]
    assert await is_valid(conn)


async def test_index_waits_for_others_without_dead_ends(
    connect: Connect, conn: "Conn", folder: Path
) -> None:
    await migrate(conn, folder)
    write(folder, "0003_index.sql", CONCURRENTLY)
    conns = [await connect() for _ in range(3)]
    async with asyncio.timeout(20):
        results = await asyncio.gather(*(migrate(each, folder) for each in conns))
    assert sorted(len(result) for result in results) == [0, 0, 1]


async def test_app_reads_what_was_applied_and_can_not_change_it(
    server: EmbeddedPostgres, conn: "Conn", folder: Path
) -> None:
    await migrate(conn, folder)
    app = await asyncpg.connect(server.dsn("parley_app", "trial"))
    try:
        assert await check(app, read_folder(folder))
        await app.execute("INSERT INTO words (word) VALUES ('hello')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("DELETE FROM schema_migrations")
    finally:
        await app.close()


async def test_database_out_of_reach_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="can't be reached"):
        await migrate(f"postgresql://nobody@/nothing?host={tmp_path}", folder)


def test_program_migrates_the_embedded_database(tmp_path: Path) -> None:
    environ = {**os.environ, "DATA_DIR": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}
    environ.pop("DATABASE_URL", None)
    command = [sys.executable, str(ROOT / "cmd" / "migrate.py")]
    outputs = [
        subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    count = len(read_folder(ROOT / "migrations"))
    assert f"{count} migrations applied." in outputs[0]
    assert "Nothing to do." in outputs[1]
    assert not (tmp_path / "var" / "postgres" / "postmaster.pid").exists()


def test_program_that_is_terminated_leaves_no_server(tmp_path: Path) -> None:
    environ = {**os.environ, "DATA_DIR": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}
    environ.pop("DATABASE_URL", None)
    command = [sys.executable, str(ROOT / "cmd" / "migrate.py")]
    program = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "var").glob("postgres.new-*/data")):
        assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate()
    assert program.returncode == 1
    assert "Interrupted" in errors
    assert not (tmp_path / "var" / "postgres").exists()


CONCURRENTLY = """-- migrate: no-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS words_word_idx ON words (word);"""


async def is_valid(conn: "Conn") -> bool:
    found = await conn.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'words_word_idx'::regclass"
    )
    return bool(found)
