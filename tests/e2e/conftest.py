"""Fixtures of the end-to-end tests: a server for each test, and people to use it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from internal.app import App, open_app
from internal.config.config import Config, bound_to, load
from internal.monitoring import load as load_model
from tests.support.people import Person, Town
from tests.support.process import ServerProcess

JWT_SECRET = "a key for tests that is long enough to sign with"

Serve = Callable[[web.Application], Awaitable[TestServer]]
OpenTown = Callable[..., Awaitable[Town]]
StartServer = Callable[..., Awaitable[ServerProcess]]


@pytest.fixture(autouse=True)
def shared_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in this process share its loop with the tests, and the machine with other workers.

    What these cost is no load of the server's: it must not shed what a test asks for because of it.
    Levels by the number of requests stay as they are.
    """
    monkeypatch.setattr(load_model, "_LAG_S", 10.0)
    monkeypatch.setattr(load_model, "_DATABASE_S", 10.0)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a server for tests: cheap hashes, and limits that are out of the way."""
    return {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path / "var"),
        "JWT_SECRET": JWT_SECRET,
        "BCRYPT_COST": "4",
        "RATE_LIMIT_SCALE": "1000",
        "METRICS_PORT": "0",
        "DRAIN_WINDOW": "0",
        "SHUTDOWN_TIMEOUT": "200ms",
    }


@pytest.fixture
def config(settings: dict[str, str]) -> Config:
    return load(settings, None)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """What the people send their requests with: no cookies, no proxy, no shared limit."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session


@pytest.fixture
async def open_town(
    settings: dict[str, str], http: aiohttp.ClientSession, aiohttp_server: Serve
) -> AsyncIterator[OpenTown]:
    """Open the server in this process, with settings of one's own: `open_town(PORT="8080")`."""
    async with AsyncExitStack() as stack:

        async def open_one(**more: str) -> Town:
            config = load({**settings, **more}, None)
            app = await stack.enter_async_context(open_app(config))
            server = await aiohttp_server(app.web)
            stack.push_async_callback(server.close)
            app.address.config = bound_to(config, server.port or 0)
            url = str(server.make_url("")).rstrip("/")
            town = Town(http, lambda: url, app=app, stop=server.close)
            stack.push_async_callback(town.close)
            return town

        yield open_one


@pytest.fixture
async def town(open_town: OpenTown) -> Town:
    """The server in this process, and everybody on it."""
    return await open_town()


@pytest.fixture
def app(town: Town) -> App:
    """The inside of the server behind `town`."""
    assert town.app is not None
    return town.app


@pytest.fixture
async def ada(town: Town) -> Person:
    return await town.person("ada")


@pytest.fixture
async def bob(town: Town) -> Person:
    return await town.person("bob")


@pytest.fixture
async def eve(town: Town) -> Person:
    """Somebody with an account and no business here."""
    return await town.person("eve")


@pytest.fixture
async def start_server(
    settings: dict[str, str], tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[ServerProcess]]]:
    """Start the real program: on the worker's PostgreSQL, or on its own with `embedded=True`."""
    async with AsyncExitStack() as stack:

        async def start(*, embedded: bool = False, **more: str) -> ServerProcess:
            environ = {**settings, **more}
            if embedded:
                del environ["DATABASE_URL"], environ["JWT_SECRET"]
            return await stack.enter_async_context(ServerProcess(tmp_path / "var", environ))

        yield start


@pytest.fixture
async def server(start_server: StartServer) -> ServerProcess:
    """The real program on the worker's PostgreSQL."""
    return await start_server()


@pytest.fixture
async def city(server: ServerProcess, http: aiohttp.ClientSession) -> AsyncIterator[Town]:
    """Everybody on the real program; it may be killed and started again."""
    town = Town(http, lambda: server.url)
    yield town
    await town.close()
