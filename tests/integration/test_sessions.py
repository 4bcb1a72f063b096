"""Login sessions over a database, with a clock that the test moves: age, trust and races."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count

import asyncpg
import pytest

from internal.auth.session import repository
from internal.auth.session.model import (
    MAX_SESSIONS,
    Client,
    EndedSessions,
    LivingSession,
    Pair,
    SessionEnded,
)
from internal.auth.session.service import SessionCache, SessionService, Tokens
from internal.db.postgres import Database
from internal.errors import Unauthorized
from internal.eventlog import outbox
from internal.eventlog.freshness import AsOf, Copy, FreshCache, Freshness, NoSharedCache
from internal.utils.actor import Actor
from internal.utils.bucket import LocalLimiter
from internal.utils.json import decoder
from internal.utils.jwt import AccessTokens
from internal.utils.snowflake import Snowflake
from internal.utils.token import RefreshTokens
from tests.support.clock import StandingClock

KEY = "a key for tests that is long enough to sign with"
ADA = Snowflake(1000)
HOME = Client("203.0.113.1", "test")


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield Database(pool, outbox.write, lambda: None)


def service(db: Database, clock: StandingClock, *, cost: int = 2000) -> SessionService:
    ids = count(cost)

    def new_id() -> Snowflake:
        return Snowflake(next(ids))

    return SessionService(
        db,
        tokens=Tokens(
            AccessTokens(
                [KEY], audience="here", lifetime=timedelta(days=365), clock=clock, new_id=new_id
            ),
            RefreshTokens([KEY], audience="here", lifetime=timedelta(days=30)),
        ),
        limiter=LocalLimiter(clock),
        clock=clock,
        new_id=new_id,
        shared=FreshCache(
            "session",
            decoder(Copy[LivingSession]),
            Freshness(AsOf(0, 1), lambda _entry: ()),
            NoSharedCache(),
        ),
    )


@pytest.fixture
def sessions(db: Database, clock: StandingClock) -> SessionService:
    return service(db, clock)


@pytest.fixture
async def pair(db: Database, sessions: SessionService) -> Pair:
    async with db.transaction() as tx:
        await tx.conn.execute(
            "INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'ada', 'a', '')",
            ADA,
        )
        return await sessions.open(tx, ADA, HOME)


async def delete_behind_the_back(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.conn.execute("DELETE FROM login_sessions")


async def test_a_lost_revocation_works_after_half_a_minute(
    db: Database, sessions: SessionService, clock: StandingClock, pair: Pair
) -> None:
    actor = await sessions.authenticate(f"Bearer {pair.access_token}")
    assert actor == Actor(ADA, pair.session_id)
    await delete_behind_the_back(db)
    clock.pass_by(seconds=29)
    assert await sessions.authenticate(pair.access_token) == actor
    clock.pass_by(seconds=2)
    with pytest.raises(Unauthorized):
        await sessions.authenticate(pair.access_token)
    assert sessions.cache.has_ended(pair.session_id)
    with pytest.raises(Unauthorized):
        await sessions.authenticate(pair.access_token)


async def test_news_of_another_node_works_at_once(sessions: SessionService, pair: Pair) -> None:
    await sessions.authenticate(pair.access_token)
    sessions.cache.forget([pair.session_id])
    with pytest.raises(Unauthorized):
        await sessions.authenticate(pair.access_token)


async def test_a_lookup_does_not_revive_what_ended_meanwhile(
    db: Database, sessions: SessionService, pair: Pair
) -> None:
    """The row was read before the session ended, and the answer comes after the news of it."""
    async with db.transaction() as tx:
        await tx.conn.execute("LOCK TABLE login_sessions")
        looking = asyncio.create_task(sessions.authenticate(pair.access_token))
        while not await tx.conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not looking.done()
        sessions.cache.forget([pair.session_id])
    with pytest.raises(Unauthorized):
        await looking
    assert not sessions.cache.has(Actor(ADA, pair.session_id))


async def test_a_session_ends_with_its_lifetime(
    db: Database, sessions: SessionService, clock: StandingClock, pair: Pair
) -> None:
    actor = await sessions.authenticate(pair.access_token)
    clock.pass_by(days=29)
    renewed = await sessions.refresh(pair.refresh_token, HOME)
    clock.pass_by(days=29)
    assert await sessions.authenticate(renewed.access_token) == actor
    async with db.read() as conn:
        assert await sessions.is_alive(conn, actor)
    clock.pass_by(days=1)
    with pytest.raises(Unauthorized):
        await sessions.authenticate(renewed.access_token)
    with pytest.raises(Unauthorized):
        await sessions.refresh(renewed.refresh_token, HOME)
    async with db.read() as conn:
        assert not await sessions.is_alive(conn, actor)
        assert not await sessions.is_alive(conn, Actor(ADA, Snowflake(1)))


async def test_what_has_expired_is_swept(
    db: Database, sessions: SessionService, clock: StandingClock, pair: Pair
) -> None:
    async with db.transaction() as tx:
        for _ in range(4):
            await sessions.open(tx, ADA, HOME)
    assert await sessions.sweep(3) == 0
    clock.pass_by(days=31)
    assert await sessions.sweep(3) == 3
    assert await sessions.sweep(3) == 2
    assert sessions.cache.has_ended(pair.session_id)
    async with db.read() as conn:
        told = await conn.fetch("SELECT users, payload FROM event_outbox ORDER BY id")
        assert await conn.fetchval("SELECT count(*) FROM login_networks") == 1
    assert [row["users"] for row in told] == [[ADA], [ADA]]
    clock.pass_by(days=60)
    assert await sessions.sweep(3) == 1, "the network, too, after three months"


async def test_the_retry_of_a_refresh_has_ten_seconds(
    sessions: SessionService, clock: StandingClock, pair: Pair
) -> None:
    first = await sessions.refresh(pair.refresh_token, HOME)
    clock.pass_by(seconds=10)
    again = await sessions.refresh(pair.refresh_token, HOME)
    assert again.refresh_token == first.refresh_token
    clock.pass_by(milliseconds=1)
    with pytest.raises(Unauthorized):
        await sessions.refresh(pair.refresh_token, HOME)
    with pytest.raises(Unauthorized):
        await sessions.refresh(first.refresh_token, HOME)


async def test_a_login_past_the_limit_and_a_refresh_wait_for_each_other_in_one_order(
    db: Database, sessions: SessionService, clock: StandingClock, pair: Pair
) -> None:
    clock.pass_by(seconds=1)
    async with db.transaction() as tx:
        for _ in range(MAX_SESSIONS - 1):
            await sessions.open(tx, ADA, HOME)

    async def sign_in() -> None:
        async with db.transaction() as tx:
            await sessions.open(tx, ADA, HOME)

    # A refresh of the oldest session, step by step: its row, then the network's.
    async with db.transaction() as tx:
        assert await repository.lock(tx.conn, pair.session_id)
        login = asyncio.create_task(sign_in())
        while not await tx.conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not login.done()
        await repository.remember_network(tx.conn, ADA, HOME.address, clock.now())
    await login
    async with db.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM login_sessions") == MAX_SESSIONS


async def test_who_changes_the_password_must_still_be_signed_in(
    db: Database, sessions: SessionService, pair: Pair
) -> None:
    gone = Actor(ADA, Snowflake(1))
    for end in (sessions.end_all, sessions.end_in):
        with pytest.raises(Unauthorized):
            async with db.transaction() as tx:
                await end(tx, gone)
    await sessions.authenticate(pair.access_token)  # nothing was ended by it


def test_memory_is_bounded(clock: StandingClock) -> None:
    cache = SessionCache(clock, most=2)
    actors = [Actor(ADA, Snowflake(number)) for number in range(4)]
    later = clock.now() + timedelta(days=1)
    for actor in actors[:3]:
        cache.keep(actor, later)
    assert [cache.has(actor) for actor in actors] == [False, True, True, False]
    cache.forget(actor.session_id for actor in actors)
    assert not any(cache.has(actor) for actor in actors)
    assert [cache.has_ended(actor.session_id) for actor in actors] == [False, False, True, True]


def test_the_end_is_told_to_the_user_alone() -> None:
    event = SessionEnded(user_id=ADA, session_ids=[Snowflake(7)])
    assert event.audience().users == (ADA,)
    assert event.payload() == EndedSessions((Snowflake(7),))
