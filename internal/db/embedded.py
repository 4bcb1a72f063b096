"""An embedded PostgreSQL: started, adopted, watched, restarted and stopped by us alone."""

import asyncio
import hashlib
import hmac
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
import structlog

from internal.db import cluster as files
from internal.db import process
from internal.db.cluster import EmbeddedError, Record
from internal.db.process import Process, ProcessId
from internal.db.roles import APP, DATABASE, OWNER, SUPERUSER, define_database, define_roles
from internal.db.unprivileged import ENVIRONMENT

__all__ = ["EmbeddedError", "EmbeddedPostgres", "embedded_postgres"]

# Recovery after a crash reads up to max_wal_size of log, which slow disks take minutes for.
START_S: Final = 600.0
REPORT_S: Final = 5.0
CONNECT_S: Final = 10.0
FAST_STOP_S: Final = 20.0
IMMEDIATE_STOP_S: Final = 10.0
# How often we look whether what an earlier process began has come to its end.
LOOK_S: Final = 0.05
LOOKS: Final = 100
# Workers notice by themselves that their postmaster is gone; one within a long query may not.
ORPHANS_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0
# After so long a life, a death is a new misfortune and no part of a series.
STABLE_S: Final = 60.0

# What a connection meets while the server comes up, goes down, or is killed in the middle of it.
_NOT_YET = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)
_log = structlog.stdlib.get_logger(__name__)


class Died(EmbeddedError):
    """The server ended before it answered."""


class EmbeddedPostgres:
    """One PostgreSQL server with its data below `data_dir`, ours alone while we live."""

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        socket_base: Path | None = None,
    ) -> None:
        """Extra settings may tune the server, never weaken what it promises of commits."""
        self._settings = files.render_settings(settings or {})
        self._binaries = binaries or files.find_binaries()
        self._fingerprint = files.fingerprint(self._settings, self._binaries)
        self._cluster = files.open_home(data_dir)
        self._socket_base = socket_base
        self._closing = asyncio.Event()
        self._lock_fd: int | None = None
        self._account: files.Account | None = None
        self._password = ""
        self._socket_dir: Path | None = None
        self._postmaster: Process | None = None
        self._log_offset = 0

    @property
    def pid(self) -> int:
        """The postmaster's number; another one after a restart."""
        if self._postmaster is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        return self._postmaster.pid

    @property
    def superuser_dsn(self) -> str:
        """For tools and tests that make databases; the server never uses it."""
        return self.dsn(SUPERUSER, SUPERUSER)

    @property
    def owner_dsn(self) -> str:
        """The role that owns the schema and applies migrations."""
        return self.dsn(OWNER)

    @property
    def app_dsn(self) -> str:
        """The role of the running server: it reads and writes rows, and defines nothing."""
        return self.dsn(APP)

    def dsn(self, role: str, database: str = DATABASE) -> str:
        if self._socket_dir is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        host = quote(str(self._socket_dir), safe="")
        return f"postgresql://{role}:{self._password_of(role)}@/{database}?host={host}&port=5432"

    async def start(self) -> None:
        """Have a server that answers, with our roles and database in it."""
        started = time.monotonic()
        try:
            self._lock_fd = files.lock_home(self._cluster)
            self._account = files.choose_account(self._cluster)
            await self._clear_workshops()
            self._password = files.read_or_make_password(self._cluster)
            if not files.is_cluster(self._cluster):
                await self._make_cluster(self._account)
            is_adopted = await self._adopt(self._account)
            if not is_adopted:
                await self._launch(self._account)
                await self._answering()
            await self._define()
        except BaseException as error:
            await self.stop()
            if isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                raise EmbeddedError(f"The embedded PostgreSQL can't start: {error}.") from error
            raise
        _log.info(
            "embedded_postgres_started",
            pid=self.pid,
            adopted=is_adopted,
            seconds=round(time.monotonic() - started, 3),
        )

    async def stop(self) -> None:
        """Stop the server and leave nothing running. Doing it twice changes nothing."""
        self._closing.set()
        if self._lock_fd is None:
            return
        try:
            if self._postmaster is not None:
                await self._end(self._postmaster)
                await self._clear_orphans()
                _log.info("embedded_postgres_stopped", pid=self._postmaster.pid)
                self._postmaster.release()
            if self._socket_dir is not None and self._account is not None:
                files.remove_socket_dir(self._socket_dir, self._account)
                self._cluster.record.unlink(missing_ok=True)
        finally:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def watch(self) -> None:
        """Restart the server whenever it dies, until stop() is called."""
        failures, pause = 0, FIRST_PAUSE_S
        while not self._closing.is_set():
            since = time.monotonic()
            dead = self._postmaster
            if dead is None:
                raise EmbeddedError("The embedded PostgreSQL has not been started.")
            await dead.ended()
            if self._closing.is_set():
                return
            if time.monotonic() - since > STABLE_S:
                failures, pause = 0, FIRST_PAUSE_S
            _log.error("embedded_postgres_died", pid=dead.pid, restarts_before=failures)
            if failures:
                await self._pause(pause)
            failures += 1
            pause = min(pause * 2, LONGEST_PAUSE_S)
            await self._restart()

    async def _restart(self) -> None:
        if self._account is None or self._closing.is_set():
            return
        try:
            await self._launch(self._account)
            await self._answering()
        except (EmbeddedError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if self._closing.is_set():
                return
            _log.error("embedded_postgres_restart_failed", reason=str(error))
        else:
            _log.info("embedded_postgres_restarted", pid=self.pid)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def _clear_workshops(self) -> None:
        """Clear up after a start that was killed. Its initdb fails soon, without its folder."""
        for _ in range(LOOKS):
            if files.remove_workshops(self._cluster):
                return
            await self._pause(LOOK_S)

    async def _make_cluster(self, account: files.Account) -> None:
        """Make the data aside, so that a death half-way leaves nothing under their name."""
        workshop = files.make_workshop(self._cluster, account, self._password)
        initdb = self._run(account, "initdb", files.initdb_arguments(workshop), needs=[workshop])
        held = Process(initdb.pid, child=initdb)
        try:
            await held.ended(within=START_S)
        finally:
            held.release()
            # Its helpers are in its group, which is its own and ends with it.
            if initdb.poll() is None:
                os.killpg(initdb.pid, signal.SIGKILL)
            code = initdb.wait()
        if code != 0:
            words = files.last_words(self._cluster, since=self._log_offset)
            raise EmbeddedError(f"PostgreSQL's data can't be made: {words}.")
        files.move_in(workshop, self._cluster)

    async def _adopt(self, account: files.Account) -> bool:
        """Take over the server that an earlier process left, or stop it if it isn't as we want.

        Adopting spares the checkpoint of a stop and the recovery of a start.
        """
        record = files.read_record(self._cluster)
        if record is not None and record.postmaster is not None:
            await self._grown_up(record.postmaster)
        postmaster = self._left_over(record)
        if postmaster is None or record is None:
            if postmaster is not None:
                await self._end(postmaster)
                postmaster.release()
            if record is not None:
                files.remove_socket_dir(Path(record.socket_dir), account)
            return False
        folder = Path(record.socket_dir)
        if record.settings == self._fingerprint and files.is_private(folder, account):
            self._postmaster, self._socket_dir = postmaster, folder
            with suppress(Died):
                await self._answering()
                return True
        await self._end(postmaster)
        postmaster.release()
        self._postmaster = self._socket_dir = None
        files.remove_socket_dir(folder, account)
        return False

    def _left_over(self, record: Record | None) -> Process | None:
        """Find the live postmaster of our data, if there is one; never anyone else's process.

        The pid file's number may have been given away since, so more must fit: the program, the
        folder that it works in, and its start, where we have written that down.
        """
        pid = self._cluster.pid()
        if pid is None:
            return None
        try:
            found = Process(pid)
        except ProcessLookupError:
            return None
        identity = process.identify(pid)
        known = record.postmaster if record is not None else None
        is_known = (
            known is None
            or known.pid != pid
            or (identity is not None and process.is_same(identity, known))
        )
        if is_known and process.serves(pid, self._cluster.data):
            return found
        found.release()
        return None

    async def _grown_up(self, newborn: ProcessId) -> None:
        """Wait for a server whose parent died right after starting it: it has no pid file yet."""
        identity = process.identify(newborn.pid)
        if identity is None or not process.is_same(identity, newborn):
            return
        for _ in range(LOOKS):
            if self._cluster.pid() == newborn.pid or process.identify(newborn.pid) is None:
                return
            await self._pause(LOOK_S)

    async def _launch(self, account: files.Account) -> None:
        await self._clear_orphans()
        # Whoever bears the number in it now, it is no server of these data. PostgreSQL itself
        # would look at the number alone and might refuse to start because of a stranger.
        self._cluster.pid_file.unlink(missing_ok=True)
        if self._socket_dir is None or not files.is_private(self._socket_dir, account):
            self._socket_dir = files.make_socket_dir(account, self._socket_base)
        files.empty_socket_dir(self._socket_dir, account)
        record = Record(socket_dir=str(self._socket_dir), settings=self._fingerprint)
        files.write_record(self._cluster, record)
        files.write_settings(self._cluster, account, self._settings)
        arguments = ["-D", str(self._cluster.data), "-k", str(self._socket_dir)]
        for name, value in files.DURABILITY.items():
            # Here rather than in the file, as nothing outranks the command line.
            arguments += ["-c", f"{name}={value}"]
        if self._closing.is_set():
            raise EmbeddedError("The embedded PostgreSQL is being stopped.")
        needs = [self._cluster.data, self._socket_dir]
        child = self._run(account, "postgres", arguments, needs=needs)
        if self._postmaster is not None:
            self._postmaster.release()
        self._postmaster = Process(child.pid, child=child)
        identity = process.identify(child.pid)
        record = Record(
            socket_dir=str(self._socket_dir), settings=self._fingerprint, postmaster=identity
        )
        files.write_record(self._cluster, record)

    def _run(
        self, account: files.Account, program: str, arguments: list[str], *, needs: list[Path]
    ) -> subprocess.Popen[bytes]:
        """Start a program of PostgreSQL in a session of its own.

        So that Ctrl-C in our terminal reaches us alone, and the order of stopping is ours.
        """
        log = files.open_log(self._cluster)
        self._log_offset = os.fstat(log).st_size
        try:
            return subprocess.Popen(  # noqa: S603  our own programs, no shell
                files.command(account, self._binaries / program, arguments, needs=needs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _answering(self) -> None:
        """Wait until the server answers, for as long as it lives and recovers."""
        postmaster = self._postmaster
        if postmaster is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        begun, reported = time.monotonic(), 0.0
        while not await self._answers():
            if not postmaster.alive:
                words = files.last_words(self._cluster, since=self._log_offset)
                raise Died(f"PostgreSQL ended while starting: {words} ({self._cluster.log}).")
            waited = time.monotonic() - begun
            if waited > START_S:
                raise EmbeddedError(f"PostgreSQL did not answer within {START_S:.0f} s.")
            if waited - reported > REPORT_S:
                reported = waited
                words = files.last_words(self._cluster, since=self._log_offset)
                _log.info("embedded_postgres_starting", seconds=round(waited), log=words)
            await postmaster.ended(within=min(0.01 + waited / 10, 0.5))

    async def _answers(self) -> bool:
        if not self._cluster.is_ready():
            return False
        try:
            conn = await self._connect(SUPERUSER)
        except asyncpg.TooManyConnectionsError:
            return True
        except asyncpg.InvalidPasswordError as error:
            raise EmbeddedError(
                f"{self._cluster.password} does not fit {self._cluster.data}: "
                "restore both from the same backup."
            ) from error
        except _NOT_YET:
            return False
        await conn.close()
        return True

    async def _connect(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(self.dsn(SUPERUSER, database), timeout=CONNECT_S)

    async def _define(self) -> None:
        """Make our roles and database, or make them right again."""
        passwords = {role: self._password_of(role) for role in (OWNER, APP)}
        for database, define in (
            (SUPERUSER, partial(define_roles, passwords=passwords)),
            (DATABASE, define_database),
        ):
            conn = await self._connect(database)
            try:
                await define(conn)
            finally:
                await conn.close()

    async def _end(self, postmaster: Process) -> None:
        """Fast shutdown, which writes a checkpoint; then immediate; then by force."""
        for number, patience in (
            (signal.SIGINT, FAST_STOP_S),
            (signal.SIGQUIT, IMMEDIATE_STOP_S),
            (signal.SIGKILL, None),
        ):
            postmaster.signal(number)
            if await postmaster.ended(within=patience):
                return
            _log.warning("embedded_postgres_slow_to_stop", pid=postmaster.pid, signal=number.name)

    async def _clear_orphans(self) -> None:
        """See off workers whose postmaster was killed: a new one can't start beside them."""
        orphans = process.all_serving(self._cluster.data)
        for number in (None, signal.SIGQUIT, signal.SIGKILL):
            for orphan in orphans:
                if number is not None:
                    orphan.signal(number)
            await asyncio.gather(*(orphan.ended(within=ORPHANS_S) for orphan in orphans))
        for orphan in orphans:
            orphan.release()

    def _password_of(self, role: str) -> str:
        """One secret is kept; those of the other roles follow from it, and not the other way."""
        if role == SUPERUSER:
            return self._password
        return hmac.new(self._password.encode(), role.encode(), hashlib.sha256).hexdigest()


@asynccontextmanager
async def embedded_postgres(
    data_dir: Path,
    *,
    settings: Mapping[str, str] | None = None,
    binaries: Path | None = None,
    socket_base: Path | None = None,
) -> AsyncIterator[EmbeddedPostgres]:
    """Run a server for the length of a block. Whoever stays long runs `watch()` in a task."""
    server = EmbeddedPostgres(
        data_dir, settings=settings, binaries=binaries, socket_base=socket_base
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
