"""Leaks: secrets and words of people in logs and metrics, and what was deleted in the event log."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from tests.e2e.conftest import StartServer
from tests.support.database import Connection
from tests.support.gateway import Op
from tests.support.people import Guild, Person, Refused, Town

Json = Any

METRIC = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? \S+$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# What a label may say: nothing that a user has chosen, and no id.
LABELS = {
    "method": re.compile(r"GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|other"),
    "route": re.compile(r"other|/|(?:/(?:\{\w+\}|@me|v10|[a-z][a-z.-]*))+/?"),
    "status": re.compile(r"[1-5][0-9]{2}"),
    "kind": re.compile(r"[a-z]+"),
    "what": re.compile(r"[a-z]+"),
    "outcome": re.compile(r"[a-z_]+"),
    "code": re.compile(r"[14][0-9]{3}"),
    "le": re.compile(r"\+Inf|[0-9.]+"),
    "generation": re.compile(r"[0-2]"),
}


class Canaries:
    """Secrets that are told apart by what they were, for they must be found nowhere."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def new(self, kind: str, template: str = "canary-{}-9f3c") -> str:
        return self.values.setdefault(kind, template.format(kind.replace(" ", "-")))

    def found_in(self, text: str) -> list[str]:
        return sorted(kind for kind, value in self.values.items() if value in text)


async def secretly(canaries: Canaries, town: Town) -> Person:
    """Somebody whose every word is a canary."""
    person = Person(town, "ada")
    person.password = canaries.new("password")
    person.email = canaries.new("email", "canary-{}-9f3c@example.org")
    await person.register(global_name=canaries.new("name"))
    return person


def remember_tokens(canaries: Canaries, person: Person, when: str) -> None:
    canaries.values[f"access token {when}"] = person.access_token
    canaries.values[f"refresh token {when}"] = person.refresh_token
    # The signature alone is as good as the token to whoever has the rest.
    canaries.values[f"signature {when}"] = person.access_token.rsplit(".", 1)[1]


async def quietly(answer: Any) -> None:
    """A call whose refusal is no news here."""
    try:
        await answer
    except Refused:
        return


async def use_accounts(canaries: Canaries, person: Person) -> None:
    """Sign in and out in every way, right and wrong."""
    remember_tokens(canaries, person, "at first")
    guess = canaries.new("guess")
    await quietly(person.post("/auth/login", {"email": person.email, "password": guess}))
    await quietly(person.post("/auth/login", {"email": guess, "password": person.password}))
    for field in ("email", "username", "password"):
        names = {"username": "other", "email": "o@example.org", "password": person.password}
        await quietly(person.post("/auth/register", {**names, field: canaries.new(field)}))
        await quietly(person.post("/auth/register", {**names, field: {"deep": [guess]}}))
    # Taken already: the database refuses it, with the value in its message.
    taken = {"username": "third", "email": person.email, "password": person.password}
    await quietly(person.post("/auth/register", taken))
    person.take(await person.post("/auth/refresh", {"refresh_token": person.refresh_token}))
    remember_tokens(canaries, person, "refreshed")
    await quietly(person.post("/auth/refresh", {"refresh_token": canaries.new("bad refresh")}))
    await quietly(person.post("/auth/setup", {"secret": canaries.new("setup")}))
    await quietly(person.patch("/users/@me", {"bio": canaries.new("bio")}))
    await quietly(person.patch("/users/@me", {"email": canaries.new("new email"), "password": "x"}))
    change = {"password": person.password, "new_password": canaries.new("new password")}
    person.take(await person.post("/auth/password", change))
    person.password = change["new_password"]
    remember_tokens(canaries, person, "of the new password")
    forged = canaries.new("forged token")
    for header in (f"Bearer {forged}", f"Bot {forged}", f"Basic {forged}", forged):
        await person.call("GET", "/users/@me", headers={"Authorization": header})
    await person.call("GET", "/users/@me", headers={"Cookie": f"s={canaries.new('cookie')}"})


async def use_messages(canaries: Canaries, person: Person, guild: Guild) -> None:
    """Say things, and say them wrongly."""
    here, words = guild.channel_id, canaries.new("message")
    said = await person.say(here, words, nonce=canaries.new("nonce"), enforce_nonce=True)
    one = f"/messages/{here}/{said['id']}"
    await person.patch(one, {"content": canaries.new("edit")})
    wrong = canaries.new("wrong message")
    for body in (
        {"channel_id": "1", "content": wrong},
        {"channel_id": wrong, "content": wrong},
        {"channel_id": here, "content": [wrong]},
        {"channel_id": here, "content": wrong + "\0"},
        {"channel_id": here, "content": wrong * 500},
        {"channel_id": here, "content": wrong, "nonce": {"x": wrong}},
    ):
        await quietly(person.post("/messages", body))
        await person.gateway.send(Op.SEND, body)
        assert "error" in (await person.gateway.expect_op(Op.SENT)).d
    for content in (b'{"content": "%s"', b'{"content": "%s\xff"}', b'"%s"', b"%s"):
        await person.call("POST", "/messages", content=content.replace(b"%s", wrong.encode()))
    await person.call("GET", f"/{canaries.new('path')}", query={"q": canaries.new("query")})
    await person.call("GET", one, query={"token": person.access_token, "limit": wrong})
    await person.call("BREW", f"/messages/channel/{here}")
    await person.call("GET", "/live", headers={"X-Request-Id": f"{wrong} {wrong}"})
    for method in ("DELETE", "GET"):
        await person.call(method, one)


async def use_gateway(canaries: Canaries, person: Person, town: Town) -> None:
    """Open sockets in every way, right and wrong."""
    plain = await town.open_gateway(f"/gateway?token={person.access_token}")
    await plain.expect_ready()
    canaries.values["session"] = plain.session_id
    await plain.abort()
    await (await person.resume(plain.session_id, plain.seq)).expect("RESUMED")
    bad = canaries.new("bad token")
    await (await town.open_gateway(f"/gateway?token={bad}")).expect_close(4004)
    for op, d in (
        (Op.IDENTIFY, {"token": bad}),
        (Op.RESUME, {"token": bad, "session_id": canaries.new("bad session"), "seq": 1}),
        (Op.IDENTIFY, {"token": [bad]}),
        (bad, {}),
    ):
        gateway = await town.open_gateway()
        await gateway.send(op, d)  # type: ignore[arg-type]  # wrong on purpose
        await gateway.expect_close(4002, 4004)


async def test_no_secret_is_in_logs_or_metrics(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    """On the real process with a PostgreSQL of its own, where everything is logged."""
    server = await start_server(embedded=True, LOG_LEVEL="debug")
    town, canaries = Town(http, lambda: server.url), Canaries()
    ada = await secretly(canaries, town)
    guild = await town.guild(ada, name=canaries.new("guild"))
    await ada.connect()
    await use_messages(canaries, ada, guild)
    await use_accounts(canaries, ada)
    await use_gateway(canaries, ada, town)
    async with http.get(server.metrics_url) as answer:
        metrics = await answer.text()
    await town.close()
    logs = list(server.data_dir.rglob("postgres.log*"))
    assert logs, "PostgreSQL has a log"
    assert await server.stop() == 0
    assert len(canaries.values) > 25
    assert canaries.found_in(server.output) == []
    assert canaries.found_in(metrics) == []
    assert canaries.found_in("".join(path.read_text(errors="replace") for path in logs)) == []
    # They were looked for where something is written at all.
    lines = [msgspec.json.decode(line) for line in server.lines if line.startswith("{")]
    seen = {line["route"] for line in lines if line["event"] == "request"}
    assert {"/messages", "/auth/login", "/gateway", None} <= seen
    assert not [line for line in lines if line["level"] in {"error", "critical"}]


async def test_labels_say_nothing_that_people_chose(
    server: Any, city: Town, http: aiohttp.ClientSession
) -> None:
    ada = await city.person("ada")
    guild = await city.guild(ada)
    await ada.connect()
    said = await ada.say(guild.channel_id, "hello")
    await ada.gateway.close(4321)
    for number in range(20):
        await ada.call("GET", f"/made/up/{number}")
        await ada.call(f"BREW{number}", "/guilds")
        await ada.call("GET", f"/guilds/{number}/members/{said['id']}")
        await ada.call("GET", f"/docs/{number}")
    async with http.get(server.metrics_url) as answer:
        text = await answer.text()
    samples = [METRIC.match(line) for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) < 1500, "their number is bounded by the code"
    for sample in samples:
        assert sample is not None
        if not sample["name"].startswith("parley_"):
            continue
        for label, value in LABEL.findall(sample["labels"] or ""):
            assert LABELS[label].fullmatch(value), sample[0]
    for chosen in (ada.id, guild.id, said["id"], "BREW", "made", "4321"):
        assert chosen not in text


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "/debug", "/debug/pprof", "/admin", "/server-status", "/.env"]
)
async def test_operators_pages_are_not_public(town: Town, ada: Person, path: str) -> None:
    assert (await ada.call("GET", path)).status == 404
    assert (await town.stranger.call("GET", path)).status == 404


# What was taken back.


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    conn = await asyncpg.connect(database_url)
    yield conn
    await conn.close()


async def stored(database: Connection, text: str) -> list[str]:
    """The tables in which a text stands, in whatever column."""
    tables = await database.fetch(
        """
        SELECT relname
          FROM pg_class
         WHERE relnamespace = 'public'::regnamespace
           AND relkind IN ('r', 'p')
           AND NOT relispartition
           AND has_table_privilege(oid, 'SELECT')
        """
    )
    found = []
    for row in tables:
        name = row["relname"]
        contents = await database.fetchval(
            f"""SELECT string_agg(t::text, ' ') FROM "{name}" AS t"""  # noqa: S608  # From the catalogue.
        )
        # Payloads are bytes, which PostgreSQL writes in hexadecimal.
        if text in (contents or "") or text.encode().hex() in (contents or ""):
            found.append(name)
    return sorted(found)


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    made = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    return made


async def test_what_is_said_is_stored_where_it_is_looked_for(
    ada: Person, bob: Person, guild: Guild, database: Connection
) -> None:
    """The tests below would find it."""
    await ada.say(guild.channel_id, "canary-kept")
    await ada.fence()
    assert await stored(database, "canary-kept") == ["event_log", "messages"]
    assert await stored(database, bob.email) == ["users"]
    assert await stored(database, bob.password) == []
    assert await stored(database, bob.access_token) == []
    assert await stored(database, bob.refresh_token) == []


@pytest.mark.parametrize("how", ["one", "bulk", "own bulk of two"])
async def test_what_was_deleted_is_nowhere(
    ada: Person, bob: Person, guild: Guild, database: Connection, how: str
) -> None:
    here = guild.channel_id
    said = await ada.say(here, "canary-gone", nonce="canary-gone-nonce", enforce_nonce=False)
    await ada.patch(f"/messages/{here}/{said['id']}", {"content": "canary-gone as well"})
    also = await ada.say(here, "canary-gone too")
    both = [said["id"], also["id"]]
    await bob.gateway.expect("MESSAGE_CREATE", id=also["id"])
    await bob.gateway.abort()
    if how == "one":
        for message_id in both:
            await ada.delete(f"/messages/{here}/{message_id}")
    elif how == "bulk":
        await ada.post(f"/messages/{here}/bulk-delete", {"messages": both})
    else:
        for message_id in both:
            await ada.post(f"/messages/{here}/bulk-delete", {"messages": [message_id]})
    await ada.fence()
    assert await stored(database, "canary-gone") == []
    for path in (
        f"/messages/channel/{here}",
        f"/messages/{here}/{said['id']}",
        f"/api/v10/channels/{here}/messages",
        f"/guilds/{guild.id}",
        f"/channels/{here}",
    ):
        assert b"canary" not in (await ada.call("GET", path)).content
    # From the very beginning of what Bob may ask for.
    first = next(frame.s for frame in bob.gateway.frames if frame.s)
    replay = await bob.resume(bob.gateway.session_id, first)
    await replay.expect("RESUMED")
    assert b"canary" not in b"".join(frame.raw for frame in replay.frames)
    fresh = await bob.watch()
    assert b"canary" not in b"".join(frame.raw for frame in fresh.frames)


async def test_what_was_edited_away_is_nowhere(
    ada: Person, bob: Person, guild: Guild, database: Connection
) -> None:
    here = guild.channel_id
    said = await ada.say(here, "canary-first")
    for words in ("canary-second", "canary-third", "at last"):
        await ada.patch(f"/messages/{here}/{said['id']}", {"content": words})
    before = bob.gateway
    await before.abort()
    await ada.fence()
    for words in ("canary-first", "canary-second", "canary-third"):
        assert await stored(database, words) == []
    assert await stored(database, "at last") == ["event_log", "messages"]
    first = next(frame.s for frame in before.frames if frame.s)
    replay = await bob.resume(before.session_id, first)
    await replay.expect("RESUMED")
    assert b"canary" not in b"".join(frame.raw for frame in replay.frames)


@pytest.mark.parametrize("what", ["channel", "guild"])
async def test_what_went_with_its_place_is_told_to_nobody(
    ada: Person, bob: Person, guild: Guild, database: Connection, what: str
) -> None:
    await ada.say(guild.channel_id, "canary-buried")
    await bob.gateway.expect("MESSAGE_CREATE")
    before = bob.gateway
    await before.abort()
    path = f"/guilds/{guild.id}" if what == "guild" else f"/channels/{guild.channel_id}"
    await ada.delete(path)
    await ada.fence()
    async with asyncio.timeout(10):
        # Out of reach at once; what lies on the disk is swept behind.
        while await stored(database, "canary-buried"):
            await ada.fence()
    first = next(frame.s for frame in before.frames if frame.s)
    replay = await bob.resume(before.session_id, first)
    await replay.expect("RESUMED")
    assert b"canary" not in b"".join(frame.raw for frame in replay.frames)
