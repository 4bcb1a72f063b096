"""The composition root: who is made of what. The only module that knows everyone."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
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
from internal.auth.session.model import LivingSession, SessionEnded
from internal.auth.session.service import SessionService, Tokens
from internal.channel.group.handler import GroupHandler
from internal.channel.group.service import GroupService
from internal.channel.handler import ChannelHandler
from internal.channel.layout.handler import LayoutHandler
from internal.channel.layout.service import LayoutService
from internal.channel.model import ChannelUpdated
from internal.channel.service import ChannelService
from internal.channel.thread.archive.service import ThreadArchive
from internal.channel.thread.handler import ThreadHandler
from internal.channel.thread.member.service import ThreadMembership
from internal.channel.thread.service import ThreadService
from internal.channel.why.handler import WhyHandler
from internal.channel.why.service import WhyService
from internal.chat.mention.service import MentionService
from internal.chat.message.handler import MessageHandler
from internal.chat.message.model import SendMessage
from internal.chat.message.service import MessageService
from internal.chat.report.handler import ReportHandler
from internal.chat.report.service import ReportService
from internal.chat.typing.handler import TypingHandler
from internal.chat.typing.service import TypingService
from internal.chat.ws.cursor import CursorSigner
from internal.chat.ws.handler import GatewayHandler
from internal.chat.ws.hub import Hub
from internal.chat.ws.model import Doors, Limits, MemberDoors, SessionTaken, State
from internal.chat.ws.service import GatewayService
from internal.chat.ws.view import ended_sessions, is_readable
from internal.config.config import Config
from internal.config.cores import usable_cores
from internal.config.values import origin_of
from internal.db.migrate import check, read_folder
from internal.db.postgres import Conn, Database, Pool, Transaction, refuse_unsafe
from internal.db.pulse import Pulse
from internal.db.redis import Redis, RedisAddress
from internal.db.redis_cache import RedisCache
from internal.db.redis_limiter import RedisLimiter
from internal.db.worker import WorkerLease
from internal.errors import Unavailable
from internal.eventlog import outbox
from internal.eventlog.bus import Bus, Drained, Ears, LocalBus, RedisBus, entries_of
from internal.eventlog.freshness import AsOf, Copy, FreshCache, Freshness, NoSharedCache
from internal.eventlog.model import Entry
from internal.eventlog.repository import Backlog
from internal.eventlog.ring import Ring
from internal.eventlog.sequencer import Sequencer
from internal.eventlog.tailer import Tailer
from internal.guild.audit.handler import AuditHandler
from internal.guild.audit.service import AuditTrail
from internal.guild.automod.handler import AutomodHandler
from internal.guild.automod.service import AutomodService
from internal.guild.ban.handler import BanHandler
from internal.guild.ban.service import BanService
from internal.guild.handler import GuildHandler
from internal.guild.invite.handler import InviteHandler
from internal.guild.invite.service import TEMPORARY_PERIOD_S, InviteService, TemporaryMembers
from internal.guild.member.handler import MemberHandler
from internal.guild.member.service import MemberService
from internal.guild.model import GuildChannel
from internal.guild.role.handler import RoleHandler
from internal.guild.role.service import RoleService
from internal.guild.service import GuildService
from internal.middleware.overload import Overload
from internal.middleware.rate_limit import IDENTIFY, SEND, RateLimits
from internal.monitoring.health import Health
from internal.monitoring.load import Load, Work
from internal.monitoring.metrics import LoopLag, Metrics, metrics_app
from internal.presence.repository import Board, LocalPresences, Presences, RedisPresences
from internal.presence.service import PresenceService
from internal.routes.routes import Handlers
from internal.routes.site import site
from internal.user.handler import UserHandler
from internal.user.model import User, UserUpdated
from internal.user.service import UserService
from internal.utils.actor import Actor
from internal.utils.background import Background
from internal.utils.bucket import Limiter, LocalLimiter
from internal.utils.clock import Clock, SystemClock
from internal.utils.gate import Gate
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
# For opening a connection to the database, and for closing all of them.
_CONNECT_S: Final = 5.0
# A statement is over on the server by then: whoever still waits has a dead connection.
_COMMAND_S: Final = 15.0
_SECOND: Final = 1.0
_MINUTE: Final = 60.0
_SWEEP_ROWS: Final = 5_000
# A statement that takes longer has lost its client's patience; a lock that is waited for longer
# belongs to somebody who is stuck.
_SERVER_SETTINGS: Final = {
    "application_name": "parley",
    "statement_timeout": "10000",
    "lock_timeout": "5000",
    # Nothing of ours sits in a transaction: a node that was cut off or stopped must not hold its
    # locks for long.
    "idle_in_transaction_session_timeout": "3000",
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
    load: Load
    metrics: Metrics
    background: Background
    web: Application
    metrics_web: Application
    setup_secret: Callable[[], Awaitable[str | None]]
    # Whether no other node was seen on the database lately.
    is_alone: Callable[[], bool]
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
        features = await _open_features(config, platform, metrics, stack)
        gateway = _open_gateway(config, platform, hub, features, metrics, address)
        features.guilds.count_online = gateway.presence.online_in
        features.temporary.is_there = gateway.presence.is_there
        platform.tailer.subscribe(features.freshness.observe)
        platform.tailer.subscribe(features.forget_ended)
        platform.tailer.subscribe(gateway.hub.publish)
        platform.tailer.subscribe(gateway.follow)
        platform.bus.connect(_listen(platform, gateway))
        gateway.hub.pos = platform.tailer.pos
        health = _health(platform, platform.lag, config.data_dir)
        _observe(metrics, platform, gateway, features)
        background.start("worker-lease", platform.worker.keep())
        background.start("sequencer", platform.sequencer.run())
        background.start("pulse", platform.pulse.run())
        background.start("bus", platform.bus.run())
        if platform.redis is not None:
            background.start("redis", platform.redis.watch())
        background.start("messages", features.messages.run())
        background.start("gateway-sweep", gateway.sweep())
        background.start("presence", gateway.presence.run())
        background.start("presence-share", gateway.presence.share())
        background.start("member-lists", gateway.lists.run())
        background.start("loop-lag", platform.lag.sample())
        background.start("load", platform.load.watch())
        _start_sweeps(background, features)
        handlers = Handlers(
            auth=AuthHandler(features.auth),
            sessions=SessionHandler(features.sessions),
            instance=InstanceHandler(features.instance),
            users=UserHandler(features.users),
            guilds=GuildHandler(features.guilds),
            roles=RoleHandler(features.roles),
            members=MemberHandler(features.members),
            bans=BanHandler(features.bans),
            invites=InviteHandler(features.invites),
            audit=AuditHandler(features.guilds.audit_log),
            threads=ThreadHandler(features.threads, features.membership, features.archive),
            channels=ChannelHandler(features.channels, features.layout, features.groups),
            layout=LayoutHandler(features.layout),
            groups=GroupHandler(features.groups),
            why=WhyHandler(WhyService(platform.db, features.channels)),
            messages=MessageHandler(features.messages),
            reports=ReportHandler(features.reports),
            automod=AutomodHandler(features.automod),
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
            overload=Overload(platform.load, _gates(config, metrics)),
            observe=metrics.observe_request,
            clock=clock,
        )
        application.on_shutdown.append(lambda _application: gateway.drain())

        yield App(
            db=platform.db,
            gateway=gateway,
            tailer=platform.tailer,
            health=health,
            load=platform.load,
            metrics=metrics,
            background=background,
            web=application,
            metrics_web=metrics_app(metrics, health),
            setup_secret=features.instance.setup_secret,
            is_alone=lambda: platform.worker.is_alone,
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
    # None with one node, who shares nothing.
    redis: Redis | None
    bus: Bus
    lag: LoopLag
    load: Load
    pulse: Pulse


@asynccontextmanager
async def _pool(config: Config) -> AsyncIterator[Pool]:
    pool = await asyncpg.create_pool(
        str(config.database_url),
        min_size=0,
        max_size=config.db_pool_size,
        timeout=_CONNECT_S,
        command_timeout=_COMMAND_S,
        reset=_reset,
        server_settings=_SERVER_SETTINGS,
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await pool.close()
        except TimeoutError:
            # It says farewell to a server that may not be there.
            pool.terminate()


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
            timeout=_CONNECT_S,
            command_timeout=30,
            server_settings=_SERVER_SETTINGS,
        )

    async with pool.acquire() as conn:
        await refuse_unsafe(conn)
        await tailer.start(conn, _WARM)
        instance_id = str(await conn.fetchval("SELECT id FROM instance"))
    redis = await stack.enter_async_context(_redis(config, instance_id, metrics))
    bus: Bus = LocalBus() if redis is None else RedisBus(redis, count_dropped=metrics.bus_dropped)
    sequencer = Sequencer(
        connect, tailer, keep=config.log_retention, observe=observe, announce=bus.drained
    )
    db = Database(pool, outbox.write, sequencer.kick)
    lag = LoopLag(metrics)
    load = Load(
        lag_s=lag.current,
        database_s=db.waited_s,
        count_shed=lambda kind: metrics.shed.labels(kind).inc(),
    )

    async def hang_up(since: float) -> None:
        sequencer.hang_up()
        await db.hang_up(since)

    pulse = Pulse(connect, hang_up)
    worker = WorkerLease(db, clock)
    await worker.take()
    stack.push_async_callback(_release, worker, pool)
    return _Platform(
        pool, db, tailer, sequencer, worker, clock, instance_id, redis, bus, lag, load, pulse
    )


async def _release(worker: WorkerLease, pool: Pool) -> None:
    if not await worker.release():
        # Nor would the database answer a farewell.
        pool.terminate()


@asynccontextmanager
async def _redis(config: Config, instance_id: str, metrics: Metrics) -> AsyncIterator[Redis | None]:
    """The Redis that nodes share. Its being away stops no start."""
    if config.redis_url is None:
        yield None
        return
    address = RedisAddress(
        url=str(config.redis_url), mode=config.redis_mode, service=config.redis_sentinel_service
    )
    redis = Redis(address, prefix=f"parley:{instance_id}", count_failure=metrics.redis_failures.inc)
    try:
        yield redis
    finally:
        await redis.close()


def _listen(platform: _Platform, gateway: GatewayService) -> Ears:
    """What this node does with what others tell it."""
    tailer, sequencer = platform.tailer, platform.sequencer

    def drained(message: Drained) -> None:
        if message.epoch != tailer.epoch:
            return
        entries = entries_of(message.rows)
        # What is for the server itself must be readable before anybody relies on it.
        if entries and all(map(is_readable, entries)) and tailer.offer(entries):
            return
        if message.head > tailer.pos:
            sequencer.look()

    return Ears(drained=drained, whisper=gateway.hub.whisper)


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
    roles: RoleService
    members: MemberService
    bans: BanService
    invites: InviteService
    temporary: TemporaryMembers
    channels: ChannelService
    layout: LayoutService
    groups: GroupService
    threads: ThreadService
    membership: ThreadMembership
    archive: ThreadArchive
    messages: MessageService
    reports: ReportService
    automod: AutomodService
    typing: TypingService
    # Consume the log, so that a revocation reaches every node.
    freshness: Freshness
    forget_ended: Callable[[Sequence[Entry]], None]


async def _open_features(
    config: Config, platform: _Platform, metrics: Metrics, stack: AsyncExitStack
) -> _Features:
    db, clock, new_id = platform.db, platform.clock, platform.worker.new_id
    secrets = [str(config.jwt_secret), *map(str, config.jwt_previous_secrets)]
    passwords = Passwords(config.bcrypt_cost)
    stack.callback(passwords.close)
    limiter = _limiter(config, platform, metrics)
    tailer, redis = platform.tailer, platform.redis
    freshness = Freshness(AsOf(tailer.pos, tailer.epoch), _accounts_changed)
    shared = NoSharedCache() if redis is None else RedisCache(redis)
    audit = AuditTrail(new_id)
    guilds = GuildService(db, new_id, audit)
    channels = ChannelService(db, guilds, new_id)
    roles = RoleService(db, guilds, new_id=new_id, audit=audit, announce=_tell_overwrites)
    members = MemberService(db, guilds, audit=audit, clock=clock)

    async def announce(tx: Transaction, user_id: Snowflake) -> None:
        await guilds.announce_member(tx, user_id)
        await channels.announce_recipient(tx, user_id)

    users = UserService(
        db,
        passwords=passwords,
        limiter=limiter,
        hold=guilds.hold_guilds_of,
        announce=announce,
        shared=FreshCache("user", decoder(Copy[User]), freshness, shared),
    )
    sessions = SessionService(
        db,
        tokens=Tokens(
            AccessTokens(
                secrets,
                audience=platform.instance_id,
                lifetime=config.jwt_expires_in,
                clock=clock,
                new_id=new_id,
            ),
            RefreshTokens(
                secrets, audience=platform.instance_id, lifetime=config.refresh_expires_in
            ),
        ),
        limiter=limiter,
        clock=clock,
        new_id=new_id,
        shared=FreshCache("session", decoder(Copy[LivingSession]), freshness, shared),
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
    membership = ThreadMembership(db, guilds, channels, clock)
    automod = AutomodService(db, guilds, audit=audit, new_id=new_id, clock=clock)
    messages = MessageService(
        db,
        channels,
        new_id,
        clock,
        audit=audit,
        mentions=MentionService(channels),
        automod=automod,
        membership=membership,
        body_keys=body_keys,
    )
    threads = ThreadService(channels, membership, messages, audit=audit, new_id=new_id, clock=clock)
    automod.post_alert = messages.post_alert
    bans = BanService(db, guilds, audit, messages.delete_recent)
    typing = TypingService(db, channels, publish=platform.bus.whisper, clock=clock)

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
        roles=roles,
        members=members,
        bans=bans,
        invites=InviteService(db, guilds, audit, clock, channels.access),
        temporary=TemporaryMembers(db, guilds, clock),
        channels=channels,
        layout=LayoutService(guilds, channels, audit, new_id),
        groups=GroupService(db, channels, new_id),
        threads=threads,
        membership=membership,
        archive=ThreadArchive(db, guilds, channels, clock),
        messages=messages,
        automod=automod,
        reports=ReportService(
            db, guilds, channels, messages, audit=audit, new_id=new_id, clock=clock
        ),
        typing=typing,
        freshness=freshness,
        forget_ended=forget_ended,
    )


def _tell_overwrites(tx: Transaction, channels: Sequence[GuildChannel]) -> None:
    """Tell that overwrites of these channels went with a role."""
    for channel in channels:
        tx.emit(ChannelUpdated(channel=channel, has_other_overwrites=True))


def _limiter(config: Config, platform: _Platform, metrics: Metrics) -> Limiter:
    clock, scale = platform.clock, config.rate_limit_scale
    if platform.redis is None:
        return LocalLimiter(clock, scale=scale)
    count_fallback = metrics.rate_limit_fallbacks.inc
    return RedisLimiter(platform.redis, clock, scale=scale, count_fallback=count_fallback)


def _accounts_changed(entry: Entry) -> Iterable[int]:
    """Say whose account or login sessions, as caches hold them, an entry changes."""
    if entry.type in {UserUpdated.type, SessionEnded.type}:
        return entry.users or ()
    return ()


def _start_sweeps(background: Background, features: _Features) -> None:
    """Begin with all that is to be taken away by time."""
    background.start("sweep-sessions", _every(_SECOND, features.sessions.sweep))
    background.start("sweep-messages", _every(_SECOND, features.messages.purge))
    background.start("sweep-banned", _every(_SECOND, features.messages.purge_authors))
    background.start("sweep-nonces", _every(_MINUTE, features.messages.sweep_nonces))
    background.start("sweep-marks", _every(_MINUTE, features.messages.sweep_marks))
    background.start("automod", features.automod.run())
    background.start("sweep-automod", _every(_MINUTE, features.automod.sweep))
    background.start("sweep-invites", _every(_MINUTE, features.invites.sweep))
    background.start("temporary", _every(TEMPORARY_PERIOD_S, features.temporary.sweep))
    background.start("archive-threads", _every(_MINUTE, features.archive.archive_idle))


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


def _open_presence(platform: _Platform, hub: Hub) -> PresenceService:
    node, clock = platform.bus.node, platform.clock
    store: Presences
    if platform.redis is None:
        store = LocalPresences(Board(clock), node)
    else:
        store = RedisPresences(platform.redis, node, clock)
    return PresenceService(
        store, hub, clock, node=node, shed=lambda: platform.load.sheds(Work.EPHEMERA)
    )


def _open_gateway(
    config: Config,
    platform: _Platform,
    hub: Hub,
    features: _Features,
    metrics: Metrics,
    address: Address,
) -> GatewayService:
    async def state_of(conn: Conn, user_id: Snowflake, large: int) -> State:
        guilds = await features.guilds.states_of(conn, user_id, large=large, is_followed=hub.knows)
        return State(
            user=await features.users.own(conn, user_id),
            guilds=guilds,
            private_channels=await features.channels.direct_messages(conn, user_id),
        )

    async def admit(actor: Actor) -> None:
        await features.limits.count(IDENTIFY, actor.user_id)

    async def take(user_id: Snowflake, key: int, name: int) -> bool:
        if platform.worker.is_alone:
            return False
        async with platform.db.transaction() as tx:
            tx.emit(SessionTaken(user_id=user_id, key=key, take=name))
        return True

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
            recognise=features.sessions.recognise,
            admit=admit,
            is_alive=features.sessions.is_alive,
            state_of=state_of,
            memberships=features.guilds.memberships,
            guilds_of=partial(features.guilds.states_of, is_followed=hub.knows),
            sources_of=features.guilds.sources_of,
            send=send,
            take=take,
            members=MemberDoors(
                among=features.guilds.members_among,
                starting_with=features.members.starting_with,
                between=features.guilds.members_between,
                bounds=features.guilds.member_bounds,
                rolls=features.guilds.rolls,
            ),
        ),
        Limits(
            heartbeat_s=config.heartbeat_interval.total_seconds(),
            replay=config.replay_limit,
            retention_s=config.log_retention.total_seconds(),
            slow_reader_bytes=config.slow_reader_bytes,
            sockets=config.gateway_max_sockets,
            strangers_per_address=config.gateway_sockets_per_address,
            drain_window_s=config.drain_window.total_seconds(),
            openings=_openings(config),
            send_burst=200 * config.rate_limit_scale,
            sends_per_s=20 * config.rate_limit_scale,
            requests_scale=config.rate_limit_scale,
        ),
        presence=_open_presence(platform, hub),
        load=platform.load,
        resume_url=address.gateway,
        count_resume=lambda outcome: metrics.resumes.labels(outcome).inc(),
        count_close=lambda code: metrics.closes.labels(str(code)).inc(),
        count_lag=metrics.slow_readers.inc,
    )


# What is bounded.


def _openings(config: Config) -> int:
    """READYs at once: two for each core, and half of the connections for everything else."""
    return max(1, min(2 * usable_cores(), config.db_pool_size // 2))


def _gates(config: Config, metrics: Metrics) -> dict[Work, Gate]:
    """One line for each kind of work that is heavy enough to starve the rest."""
    gates = {
        # Half of the connections; a queue that two seconds can serve.
        Work.HISTORY: Gate(at_once=max(1, config.db_pool_size // 2), waiting=200, wait_s=2.0),
    }
    for work, gate in gates.items():
        metrics.gate_waiting.labels(work.label).set_function(partial(_waiting_at, gate))
    return gates


def _waiting_at(gate: Gate) -> float:
    return gate.waiting


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

    async def redis() -> str | None:
        is_up = platform.redis is None or platform.redis.is_up
        return None if is_up else "Redis does not answer"

    return Health(
        {"database": database, "schema": schema, "event_log": event_log, "disk": disk},
        {} if platform.redis is None else {"redis": redis},
        lag=lag.current,
    )


def _observe(
    metrics: Metrics, platform: _Platform, gateway: GatewayService, features: _Features
) -> None:
    """Let the gauges and counters ask at each scrape, rather than be told at each event."""
    metrics.connected_sockets.set_function(lambda: len(gateway.clients))
    metrics.active_users.set_function(lambda: gateway.hub.users)
    metrics.users_online.set_function(lambda: gateway.presence.online)
    metrics.load_level.set_function(lambda: platform.load.level)
    metrics.gate_waiting.labels("opening").set_function(lambda: gateway.openings.waiting)
    metrics.gate_waiting.labels("resume").set_function(lambda: gateway.replays.waiting)
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
