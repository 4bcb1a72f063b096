"""The event log on a real PostgreSQL: one order, no gaps, nothing lost, content taken back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import asyncpg
import pytest
from typing_extensions import override

from internal.db.postgres import Conn, Database
from internal.eventlog import outbox, repository
from internal.eventlog.model import Entry
from internal.eventlog.ring import Ring
from internal.eventlog.sequencer import LogRewound, Sequencer
from internal.eventlog.tailer import Tailer
from internal.events import Audience, Event
from internal.utils.snowflake import Snowflake
from tests.support.database import Databases

if TYPE_CHECKING:
    from internal.eventlog.repository import Backlog

DAY = timedelta(days=1)
GUILD = Snowflake(10)
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Said(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_CREATE"
    n: int
    about: Snowflake | None = None

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=GUILD)

    @override
    def payload(self) -> object:
        return {"n": self.n}

    @override
    def subject(self) -> Snowflake | None:
        return self.about


class Edited(Said, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_UPDATE"

    @override
    def revises(self) -> Snowflake | None:
        return self.about


class Deleted(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_DELETE"
    ids: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        return Audience(users=(Snowflake(1), Snowflake(2)))

    @override
    def retracts(self) -> tuple[Snowflake, ...]:
        return self.ids


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=20) as opened:
        yield opened


@pytest.fixture
async def conn(pool: Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one  # type: ignore[misc]  # the pool's proxy stands for the connection


@pytest.fixture
def db(pool: Pool) -> Database:
    return Database(pool, outbox.write, lambda: None)


async def say(db: Database, *events: Event) -> None:
    async with db.transaction() as tx:
        for event in events:
            tx.emit(event)


async def all_entries(conn: Conn) -> list[Entry]:
    return await repository.after(conn, 0, 100_000)


def payloads(entries: Sequence[Entry]) -> list[bytes | None]:
    return [e.payload for e in entries]


def tailer() -> Tailer:
    return Tailer(Ring(max_entries=1000, max_bytes=1 << 20), on_gap=lambda: None)


async def test_positions_follow_the_head_without_a_gap(db: Database, conn: Connection) -> None:
    before = await repository.head(conn)
    await say(db, Said(n=1), Said(n=2))
    await say(db, Deleted(ids=()))
    drained = await repository.drain(conn, 100)
    assert [e.pos for e in drained] == [before.pos + 1, before.pos + 2, before.pos + 3]
    assert payloads(drained)[:2] == [b'{"n":1}', b'{"n":2}']
    assert drained[2].users == frozenset({1, 2})
    assert (await repository.head(conn))[:2] == (before.pos + 3, before.epoch)
    assert await repository.drain(conn, 100) == []
    assert (await repository.backlog(conn)).oldest_s is None


async def test_what_was_rolled_back_is_never_told(db: Database, conn: Connection) -> None:
    async def fail() -> None:
        async with db.transaction() as tx:
            tx.emit(Said(n=1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await repository.drain(conn, 100) == []


async def test_a_late_commit_takes_a_later_position_and_is_not_lost(
    pool: Pool, db: Database, conn: Connection
) -> None:
    """The trap of sequences as cursors: an id taken early, visible late."""
    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await outbox.write(slow, [Said(n=1)])
        await say(db, Said(n=2))
        first = await repository.drain(conn, 100)
        await transaction.commit()
    second = await repository.drain(conn, 100)
    assert payloads(first) == [b'{"n":2}']
    assert payloads(second) == [b'{"n":1}']
    assert second[0].pos == first[0].pos + 1


async def test_many_writers_and_drainers_give_one_order_with_everything(
    pool: Pool, db: Database, conn: Connection
) -> None:
    start = (await repository.head(conn)).pos
    seen: list[Entry] = []

    async def write(writer: int) -> None:
        for turn in range(20):
            await say(db, Said(n=writer * 100 + turn), Said(n=writer * 100 + turn + 50))

    async def drain() -> None:
        async with pool.acquire() as own:
            while len(seen) < 400:
                seen.extend(await repository.drain(own, 7))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(write(number))
        for _ in range(4):
            group.create_task(drain())
    logged = [e for e in await all_entries(conn) if e.pos > start]
    assert [e.pos for e in logged] == list(range(start + 1, start + 401))
    assert sorted(e.pos for e in seen) == [e.pos for e in logged]
    told = [int((e.payload or b"")[5:-1]) for e in logged]
    assert len(set(told)) == 400
    for number in range(10):
        own = [n for n in told if n // 100 == number and n % 100 < 50]
        assert own == sorted(own)


async def test_drain_refuses_an_isolation_that_would_reuse_positions(conn: Connection) -> None:
    with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
        async with conn.transaction(isolation="repeatable_read"):
            await repository.drain(conn, 1)


async def test_a_deletion_blanks_what_was_said(db: Database, conn: Connection) -> None:
    await say(db, Said(n=1, about=Snowflake(71)), Said(n=2, about=Snowflake(72)))
    await repository.drain(conn, 100)
    await say(db, Deleted(ids=(Snowflake(71), Snowflake(99))))
    await repository.drain(conn, 100)
    assert payloads(await all_entries(conn))[:2] == [None, b'{"n":2}']


async def test_what_is_said_and_deleted_in_one_go_is_told_blank(
    db: Database, conn: Connection
) -> None:
    await say(db, Said(n=1, about=Snowflake(71)), Deleted(ids=(Snowflake(71),)))
    assert payloads(await repository.drain(conn, 100))[0] is None


async def test_a_deleted_channel_takes_all_that_was_said_in_it_with_it(
    db: Database, conn: Connection
) -> None:
    class SaidThere(Said, frozen=True, kw_only=True):
        @override
        def audience(self) -> Audience:
            return Audience(guild_id=GUILD, channel_id=Snowflake(5))

    class ChannelDeleted(Deleted, frozen=True, kw_only=True):
        @override
        def retracts_channels(self) -> tuple[Snowflake, ...]:
            return (Snowflake(5),)

    there, elsewhere = SaidThere(n=1, about=Snowflake(71)), Said(n=2, about=Snowflake(72))
    await say(db, there, elsewhere, SaidThere(n=3))
    await repository.drain(conn, 100)
    await say(db, ChannelDeleted(ids=()))
    await repository.drain(conn, 100)
    assert payloads(await all_entries(conn))[:3] == [None, b'{"n":2}', b'{"n":3}']


async def test_an_edit_replaces_what_was_said_so_that_a_replay_still_has_it(
    db: Database, conn: Connection
) -> None:
    about = Snowflake(71)
    await say(db, Said(n=1, about=about))
    await repository.drain(conn, 100)
    await say(db, Edited(n=2, about=about))
    await say(db, Edited(n=3, about=about))
    await repository.drain(conn, 100)
    assert payloads(await all_entries(conn)) == [b'{"n":3}', b'{"n":3}', b'{"n":3}']
    await say(db, Deleted(ids=(about,)))
    await repository.drain(conn, 100)
    assert payloads(await all_entries(conn))[:3] == [None, None, None]


async def test_partitions_are_made_ahead_and_dropped_when_all_in_them_is_old(
    databases: Databases,
) -> None:
    async with (
        databases.lend(again=False) as dsn,
        asyncpg.create_pool(dsn, min_size=0) as pool,
        pool.acquire() as conn,
    ):
        await _use_up_a_partition(Database(pool, outbox.write, lambda: None), pool, conn)


async def _use_up_a_partition(db: Database, pool: Pool, conn: Conn) -> None:
    for n in range(3):
        await say(db, Said(n=n))
    await repository.drain(conn, 100)
    assert await repository.maintain(conn, DAY) == (0, 0)
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(4243)")
        assert await repository.maintain(conn, timedelta()) == (0, 0)
    # Jump over a partition's end; all that lies before is old by now.
    await conn.execute("UPDATE log_head SET pos = 1000000")
    await say(db, Said(n=9))
    await repository.drain(conn, 100)
    assert await repository.maintain(conn, timedelta()) == (1, 1)
    assert [e.pos for e in await all_entries(conn)] == [1_000_001]


async def test_old_entries_leave_a_partition_that_is_still_in_use(
    db: Database, conn: Connection
) -> None:
    for n in range(3):
        await say(db, Said(n=n))
    await repository.drain(conn, 100)
    assert await repository.expire(conn, DAY, 10) == 0
    assert await repository.expire(conn, timedelta(), 2) == 2
    assert await repository.expire(conn, timedelta(), 2) == 1
    assert await repository.oldest(conn) is None


async def test_what_concerns_one_user(db: Database, conn: Connection) -> None:
    await say(db, Said(n=1), Deleted(ids=()), Said(n=2))
    first, second, third = await repository.drain(conn, 100)
    end = third.pos

    async def found(user: int, guilds: list[int], after: int) -> list[int]:
        entries = await repository.concerning(conn, user, guilds, after=after, upto=end)
        return [e.pos for e in entries]

    assert await found(1, [GUILD], 0) == [first.pos, second.pos, third.pos]
    assert await found(3, [GUILD], first.pos) == [third.pos]
    assert await found(2, [], 0) == [second.pos]
    assert (await repository.age_s(conn, first.pos) or 0) < 60
    assert await repository.age_s(conn, end + 1) is None


async def test_undrained_events_and_moves_are_seen_in_a_snapshot(
    db: Database, conn: Connection
) -> None:
    class Joined(Deleted, frozen=True, kw_only=True):
        type: ClassVar[str] = "GUILD_CREATE"

        @override
        def audience(self) -> Audience:
            return Audience(users=(Snowflake(1),), guild_id=GUILD)

    await say(db, Joined(ids=()), Said(n=1))
    assert len(await repository.undrained(conn, 10)) == 2
    assert len(await repository.undrained(conn, 1)) == 1
    assert await repository.undrained_moves(conn, 1, []) == {GUILD}
    assert await repository.undrained_moves(conn, 2, []) == set()
    shown = [outbox_id for outbox_id, _ in await repository.undrained(conn, 10)]
    assert await repository.undrained_moves(conn, 1, shown) == set()
    assert await repository.still_undrained(conn, [*shown, 0]) == shown


async def test_a_log_without_a_head_is_said_plainly(conn: Connection) -> None:
    await conn.execute("DELETE FROM log_head")
    with pytest.raises(LookupError, match="migrations"):
        await repository.head(conn)
    with pytest.raises(LookupError, match="migrations"):
        await repository.backlog(conn)


async def test_a_tailer_begins_at_the_head_with_a_warm_ring(db: Database, conn: Connection) -> None:
    for n in range(5):
        await say(db, Said(n=n))
    drained = await repository.drain(conn, 100)
    fresh = tailer()
    await fresh.start(conn, warm=3)
    assert fresh.pos == drained[-1].pos
    assert fresh.ring.first == drained[2].pos


async def test_a_tailer_takes_only_what_follows_and_reads_the_rest(
    db: Database, conn: Connection
) -> None:
    follower, told = tailer(), list[int]()
    await follower.start(conn, warm=0)
    follower.subscribe(lambda entries: told.extend(e.pos for e in entries))
    await say(db, Said(n=1))
    missed = await repository.drain(conn, 100)
    await say(db, Said(n=2))
    mine = await repository.drain(conn, 100)
    assert not follower.offer(mine)
    await follower.catch_up(conn, mine[-1].pos)
    assert told == [missed[0].pos, mine[0].pos]
    # What is known is passed over, also at the front of a run that goes on.
    assert follower.offer(mine)
    await say(db, Said(n=3))
    last = await repository.drain(conn, 100)
    assert follower.offer([*mine, *last])
    assert told == [missed[0].pos, mine[0].pos, last[0].pos]
    # Asked for more than there is: it waits for the next call rather than for ever.
    await follower.catch_up(conn, last[-1].pos + 5)
    assert follower.pos == last[-1].pos


async def test_the_bus_may_be_quicker_than_the_log(db: Database, conn: Connection) -> None:
    """Entries come by the bus while a catching-up tailer waits for the database."""
    follower, told = tailer(), list[int]()
    await follower.start(conn, warm=0)
    follower.subscribe(lambda entries: told.extend(e.pos for e in entries))
    await say(db, Said(n=1), Said(n=2))
    drained = await repository.drain(conn, 100)
    reading = asyncio.create_task(follower.catch_up(conn, drained[-1].pos))
    await asyncio.sleep(0)  # It has asked the database by now, and not been answered.
    assert follower.offer(drained[:1])
    await reading
    assert told == [e.pos for e in drained]


async def test_a_gap_is_reported_and_passed_over(db: Database, conn: Connection) -> None:
    gaps: list[int] = []
    follower = Tailer(Ring(max_entries=10, max_bytes=1 << 20), on_gap=lambda: gaps.append(1))
    await follower.start(conn, warm=0)
    await say(db, Said(n=1), Said(n=2))
    drained = await repository.drain(conn, 100)
    await conn.execute("DELETE FROM event_log WHERE pos = $1", drained[0].pos)
    await follower.catch_up(conn, drained[-1].pos)
    assert gaps == [1]
    assert follower.pos == drained[-1].pos


async def test_waiting_for_a_position(db: Database, conn: Connection) -> None:
    follower = tailer()
    await follower.start(conn, warm=0)
    assert await follower.reached(follower.pos, 1)
    assert not await follower.reached(follower.pos + 1, 0.01)
    wanted = asyncio.create_task(follower.reached(follower.pos + 1, 5))
    patient = asyncio.create_task(follower.reached(follower.pos + 9, 5))
    impatient = asyncio.create_task(follower.reached(follower.pos + 1, 5))
    await asyncio.sleep(0)
    impatient.cancel()
    await say(db, Said(n=1))
    follower.offer(await repository.drain(conn, 100))
    assert await wanted
    assert not patient.done()
    patient.cancel()
    await asyncio.gather(patient, impatient, return_exceptions=True)


class Watched:
    """A sequencer at work, and what it hands on."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.tailer = tailer()
        self.told: list[Entry] = []
        self.backlogs: asyncio.Queue[Backlog] = asyncio.Queue()
        self.connections: list[Connection] = []
        self.refusals = 0
        self.refusal: Exception = ConnectionRefusedError()
        # What other nodes would be told: the epoch, and where a drained run ends.
        self.announced: list[tuple[int, int]] = []
        self.tailer.subscribe(self.told.extend)
        self.sequencer = Sequencer(
            self.connect,
            self.tailer,
            keep=DAY,
            observe=self.backlogs.put_nowait,
            announce=lambda epoch, entries: self.announced.append((epoch, entries[-1].pos)),
        )

    async def connect(self) -> Connection:
        if self.refusals:
            self.refusals -= 1
            raise self.refusal
        conn = await asyncpg.connect(self.dsn)
        self.connections.append(conn)
        return conn


@pytest.fixture
async def watched(database_url: str, conn: Connection) -> AsyncIterator[Watched]:
    it = Watched(database_url)
    await it.tailer.start(conn, warm=0)
    task = asyncio.create_task(it.sequencer.run())
    yield it
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_kick_and_the_poll_both_bring_events(db: Database, watched: Watched) -> None:
    start = watched.tailer.pos
    await say(db, Said(n=1))
    watched.sequencer.kick()
    assert await watched.tailer.reached(start + 1, 5)
    await say(db, Said(n=2))
    assert await watched.tailer.reached(start + 2, 5)
    assert payloads(watched.told) == [b'{"n":1}', b'{"n":2}']
    async with asyncio.timeout(5):
        while (await watched.backlogs.get())[:2] != (start + 2, None):
            assert watched.tailer.pos == start + 2
    assert watched.sequencer.complaint() is None
    # Others are told of the same runs, in order.
    epochs, ends = zip(*watched.announced, strict=True)
    assert set(epochs) == {watched.tailer.epoch}
    assert list(ends) == [start + 1, start + 2]


@pytest.mark.parametrize(
    "rewind",
    [
        "UPDATE log_head SET pos = pos - 1",
        "UPDATE log_head SET epoch = epoch + 1",
    ],
)
async def test_a_log_that_goes_back_ends_the_sequencer(databases: Databases, rewind: str) -> None:
    """A restore under a running node: what it holds in memory is worth nothing any more."""
    async with databases.lend(again=False) as dsn:
        conn = await asyncpg.connect(dsn)
        try:
            watched = Watched(dsn)
            await conn.execute("UPDATE log_head SET pos = pos + 5")
            await watched.tailer.start(conn, warm=0)
            task = asyncio.create_task(watched.sequencer.run())
            async with asyncio.timeout(5):
                await watched.backlogs.get()
            await conn.execute(rewind)
            with pytest.raises(LogRewound, match=r"position \d+ was known"):
                await asyncio.wait_for(task, 5)
        finally:
            await conn.close()


async def test_what_another_node_drained_is_read_from_the_log(
    db: Database, watched: Watched, conn: Connection
) -> None:
    start = watched.tailer.pos
    total = 0
    while total < 50:
        await say(db, Said(n=total))
        total += 1
        await repository.drain(conn, 100)
    assert await watched.tailer.reached(start + total, 5)
    assert [e.pos for e in watched.told] == list(range(start + 1, start + total + 1))


async def test_more_than_a_batch_arrives_in_order(db: Database, watched: Watched) -> None:
    start = watched.tailer.pos
    await say(db, *(Said(n=n) for n in range(2300)))
    watched.sequencer.kick()
    assert await watched.tailer.reached(start + 2300, 20)
    assert [e.pos for e in watched.told] == list(range(start + 1, start + 2301))


@pytest.mark.parametrize(
    "refusal",
    [
        ConnectionRefusedError(),
        # While somebody looks after it: ALLOW_CONNECTIONS false, a password that is changed.
        asyncpg.ObjectNotInPrerequisiteStateError("not now"),
        asyncpg.InvalidPasswordError("who are you"),
    ],
)
async def test_it_survives_its_connection_and_a_database_that_is_away(
    db: Database, watched: Watched, conn: Connection, refusal: Exception
) -> None:
    watched.refusal = refusal
    start = watched.tailer.pos
    await say(db, Said(n=1))
    assert await watched.tailer.reached(start + 1, 5)
    watched.refusals = 2
    pid = watched.connections[-1].get_server_pid()
    await conn.execute("SELECT pg_terminate_backend($1)", pid)
    await say(db, Said(n=2))
    assert await watched.tailer.reached(start + 2, 10)
    assert watched.refusals == 0
    assert len(watched.connections) == 2


async def test_it_survives_what_the_database_refuses(
    db: Database, conn: Connection, database_url: str
) -> None:
    await say(db, Said(n=0))
    await repository.drain(conn, 100)
    watched = Watched(database_url)
    await watched.tailer.start(conn, warm=0)
    healthy = watched.connect

    async def refusing_at_first() -> Connection:
        made = await healthy()
        if len(watched.connections) == 1:
            # Under this isolation drain() raises.
            await made.execute("SET default_transaction_isolation TO 'repeatable read'")
        return made

    watched.sequencer = Sequencer(
        refusing_at_first,
        watched.tailer,
        keep=timedelta(),
        observe=watched.backlogs.put_nowait,
        announce=lambda _epoch, _entries: None,
    )
    start = watched.tailer.pos
    await say(db, Said(n=1))
    task = asyncio.create_task(watched.sequencer.run())
    assert await watched.tailer.reached(start + 1, 10)
    assert len(watched.connections) == 2
    # Nothing is kept here, so the upkeep found what was there before.
    assert await repository.oldest(conn) == start + 1
    async with asyncio.timeout(5):
        await watched.backlogs.get()
    assert watched.sequencer.lag_s() < 5
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_tailer_that_begins_while_others_drain_begins_at_its_head(
    db: Database, conn: Connection
) -> None:
    class Racing:
        """A connection between whose statements another node drains."""

        async def fetchrow(self, *statement: Any) -> Any:
            found = await conn.fetchrow(*statement)
            await say(db, Said(n=2))
            await repository.drain(conn, 100)
            return found

        async def fetch(self, *statement: Any) -> Any:
            return await conn.fetch(*statement)

    await say(db, Said(n=1))
    await repository.drain(conn, 100)
    fresh = tailer()
    await fresh.start(cast("Connection", Racing()), warm=10)
    assert payloads(list(fresh.ring.after(fresh.pos - 1) or [])) == [b'{"n":1}']


async def test_what_waits_too_long_is_seen(db: Database, watched: Watched, pool: Pool) -> None:
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock(4242)")
        await say(db, Said(n=1))
        async with pool.acquire() as other:
            await other.execute("UPDATE event_outbox SET created_at = now() - interval '1 minute'")
        async with asyncio.timeout(5):
            while ((await watched.backlogs.get()).oldest_s or 0) < 60:
                assert watched.told == []
        assert watched.sequencer.lag_s() >= 60
    assert await watched.tailer.reached(watched.tailer.pos, 5)
