"""The lease of worker ids: no id twice, none going back, whatever clocks and processes do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from internal.db.postgres import Database
from internal.db.worker import NoWorkerLeft, WorkerLease
from internal.errors import Unavailable
from internal.eventlog import outbox
from internal.utils.snowflake import Snowflake
from tests.support.clock import StandingClock


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield Database(pool, outbox.write, lambda: None)


async def lease(db: Database, clock: StandingClock) -> WorkerLease:
    worker = WorkerLease(db, clock)
    await worker.take()
    return worker


async def lapse(db: Database) -> None:
    """Let a minute pass for the database."""
    async with db.read() as conn:
        await conn.execute(
            "UPDATE snowflake_workers SET lease_until = lease_until - interval '61 s'"
        )


async def test_nodes_have_different_worker_ids(db: Database, clock: StandingClock) -> None:
    nodes = await asyncio.gather(*(lease(db, clock) for _ in range(4)))
    assert sorted(node.worker for node in nodes) == [0, 1, 2, 3]
    ids = [node.new_id() for node in nodes for _ in range(5000)]
    assert len(set(ids)) == 20_000
    assert all(isinstance(one, Snowflake) for one in ids)
    assert ids[0].created_at == clock.now()


async def test_nothing_is_made_without_a_lease(db: Database, clock: StandingClock) -> None:
    with pytest.raises(Unavailable):
        WorkerLease(db, clock).new_id()
    node = await lease(db, clock)
    await node.release()
    with pytest.raises(Unavailable):
        node.new_id()


async def test_a_clean_restart_goes_on_at_once(db: Database, clock: StandingClock) -> None:
    first = await lease(db, clock)
    last = [first.new_id() for _ in range(10_000)][-1]
    await first.release()
    second = await lease(db, clock)
    assert second.worker == first.worker
    following = second.new_id()
    assert following > last
    assert following.created_at - clock.now() < timedelta(milliseconds=10)


async def test_a_killed_node_keeps_its_worker_id_for_a_minute(
    db: Database, clock: StandingClock
) -> None:
    killed = await lease(db, clock)
    last = killed.new_id()
    assert (await lease(db, clock)).worker == 1
    await lapse(db)
    heir = await lease(db, clock)
    assert heir.worker == 0
    assert heir.new_id() > last
    made_late = killed.new_id()  # it was only asleep, and has milliseconds of its own left
    assert heir.new_id() > made_late


async def test_a_clock_that_is_set_back(db: Database, clock: StandingClock) -> None:
    node = await lease(db, clock)
    before = node.new_id()
    await node.renew()
    clock.at -= timedelta(hours=1)
    after = node.new_id()
    assert after > before
    await node.renew()
    assert node.new_id() > after
    await node.release()
    assert (await lease(db, clock)).new_id() > after, "a restart does not forget"
    assert (await lease(db, clock)).new_id() > after, "nor does another node"


async def test_ids_run_out_ten_seconds_after_the_last_renewal(
    db: Database, clock: StandingClock
) -> None:
    node = await lease(db, clock)
    clock.at += timedelta(seconds=10)
    assert node.new_id()
    clock.at += timedelta(milliseconds=1)
    with pytest.raises(Unavailable):
        node.new_id()
    await node.renew()
    assert node.new_id()


async def test_a_node_that_slept_takes_another_worker_id(
    db: Database, clock: StandingClock
) -> None:
    asleep = await lease(db, clock)
    last = asleep.new_id()
    await lapse(db)
    heir = await lease(db, clock)
    clock.at += timedelta(minutes=2)
    with pytest.raises(Unavailable):
        asleep.new_id()
    await asleep.renew()
    assert (heir.worker, asleep.worker) == (0, 1)
    assert asleep.new_id() > last
    await asleep.renew()
    assert asleep.worker == 1


async def test_what_was_lost_can_not_be_given_back(db: Database, clock: StandingClock) -> None:
    asleep = await lease(db, clock)
    await lapse(db)
    heir = await lease(db, clock)
    await asleep.release()
    assert heir.new_id()
    assert (await lease(db, clock)).worker == 1


async def test_all_worker_ids_are_leased(db: Database, clock: StandingClock) -> None:
    async with db.read() as conn:
        await conn.execute("UPDATE snowflake_workers SET lease_until = 'infinity'")
    with pytest.raises(NoWorkerLeft):
        await lease(db, clock)


async def test_the_lease_is_kept_by_a_task(db: Database, clock: StandingClock) -> None:
    node = await lease(db, clock)
    await lapse(db)
    async with db.read() as conn:
        await conn.execute("UPDATE snowflake_workers SET holder = NULL, lease_until = 'infinity'")
    keeping = asyncio.create_task(node.keep(period_s=0))
    async with db.read() as conn:
        for _ in range(20):  # it goes on although there is none to be had
            await conn.execute("SELECT 1")
        assert not keeping.done()
        await conn.execute("UPDATE snowflake_workers SET lease_until = '-infinity' WHERE id = 7")
        async with asyncio.timeout(5):
            while node.worker != 7:
                await conn.execute("SELECT 1")
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_database_that_is_silent_does_not_hold_up_a_stop(
    db: Database, clock: StandingClock
) -> None:
    node = await lease(db, clock)
    async with db.transaction() as tx:
        await tx.conn.execute("SELECT FROM snowflake_workers FOR UPDATE")
        async with asyncio.timeout(4):
            assert not await node.release()
    with pytest.raises(Unavailable):
        node.new_id()


async def test_a_database_that_is_away_is_no_obstacle_to_stopping(
    database_url: str, clock: StandingClock
) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        node = await lease(Database(pool, outbox.write, lambda: None), clock)
    await node.release()
    with pytest.raises(Unavailable):
        node.new_id()
