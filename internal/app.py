"""The composition root: who is made of what. The only module that knows everyone."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import structlog
from aiohttp.web import Application

from internal.auth.handler import AuthHandler
from internal.auth.instance.handler import InstanceHandler
from internal.auth.instance.service import InstanceService
from internal.auth.service import AuthService
from internal.auth.session.handler import SessionHandler
from internal.auth.session.service import SessionService
from internal.channel.handler import ChannelHandler
from internal.channel.service import ChannelService
from internal.chat.message.handler import MessageHandler
from internal.chat.message.model import SendMessage
from internal.chat.message.service import MessageService
from internal.chat.typing.handler import TypingHandler
from internal.chat.typing.service import TypingService
from internal.chat.ws.cursor import CursorSigner
from internal.chat.ws.handler import GatewayHandler
from internal.chat.ws.hub import Hub
from internal.chat.ws.model import Doors, Limits, State
from internal.chat.ws.service import GatewayService
from internal.chat.ws.view import ended_sessions
from internal.config.config import Config
from internal.config.values import origin_of
from internal.db.migrate import check, read_folder
from internal.db.postgres import Conn, Database, Pool, Transaction, refuse_unsafe
from internal.db.worker import WorkerLease
from internal.errors import Unavailable
from internal.eventlog import outbox
from internal.eventlog.model import Entry
from internal.eventlog.repository import Backlog
from internal.eventlog.ring import Ring
from internal.eventlog.sequencer import Sequencer
from internal.eventlog.tailer import Tailer
from internal.guild.handler import GuildHandler
from internal.guild.service import GuildService
from internal.middleware.rate_limit import IDENTIFY, SEND, RateLimits
from internal.monitoring.health import Health
from internal.monitoring.metrics import LoopLag, Metrics, metrics_app
from internal.routes.routes import Handlers
from internal.routes.site import site
from internal.user.handler import UserHandler
from internal.user.service import UserService
from internal.utils.actor import Actor
from internal.utils.background import Background
from internal.utils.bucket import LocalLimiter
from internal.utils.clock import Clock, SystemClock
from internal.utils.json import UnreadableJson, decoder
from internal.utils.jwt import AccessTokens
from internal.utils.password import Passwords
from internal.utils.snowflake import Snowflake
from internal.utils.token import RefreshTokens, derive, readable
from internal.utils.validator import body_error

_log = structlog.get_logger(__name__)

MIGRATIONS: Final = Path(__file__).resolve().parents[1] / "migrations"
# Below this the database is about to stop writing.
_FREE_BYTES: Final = 64 << 20
_RING_ENTRIES: Final = 50_000
_RING_BYTES: Final = 32 << 20
_WARM: Final = 10_000
_SECOND: Final = 1.0
_MINUTE: Final = 60.0
_SWEEP_ROWS: Final = 5_000
# A statement that takes longer has lost its client's patience; a lock that is waited for longer
# belongs to somebody who is stuck.
_SERVER_SETTINGS: Final = {
    "application_name": "parley",
    "statement_timeout": "30000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "10000",
    "synchronous_commit": "on",
    # Statements are planned while their tables are small and the plans kept while these grow. Every
    # statement here has its index, so a plan that reads a whole table is always the wrong one.
    "enable_seqscan": "off",
    "jit": "off",
}

_read_send = decoder(SendMessage)


@dataclass(frozen=True, slots=True)
class App:
    """What is alive while the server runs. Tests reach in here; features never do."""

    db: Database
    gateway: GatewayService
    tailer: Tailer
    health: Health
    metrics: Metrics
    background: Background
    web: Application
    metrics_web: Application
    setup_secret: Callable[[], Awaitable[str | None]]
    address: "Address"

    @property
    def config(self) -> Config:
        return self.address.config


@dataclass(slots=True)
class Address:
    """The configuration, once the port is known that PORT=0 came to."""

    config: Config

    def gateway(self) -> str:
        return self.config.public_url.replace("http", "ws", 1) + "/gateway"


@asynccontextmanager
async def open_app(config: Config) -> AsyncIterator[App]:
    """Open everything, in order; close it in reverse.

    `config` names a database with the newest schema, and a signing key.
    """
    clock, metrics, address = SystemClock(), Metrics(), Address(config)
    background = Background()
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(_pool(config))
        platform = await _open_platform(config, pool, clock, metrics, stack)
        stack.push_async_callback(background.stop)
        hub = Hub()
        features = await _open_features(config, platform, hub, stack)
        gateway = _open_gateway(config, platform, hub, features, metrics, address)
        platform.tailer.subscribe(features.forget_ended)
        platform.tailer.subscribe(gateway.hub.publish)
        gateway.hub.pos = platform.tailer.pos
        lag = LoopLag(metrics)
        health = _health(platform, lag, config.data_dir)
        _observe(metrics, platform, gateway, features)
        background.start("worker-lease", platform.worker.keep())
        background.start("sequencer", platform.sequencer.run())
        background.start("messages", features.messages.run())
        background.start("gateway-sweep", gateway.sweep())
        background.start("loop-lag", lag.sample())
        background.start("sweep-sessions", _every(_SECOND, features.sessions.sweep))
        background.start("sweep-messages", _every(_SECOND, features.messages.purge))
        background.start("sweep-nonces", _every(_MINUTE, features.messages.sweep_nonces))
        background.start("sweep-marks", _every(_MINUTE, features.messages.sweep_marks))
        handlers = Handlers(
            auth=AuthHandler(features.auth),
            sessions=SessionHandler(features.sessions),
            instance=InstanceHandler(features.instance),
            users=UserHandler(features.users),
            guilds=GuildHandler(features.guilds),
            channels=ChannelHandler(features.channels),
            messages=MessageHandler(features.messages),
            typing=TypingHandler(features.typing),
            gateway=GatewayHandler(
                gateway, origins=config.cors_origins, public_origin=origin_of(config.public_url)
            ),
            health=health,
        )
        application = site(
            config,
            handlers,
            authenticate=features.sessions.authenticate,
            limits=features.limits,
            observe=metrics.observe_request,
            clock=clock,
        )
        application.on_shutdown.append(lambda _application: gateway.drain())

        yield App(
            db=platform.db,
            gateway=gateway,
            tailer=platform.tailer,
            health=health,
            metrics=metrics,
            background=background,
            web=application,
            metrics_web=metrics_app(metrics),
            setup_secret=features.instance.setup_secret,
            address=address,
        )


# The platform: the database, the log, ids.


@dataclass(frozen=True, slots=True)
class _Platform:
    pool: Pool
    db: Database
    tailer: Tailer
    sequencer: Sequencer
    worker: WorkerLease
    clock: Clock
    instance_id: str


@asynccontextmanager
async def _pool(config: Config) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(
        str(config.database_url),
        min_size=0,
        max_size=config.db_pool_size,
        command_timeout=60,
        reset=_reset,
        server_settings=_SERVER_SETTINGS,
    ) as pool:
        yield pool


async def _reset(conn: Conn) -> None:
    """Make a connection as new: only an open transaction can have been left behind here.

    Asking the server to forget what nobody has set would cost every request a round trip.
    """
    if conn.is_in_transaction():
        await conn.execute("ROLLBACK")


async def _open_platform(
    config: Config, pool: Pool, clock: Clock, metrics: Metrics, stack: AsyncExitStack
) -> _Platform:
    ring = Ring(max_entries=_RING_ENTRIES, max_bytes=_RING_BYTES)
    tailer = Tailer(ring, on_gap=metrics.log_gaps.inc)

    def observe(backlog: Backlog) -> None:
        metrics.tailer_lag.set(backlog.head - tailer.pos)

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            str(config.database_url),
            timeout=10,
            command_timeout=30,
            server_settings=_SERVER_SETTINGS,
        )

    sequencer = Sequencer(connect, tailer, keep=config.log_retention, observe=observe)
    db = Database(pool, outbox.write, sequencer.kick)
    async with pool.acquire() as conn:
        await refuse_unsafe(conn)
        await tailer.start(conn, _WARM)
        instance_id = str(await conn.fetchval("SELECT id FROM instance"))
    worker = WorkerLease(db, clock)
    await worker.take()
    stack.push_async_callback(worker.release)
    return _Platform(pool, db, tailer, sequencer, worker, clock, instance_id)


# The features.


@dataclass(frozen=True, slots=True)
class _Features:
    passwords: Passwords
    limits: RateLimits
    users: UserService
    sessions: SessionService
    instance: InstanceService
    auth: AuthService
    guilds: GuildService
    channels: ChannelService
    messages: MessageService
    typing: TypingService
    # Consumes the log, so that a revocation reaches every node.
    forget_ended: Callable[[Sequence[Entry]], None]


async def _open_features(
    config: Config, platform: _Platform, hub: Hub, stack: AsyncExitStack
) -> _Features:
    db, clock, new_id = platform.db, platform.clock, platform.worker.new_id
    secrets = [str(config.jwt_secret), *map(str, config.jwt_previous_secrets)]
    passwords = Passwords(config.bcrypt_cost)
    stack.callback(passwords.close)
    limiter = LocalLimiter(clock, scale=config.rate_limit_scale)
    guilds = GuildService(db, new_id)
    channels = ChannelService(db, guilds, new_id)

    async def announce(tx: Transaction, user_id: Snowflake) -> None:
        await guilds.announce_member(tx, user_id)
        await channels.announce_recipient(tx, user_id)

    users = UserService(
        db,
        passwords=passwords,
        limiter=limiter,
        hold=guilds.hold_guilds_of,
        announce=announce,
    )
    sessions = SessionService(
        db,
        access=AccessTokens(
            secrets,
            audience=platform.instance_id,
            lifetime=config.jwt_expires_in,
            clock=clock,
            new_id=new_id,
        ),
        refresh=RefreshTokens(
            secrets, audience=platform.instance_id, lifetime=config.refresh_expires_in
        ),
        limiter=limiter,
        clock=clock,
        new_id=new_id,
    )
    instance = InstanceService(
        db,
        users=users,
        registration=config.registration,
        setup_secret=readable(derive(secrets[0], "setup", platform.instance_id)),
        clock=clock,
        new_id=new_id,
    )
    auth = AuthService(
        db, users=users, sessions=sessions, instance=instance, passwords=passwords, new_id=new_id
    )
    body_keys = [derive(secret, "message-body", platform.instance_id) for secret in secrets]
    messages = MessageService(db, channels, new_id, clock, body_keys=body_keys)
    typing = TypingService(db, channels, publish=hub.whisper, clock=clock)

    def forget_ended(entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.is_internal:
                sessions.cache.forget(map(Snowflake, ended_sessions(entry)))

    return _Features(
        passwords=passwords,
        limits=RateLimits(limiter, clock),
        users=users,
        sessions=sessions,
        instance=instance,
        auth=auth,
        guilds=guilds,
        channels=channels,
        messages=messages,
        typing=typing,
        forget_ended=forget_ended,
    )


async def _every(period_s: float, sweep: Callable[[int], Awaitable[int]]) -> None:
    """Take away what has expired or is gone, again at once as long as there is more."""
    while True:
        try:
            while await sweep(_SWEEP_ROWS):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0)
        except Unavailable:
            _log.warning("sweep_postponed")
        except Exception:  # noqa: BLE001  # the next round tries again
            _log.exception("sweep_failed")
        await asyncio.sleep(period_s)


# The gateway.


def _open_gateway(
    config: Config,
    platform: _Platform,
    hub: Hub,
    features: _Features,
    metrics: Metrics,
    address: Address,
) -> GatewayService:
    async def state_of(conn: Conn, user_id: Snowflake) -> State:
        guilds = await features.guilds.states_of(conn, user_id)
        return State(
            user=await features.users.own(conn, user_id),
            guilds=[(guild.id, guild) for guild in guilds],
            private_channels=await features.channels.direct_messages(conn, user_id),
        )

    async def admit(actor: Actor) -> None:
        await features.limits.count(IDENTIFY, actor.user_id)

    async def send(actor: Actor, body: bytes) -> object:
        # The socket may have outlived its login session by a moment.
        await features.sessions.require(actor)
        await features.limits.count(SEND, actor.user_id)
        try:
            wish = _read_send(body)
        except UnreadableJson as fault:
            raise body_error(fault) from None
        return await features.messages.send(actor.user_id, wish, enforce=True)

    return GatewayService(
        platform.db,
        platform.tailer,
        hub,
        CursorSigner(
            [
                derive(str(secret), "cursor", platform.instance_id)
                for secret in (config.jwt_secret, *config.jwt_previous_secrets)
            ]
        ),
        Doors(
            authenticate=features.sessions.authenticate,
            admit=admit,
            is_alive=features.sessions.is_alive,
            state_of=state_of,
            memberships=features.guilds.memberships,
            send=send,
        ),
        Limits(
            heartbeat_s=config.heartbeat_interval.total_seconds(),
            replay=config.replay_limit,
            retention_s=config.log_retention.total_seconds(),
            slow_reader_bytes=config.slow_reader_bytes,
            sockets=config.gateway_max_sockets,
            strangers_per_address=config.gateway_sockets_per_address,
            drain_window_s=config.drain_window.total_seconds(),
            send_burst=200 * config.rate_limit_scale,
            sends_per_s=20 * config.rate_limit_scale,
        ),
        resume_url=address.gateway,
        count_resume=lambda outcome: metrics.resumes.labels(outcome).inc(),
        count_close=lambda code: metrics.closes.labels(str(code)).inc(),
        count_lag=metrics.slow_readers.inc,
    )


# What operators see.


def _health(platform: _Platform, lag: LoopLag, data_dir: Path) -> Health:
    migrations = read_folder(MIGRATIONS)
    data_dir.mkdir(parents=True, exist_ok=True)

    async def database() -> str | None:
        async with platform.db.read() as conn:
            # A real write: a full or read-only disk shows here.
            await conn.execute(
                "UPDATE snowflake_workers SET lease_until = lease_until WHERE id = $1",
                platform.worker.worker,
            )
        return None

    async def schema() -> str | None:
        async with platform.db.read() as conn:
            known = await check(conn, migrations)
        return None if known else "the database lacks migrations of this release"

    async def disk() -> str | None:
        free = await asyncio.to_thread(shutil.disk_usage, data_dir)
        return None if free.free > _FREE_BYTES else "the disk of DATA_DIR is nearly full"

    async def event_log() -> str | None:
        return platform.sequencer.complaint()

    return Health(
        {"database": database, "schema": schema, "event_log": event_log, "disk": disk},
        lag=lag.current,
    )


def _observe(
    metrics: Metrics, platform: _Platform, gateway: GatewayService, features: _Features
) -> None:
    """Let the gauges and counters ask at each scrape, rather than be told at each event."""
    metrics.connected_sockets.set_function(lambda: len(gateway.clients))
    metrics.active_users.set_function(lambda: gateway.hub.users)
    pool = platform.pool
    metrics.db_in_use.set_function(lambda: pool.get_size() - pool.get_idle_size())
    metrics.bcrypt_queue.set_function(features.passwords.queued)
    metrics.drain_age.set_function(platform.sequencer.lag_s)
    metrics.count_from(
        "parley_gateway_deliveries", "Events handed to sockets.", lambda: gateway.hub.deliveries
    )
    metrics.count_from(
        "parley_gateway_writes",
        "Writes to sockets; many deliveries may share one.",
        lambda: gateway.hub.writes,
    )
    metrics.count_from(
        "parley_messages_sent", "Messages acknowledged.", lambda: features.messages.sent
    )
