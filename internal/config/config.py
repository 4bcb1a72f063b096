"""Every setting of the server in one frozen struct, and how it is read from the environment."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from internal.config import dotenv as dotenv_file
from internal.config.values import (
    MASK,
    SHORTEST_KEY,
    Choice,
    ConfigError,
    Duration,
    Folder,
    Host,
    HostOrSocket,
    Kind,
    Network,
    Networks,
    NotAllowedError,
    Number,
    Origins,
    RedisUrl,
    Secret,
    SecretText,
    ServerUrl,
    SigningKey,
    SigningKeys,
    Size,
    Text,
    WebUrl,
    Whole,
    Workers,
    hosts_in,
)

__all__ = [
    "Config",
    "ConfigError",
    "Secret",
    "Setting",
    "bound_to",
    "ensure_secret",
    "environ_of",
    "load",
    "read_dotenv",
    "settings_of",
]

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
_MS = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_SERVICE = "mymaster"
# As what a browser on this machine would write for an address that is only here, or everywhere.
_LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "::"}  # noqa: S104  # Compared, not bound.


@dataclass(frozen=True)
class Section:
    """The heading of the settings that follow, in the documents."""

    title: str


@dataclass(frozen=True)
class Derived:
    """Where the value of a setting comes from when it is not given."""

    source: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the server runs with. `load` makes it; a setting is named as its field, in capitals."""

    host: Annotated[
        str,
        Section("Server"),
        Host(),
        Meta(
            description="The address to listen on. The default is reached from this machine only;"
            " `0.0.0.0` (or `::`) opens the server to the network."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Whole(0, 65535),
        Meta(description="The port to listen on; 0 takes any free one and prints which."),
    ] = 8080
    public_url: Annotated[
        str,
        WebUrl(),
        Derived("from `HOST` and `PORT`"),
        Meta(description="The address of the server as its users see it, for links to it."),
    ]
    workers: Annotated[
        int,
        Workers(),
        Meta(
            description="How many processes serve on this machine. With more than one they share a"
            " Redis: that of `REDIS_URL`, or one that is started for them, which there is for Linux"
            " on x86-64 with Python 3.11 alone. Limits of connections hold for each process."
        ),
    ] = 1
    data_dir: Annotated[
        Path,
        Folder(),
        Meta(description="What the server keeps: the embedded database, its key, uploads."),
    ] = Path("var")
    cors_origins: Annotated[
        tuple[str, ...],
        Origins(),
        Meta(description="Web pages of these other origins may call the API."),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Networks(),
        Meta(description="`X-Forwarded-For` is believed when it comes from these."),
    ] = ()
    max_body_size: Annotated[
        int,
        Size(16 * KiB, 64 * MiB),
        Meta(description="The longest body of a request that is not an upload."),
    ] = MiB
    http_max_connections: Annotated[
        int,
        Whole(1, 1_000_000),
        Meta(description="The most HTTP connections at once; gateway sockets are not among them."),
    ] = 10_000
    http_connections_per_address: Annotated[
        int,
        Whole(1, 1_000_000),
        Meta(
            description="The most HTTP connections of one address (of one /64 with IPv6) at once."
            " `TRUSTED_PROXIES` may have any number."
        ),
    ] = 500
    rate_limit_scale: Annotated[
        float,
        Number(0.01, 1_000_000),
        Meta(description="Multiplies every rate limit: 2 lets everybody do twice as much."),
    ] = 1.0
    shutdown_timeout: Annotated[
        timedelta,
        Duration(timedelta(), 10 * _MINUTE),
        Meta(description="How long requests that are under way may take to end at a stop."),
    ] = 10 * _SECOND
    drain_delay: Annotated[
        timedelta,
        Duration(timedelta(), 10 * _MINUTE),
        Meta(
            description="How long a stopping server still accepts after `/ready` said 503, so that"
            " a balancer notices first."
        ),
    ] = timedelta()
    drain_window: Annotated[
        timedelta,
        Duration(timedelta(), 10 * _MINUTE),
        Meta(
            description="The longest time over which a stopping server spreads the farewell to its"
            " sockets, so that they do not all come back at once."
        ),
    ] = 30 * _SECOND

    database_url: Annotated[
        Secret | None,
        Section("Database"),
        ServerUrl(("postgresql", "postgres")),
        Derived("the embedded PostgreSQL, kept in `DATA_DIR`"),
        Meta(description="A PostgreSQL server, as `postgresql://user:password@host:5432/name`."),
    ] = None
    db_pool_size: Annotated[
        int,
        Whole(2, 90),
        Meta(description="The most connections to the database that serve requests."),
    ] = 10
    redis_url: Annotated[
        Secret | None,
        RedisUrl(("redis", "rediss", "unix")),
        Derived("none with one process, which needs none; an embedded one with several `WORKERS`"),
        Meta(
            description="The Redis that all nodes of a service share, as"
            " `redis://user:password@host:6379/0`; for a cluster or Sentinels with several hosts,"
            " separated by commas."
        ),
    ] = None
    redis_mode: Annotated[
        Literal["single", "cluster", "sentinel"],
        Choice(("single", "cluster", "sentinel")),
        Meta(
            description="What `REDIS_URL` names: one server, some nodes of a Redis Cluster, or the"
            " Sentinels that know the master."
        ),
    ] = "single"
    redis_sentinel_service: Annotated[
        str, Text(), Meta(description="The name by which the Sentinels know the master.")
    ] = _SERVICE

    jwt_secret: Annotated[
        Secret,
        Section("Accounts"),
        SigningKey(),
        Derived("with the embedded database: made once and kept in `DATA_DIR/jwt.secret`"),
        Meta(
            description=f"The key that signs access tokens, at least {SHORTEST_KEY} bytes. It has"
            " to be given with a database of your own."
        ),
    ] = Secret("")
    jwt_previous_secrets: Annotated[
        tuple[Secret, ...],
        SigningKeys(),
        Meta(
            description="Keys that signed before, separated by commas. They verify and never sign;"
            " leave one here for `REFRESH_EXPIRES_IN` after it was replaced."
        ),
    ] = ()
    jwt_expires_in: Annotated[
        timedelta,
        Duration(_SECOND, _DAY),
        Meta(description="How long an access token is good."),
    ] = 15 * _MINUTE
    refresh_expires_in: Annotated[
        timedelta,
        Duration(_SECOND, 400 * _DAY),
        Meta(description="How long a login that is not used stays good."),
    ] = 30 * _DAY
    bcrypt_cost: Annotated[
        int,
        Whole(4, 16),
        Meta(description="The cost of a password hash; each step doubles its time."),
    ] = 12
    registration: Annotated[
        Literal["open", "invite", "closed"],
        Choice(("open", "invite", "closed")),
        Meta(description="Who may make an account: anybody, the invited, or nobody."),
    ] = "open"

    upload_dir: Annotated[
        Path,
        Section("Uploads"),
        Folder(),
        Derived("`DATA_DIR/uploads`"),
        Meta(description="Where uploaded files are kept."),
    ]
    max_file_size: Annotated[
        int,
        Size(KiB, 4 * GiB),
        Meta(description="The largest file that may be uploaded."),
    ] = 25 * MiB

    heartbeat_interval: Annotated[
        timedelta,
        Section("Gateway"),
        Duration(100 * _MS, 10 * _MINUTE),
        Meta(description="How often a client has to send a heartbeat."),
    ] = timedelta(seconds=41.25)
    gateway_max_sockets: Annotated[
        int,
        Whole(1, 1_000_000),
        Meta(description="The most gateway sockets at once."),
    ] = 20_000
    gateway_sockets_per_address: Annotated[
        int,
        Whole(1, 1_000_000),
        Meta(
            description="The most sockets of one address (of one /64 with IPv6) that have not"
            " identified yet."
        ),
    ] = 100
    slow_reader_bytes: Annotated[
        int,
        Size(16 * KiB, 64 * MiB),
        Meta(
            description="How much may wait in a socket before its reader is taken out of the live"
            " stream and caught up from the log."
        ),
    ] = MiB
    log_retention: Annotated[
        timedelta,
        Duration(_MINUTE, 365 * _DAY),
        Meta(description="How long the event log is kept, and so how late a client may resume."),
    ] = _DAY
    replay_limit: Annotated[
        int,
        Whole(1, 1_000_000),
        Meta(description="The most events that a resume replays; past it a client starts anew."),
    ] = 10_000

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Section("Logs and metrics"),
        Choice(("debug", "info", "warning", "error")),
        Meta(description="The least important lines that are logged."),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"],
        Choice(("console", "json")),
        Meta(description="Lines for people, or one JSON object a line for machines."),
    ] = "console"
    metrics_host: Annotated[
        str,
        Host(),
        Meta(description="The address of the listener for `/metrics`, apart from the server's."),
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int,
        Whole(0, 65535),
        Meta(description="The port of the listener for `/metrics`; 0 takes any free one."),
    ] = 9090

    @property
    def is_embedded(self) -> bool:
        """Whether the server brings its own PostgreSQL."""
        return self.database_url is None


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What may be given in place of DATABASE_URL and REDIS_URL, piece by piece."""

    db_host: Annotated[
        str | None,
        Section("The database in parts, instead of `DATABASE_URL`"),
        HostOrSocket(),
        Meta(description="The host of PostgreSQL, or the folder of its socket."),
    ] = None
    db_port: Annotated[int, Whole(1, 65535), Meta(description="Its port.")] = 5432
    db_username: Annotated[str, Text(), Meta(description="The role to log in as.")] = "parley"
    db_password: Annotated[
        Secret | None, SecretText(), Meta(description="The password of the role, as it is.")
    ] = None
    db_database: Annotated[str, Text(), Meta(description="The database to use.")] = "parley"
    redis_host: Annotated[
        str | None,
        Section("Redis in parts, instead of `REDIS_URL`"),
        Host(),
        Meta(description="The host of Redis."),
    ] = None
    redis_port: Annotated[int, Whole(1, 65535), Meta(description="Its port.")] = 6379


@dataclass(frozen=True)
class Setting:
    """One field of a settings struct with all that is said about it."""

    field: str
    kind: Kind
    description: str
    default: object
    derived: str | None
    section: str | None

    @property
    def name(self) -> str:
        return self.field.upper()

    def write(self, value: object) -> str:
        """Write a value as it would be given, secrets too; none is empty."""
        if value is None:
            return ""
        if not self.kind.secret:
            return self.kind.show(value)
        return ",".join(value) if isinstance(value, tuple) else str(value)

    def read(self, text: str) -> object:
        try:
            return self.kind.read(text)
        except NotAllowedError as refusal:
            shown = MASK if self.kind.secret else ascii(text[:100])[1:-1]
            because = f": {refusal.reason}" if refusal.reason else ""
            raise ConfigError(
                f"{self.name}={shown} is refused{because}; it has to be {self.kind.allowed}."
            ) from None


def settings_of(struct: type[msgspec.Struct]) -> Iterator[Setting]:
    """Yield the settings of a struct in its order."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        said = {type(part): part for part in get_args(hints[field.name])[1:]}
        meta = said.pop(Meta)
        derived = said.pop(Derived, None)
        section = said.pop(Section, None)
        (kind,) = said.values()
        yield Setting(
            field=field.name,
            kind=kind,
            description=meta.description,
            default=None if field.required else field.default,
            derived=derived and derived.source,
            section=section and section.title,
        )


_SETTINGS = tuple(settings_of(Config))
_PARTS = tuple(settings_of(Parts))
_NAMES = frozenset(setting.name for setting in _SETTINGS + _PARTS)


def load(environ: Mapping[str, str], dotenv: str | None = None) -> Config:
    """Read the settings from the environment and the text of a .env file, which yields to it.

    An empty value counts as none. Raises ConfigError with the sentence to print.
    """
    given = _given(environ, dotenv)
    values = _values(_SETTINGS, given)
    parts = Parts(**_values(_PARTS, given))
    _refuse_mixtures(given, whole="DATABASE_URL", prefix="DB_", head="DB_HOST")
    _refuse_mixtures(given, whole="REDIS_URL", prefix="REDIS_", head="REDIS_HOST")
    if parts.db_host:
        values["database_url"] = _database_url(parts, parts.db_host)
    if parts.redis_host:
        values["redis_url"] = Secret(f"redis://{_bracketed(parts.redis_host)}:{parts.redis_port}/0")
    config = Config(**{"public_url": "", "upload_dir": Path(), **values})
    config = msgspec.structs.replace(
        config,
        public_url=config.public_url or _own_url(config),
        upload_dir=values.get("upload_dir", config.data_dir / "uploads"),
    )
    _refuse_contradictions(config)
    return config


def read_dotenv(path: Path) -> str | None:
    """The text of a .env file; None where there is none. ConfigError when it can't be read."""
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None


def bound_to(config: Config, port: int) -> Config:
    """Return the settings with the port that PORT=0 came to, in a derived PUBLIC_URL too."""
    bound = msgspec.structs.replace(config, port=port)
    if config.public_url != _own_url(config):
        return bound
    return msgspec.structs.replace(bound, public_url=_own_url(bound))


def environ_of(config: Config) -> dict[str, str]:
    """Write the settings as an environment, from which `load` makes the same again.

    It holds the secrets as they are.
    """
    return {s.name: s.write(getattr(config, s.field)) for s in _SETTINGS} | {
        s.name: "" for s in _PARTS
    }


def ensure_secret(config: Config) -> Config:
    """Return the settings with a signing key: the given one, or that of DATA_DIR.

    Several processes may ask at once for the first time; all get the same key.
    """
    if config.jwt_secret:
        return config
    path = config.data_dir / "jwt.secret"
    try:
        if not path.exists():
            _make_secret(path)
        return msgspec.structs.replace(config, jwt_secret=_read_secret(path))
    except OSError as error:
        raise ConfigError(
            f"The signing key in {path} can't be kept or read: {error.strerror}."
        ) from error


def _given(environ: Mapping[str, str], dotenv: str | None) -> dict[str, str]:
    from_file = dotenv_file.parse(dotenv) if dotenv else {}
    for name in from_file:
        if name not in _NAMES:
            close = get_close_matches(name.upper(), _NAMES, n=1)
            hint = f"the closest is {close[0]}" if close else "docs/configuration.md lists all"
            raise ConfigError(f"{name} in .env is no setting of this server; {hint}.")
    from_environ = {name: environ[name] for name in _NAMES if environ.get(name)}
    return {name: text for name, text in (from_file | from_environ).items() if text}


def _values(settings: Iterable[Setting], given: Mapping[str, str]) -> dict[str, Any]:
    return {s.field: s.read(given[s.name]) for s in settings if s.name in given}


def _refuse_mixtures(given: Mapping[str, str], *, whole: str, prefix: str, head: str) -> None:
    parts = sorted(s.name for s in _PARTS if s.name in given and s.name.startswith(prefix))
    if parts and whole in given:
        raise ConfigError(f"{whole} and {parts[0]} are both given; give one or the other.")
    if parts and head not in given:
        raise ConfigError(f"{parts[0]} is given without {head}, so it would have no effect.")


def _refuse_contradictions(config: Config) -> None:
    if not config.is_embedded and not config.jwt_secret:
        raise ConfigError(
            f"JWT_SECRET is missing; with a database of your own it has to be {SigningKey.allowed},"
            " as `openssl rand -base64 48` prints."
        )
    if config.port and (config.host, config.port) == (config.metrics_host, config.metrics_port):
        raise ConfigError(
            f"METRICS_PORT={config.metrics_port} is the server's own PORT; give it another."
        )

    if config.redis_url is not None:
        _refuse_confused_redis(config, str(config.redis_url))
    elif config.redis_mode != "single":
        raise ConfigError("REDIS_MODE is given without REDIS_URL, so it would have no effect.")
    if config.redis_sentinel_service != _SERVICE and config.redis_mode != "sentinel":
        raise ConfigError(
            "REDIS_SENTINEL_SERVICE is given without REDIS_MODE=sentinel, so it would have no"
            " effect."
        )


def _refuse_confused_redis(config: Config, url: str) -> None:
    mode, parts = config.redis_mode, urlsplit(url)
    if mode == "single" and len(hosts_in(url)) > 1:
        raise ConfigError(
            "REDIS_URL names several hosts, which is for REDIS_MODE=cluster or REDIS_MODE=sentinel."
        )
    if mode != "single" and parts.scheme == "unix":
        raise ConfigError(f"REDIS_URL names a socket, and REDIS_MODE={mode} needs hosts.")
    if mode == "cluster" and parts.path.strip("/") not in {"", "0"}:
        raise ConfigError("REDIS_URL names a database, and a Redis Cluster has none but 0.")


def _database_url(parts: Parts, host: str) -> Secret:
    user = quote(parts.db_username, safe="")
    if parts.db_password:
        user += f":{quote(parts.db_password, safe='')}"
    name = quote(parts.db_database, safe="")
    if host.startswith("/"):
        place, query = "", f"?host={quote(host, safe='')}&port={parts.db_port}"
    else:
        place, query = f"{_bracketed(host)}:{parts.db_port}", ""
    return Secret(f"postgresql://{user}@{place}/{name}{query}")


def _own_url(config: Config) -> str:
    host = "localhost" if config.host in _LOCAL else _bracketed(config.host)
    return f"http://{host}:{config.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _make_secret(path: Path) -> None:
    # The folder may be crossed, not listed: the embedded database runs as another account below it.
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    # Written aside and linked into place, so that no other process ever reads half a key, and the
    # first one wins. mkstemp opens with O_EXCL and 0600.
    handle, aside = tempfile.mkstemp(prefix=".jwt.secret.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(aside)
        _sync_folder(path.parent)
    except FileExistsError:
        return
    finally:
        Path(aside).unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_secret(path: Path) -> Secret:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, encoding="utf-8", errors="replace") as file:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            raise ConfigError(f"{path} may be read by others than its owner; run chmod 600 {path}.")
        text = file.read().strip()
    try:
        return SigningKey().read(text)
    except NotAllowedError as refusal:
        raise ConfigError(f"{path} holds no good key: {refusal.reason}; delete it.") from None
