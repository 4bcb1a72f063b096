"""Fixtures for all tests: a PostgreSQL for each worker, and nothing left running."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from tests.support.database import Databases, open_databases


@pytest.fixture(autouse=True)
async def no_task_stays_behind() -> AsyncIterator[None]:
    """What a test starts, directly or inside the server, must have ended when it has."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # What was cancelled a moment ago may need its last step.
        _, left = await asyncio.wait(left, timeout=1)
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
async def databases(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    """A PostgreSQL: one for each worker, as starting one takes 0.7 s and sharing takes care."""
    outside = os.environ.get("PARLEY_TEST_DATABASE_URL")
    async with open_databases(tmp_path_factory.mktemp("postgres"), outside) as opened:
        yield opened


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """A fresh database, by the DSN of the server's role."""
    async with databases.lend() as dsn:
        yield dsn
