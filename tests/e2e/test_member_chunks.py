"""Members in chunks (opcode 8), and guilds that are too large to be told with theirs."""

from typing import Any

import pytest

from internal.app import App
from internal.chat.ws.members import CHUNK
from tests.e2e.conftest import OpenTown
from tests.support.crowd import crowd
from tests.support.gateway import Frame, Gateway, Op
from tests.support.people import Guild, Person, Town
from tests.support.reducer import differences, unchanged_view, view_of

Json = Any


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    """Ada's guild, with Bob in it and without Eve."""
    return await town.guild(ada, bob)


async def ask(gateway: Gateway, guild: Guild, **wish: Json) -> Json:
    await gateway.send(Op.REQUEST_GUILD_MEMBERS, {"guild_id": guild.id, **wish})
    return await gateway.expect("GUILD_MEMBERS_CHUNK", guild_id=guild.id)


async def ask_all(gateway: Gateway, guild: Guild, **wish: Json) -> list[Json]:
    """All members, chunk by chunk."""
    body = {"guild_id": guild.id, "query": "", "limit": 0, **wish}
    await gateway.send(Op.REQUEST_GUILD_MEMBERS, body)
    chunks = [await gateway.expect("GUILD_MEMBERS_CHUNK", guild_id=guild.id)]
    while len(chunks) < chunks[0]["chunk_count"]:
        chunks.append(await gateway.expect("GUILD_MEMBERS_CHUNK", guild_id=guild.id))
    assert [chunk["chunk_index"] for chunk in chunks] == list(range(len(chunks)))
    return chunks


def ids(chunk: Json) -> list[str]:
    return [member["user"]["id"] for member in chunk["members"]]


async def answered_nothing(person: Person) -> None:
    """What was asked for is not answered: the next request is, and nothing was before it."""
    await person.heard_nothing("GUILD_MEMBERS_CHUNK", "RATE_LIMITED")


async def test_members_are_found_by_their_ids_and_others_are_named(
    guild: Guild, ada: Person, bob: Person, eve: Person
) -> None:
    await bob.connect()
    wish = {"user_ids": [ada.id, eve.id, "42", ada.id], "nonce": "n-1"}
    chunk = await ask(bob.gateway, guild, **wish)

    assert ids(chunk) == [ada.id]
    assert chunk["not_found"] == [eve.id, "42"]
    assert (chunk["chunk_index"], chunk["chunk_count"], chunk["nonce"]) == (0, 1, "n-1")
    assert "presences" not in chunk
    whole = await bob.get(f"/guilds/{guild.id}/members/{ada.id}")
    assert chunk["members"] == [whole]
    # Some libraries send one id as it is, or as a number.
    for one in (bob.id, int(bob.id)):
        chunk = await ask(bob.gateway, guild, user_ids=one)
        assert ids(chunk) == [bob.id]
        assert "not_found" not in chunk
        assert "nonce" not in chunk


async def test_members_are_found_by_the_beginning_of_a_name(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await crowd(app, guild, 150)
    await ada.patch("/users/@me", {"global_name": "Walter"})
    await ada.connect()

    assert ids(await ask(ada.gateway, guild, query="BO", limit=0)) == [bob.id]
    assert ids(await ask(ada.gateway, guild, query="walt", limit=5)) == [ada.id]
    assert ids(await ask(ada.gateway, guild, query="nobody", limit=5)) == []
    assert len(ids(await ask(ada.gateway, guild, query="walkon", limit=7))) == 7
    # No more than a hundred, whatever is asked for.
    assert len(ids(await ask(ada.gateway, guild, query="walkon", limit=0))) == 100
    assert len(ids(await ask(ada.gateway, guild, query="walkon", limit=5000))) == 100
    assert len(ids(await ask(ada.gateway, guild, query="", limit=3))) == 3


async def test_all_members_come_in_chunks_each_once(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    extras = await crowd(app, guild, 2 * CHUNK + 300)
    await ada.connect()
    chunks = await ask_all(ada.gateway, guild, nonce="all")

    assert [len(chunk["members"]) for chunk in chunks] == [CHUNK, CHUNK, 302]
    assert {chunk["nonce"] for chunk in chunks} == {"all"}
    told = [member for chunk in chunks for member in ids(chunk)]
    assert sorted(told, key=int) == told
    assert set(told) == {*extras, ada.id, bob.id}
    positions = [frame.s for frame in ada.gateway.frames if frame.s]
    assert positions == sorted(positions)


async def test_a_whole_number_of_chunks_has_no_empty_one(
    app: App, guild: Guild, ada: Person
) -> None:
    await crowd(app, guild, CHUNK - 2)
    await ada.connect()
    (chunk,) = await ask_all(ada.gateway, guild)
    assert len(chunk["members"]) == CHUNK


async def test_presences_come_if_they_are_wanted(guild: Guild, ada: Person, bob: Person) -> None:
    await bob.connect()
    await ada.connect()
    await bob.gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}, status="online")
    chunk = await ask(bob.gateway, guild, query="", limit=0, presences=True)
    assert {one["user"]["id"]: one["status"] for one in chunk["presences"]} == {
        ada.id: "online",
        bob.id: "online",
    }


async def test_a_nonce_that_is_too_long_is_not_given_back(guild: Guild, ada: Person) -> None:
    await ada.connect()
    assert (await ask(ada.gateway, guild, query="", nonce="n" * 32))["nonce"] == "n" * 32
    assert "nonce" not in await ask(ada.gateway, guild, query="", nonce="ä" * 17)


async def test_strangers_are_told_nothing(guild: Guild, ada: Person, eve: Person) -> None:
    await eve.connect()
    for guild_id in (guild.id, "42"):
        for wish in ({"query": "", "limit": 0}, {"user_ids": [ada.id]}, {"query": "a"}):
            body = {"guild_id": guild_id, **wish}
            await eve.gateway.send(Op.REQUEST_GUILD_MEMBERS, body)
    await answered_nothing(eve)


async def test_who_has_left_is_told_nothing(guild: Guild, bob: Person) -> None:
    await bob.connect()
    await bob.post(f"/guilds/{guild.id}/leave")
    await bob.gateway.expect("GUILD_DELETE", id=guild.id)
    await bob.gateway.send(Op.REQUEST_GUILD_MEMBERS, {"guild_id": guild.id, "query": ""})
    await answered_nothing(bob)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"query": ""},
        {"guild_id": "1"},
        {"guild_id": ["1"], "query": ""},
        {"guild_id": "1", "query": "x" * 101},
        {"guild_id": "1", "query": "nul\x00"},
        {"guild_id": "1", "query": "", "limit": -1},
        {"guild_id": "1", "user_ids": ["x"]},
        {"guild_id": "1", "user_ids": [str(n) for n in range(101)]},
        {"guild_id": "1", "user_ids": {"a": 1}},
        {"guild_id": "1", "user_ids": 2**64},
    ],
)
async def test_what_is_no_request_ends_the_socket(ada: Person, body: Json) -> None:
    await ada.connect()
    await ada.gateway.send(Op.REQUEST_GUILD_MEMBERS, body)
    await ada.gateway.expect_close(4002)


async def test_nobody_asks_before_it_is_known_who_it_is(town: Town, guild: Guild) -> None:
    gateway = await town.open_gateway()
    await gateway.send(Op.REQUEST_GUILD_MEMBERS, {"guild_id": guild.id, "query": ""})
    await gateway.expect_close(4003)


async def test_all_members_of_a_guild_are_told_only_so_often(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    ada = await town.person("ada")
    guild = await town.guild(ada)
    await ada.connect()
    await ask_all(ada.gateway, guild)
    await ask_all(ada.gateway, guild)
    body = {"guild_id": guild.id, "query": "", "limit": 0, "nonce": "third"}
    await ada.gateway.send(Op.REQUEST_GUILD_MEMBERS, body)
    refusal = await ada.gateway.expect("RATE_LIMITED")
    assert refusal["opcode"] == Op.REQUEST_GUILD_MEMBERS
    assert refusal["meta"] == {"guild_id": guild.id, "nonce": "third"}
    assert refusal["retry_after"] > 0
    # Other requests and other guilds are not concerned.
    assert ids(await ask(ada.gateway, guild, user_ids=[ada.id])) == [ada.id]
    other = await town.guild(ada, name="Elsewhere")
    await ada.gateway.expect("GUILD_CREATE", id=other.id)
    await ask_all(ada.gateway, other)


async def test_too_many_requests_at_once_are_refused_and_the_others_answered(
    guild: Guild, ada: Person
) -> None:
    await ada.connect()
    for number in range(60):
        body = {"guild_id": guild.id, "user_ids": [ada.id], "nonce": str(number)}
        await ada.gateway.send(Op.REQUEST_GUILD_MEMBERS, body)

    def is_outcome(frame: Frame) -> bool:
        return frame.t in {"GUILD_MEMBERS_CHUNK", "RATE_LIMITED"}

    outcomes = [await ada.gateway.find(is_outcome, "an outcome", 10) for _ in range(60)]
    named = [
        frame.d["nonce"] if "nonce" in frame.d else frame.d["meta"]["nonce"] for frame in outcomes
    ]
    assert sorted(named, key=int) == list(map(str, range(60)))
    answered = [frame.d["nonce"] for frame in outcomes if frame.t == "GUILD_MEMBERS_CHUNK"]
    # In the order in which they were asked for.
    assert answered == sorted(answered, key=int)
    assert answered


async def test_a_slow_reader_gets_all_chunks_and_the_events_in_order(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    """Megabytes for one who reads nothing for a while: they wait at the server, in pieces."""
    await crowd(app, guild, 8 * CHUNK)
    await bob.connect()
    bob.gateway.stop_reading()
    body = {"guild_id": guild.id, "query": "", "limit": 0}
    await bob.gateway.send(Op.REQUEST_GUILD_MEMBERS, body)
    said = [await ada.say(guild.channel_id, f"line {n}") for n in range(10)]
    bob.gateway.go_on_reading()
    chunks = [await bob.gateway.expect("GUILD_MEMBERS_CHUNK") for _ in range(9)]
    assert sum(len(chunk["members"]) for chunk in chunks) == 8 * CHUNK + 2
    await bob.fence()
    told = [frame.d["content"] for frame in bob.gateway.of_type("MESSAGE_CREATE")]
    assert told[: len(said)] == [message["content"] for message in said]
    positions = [frame.s for frame in bob.gateway.frames if frame.s]
    assert positions == sorted(positions)


async def test_who_goes_away_is_read_no_further(app: App, guild: Guild, bob: Person) -> None:
    await crowd(app, guild, 3 * CHUNK)
    await bob.connect()
    await bob.gateway.send(Op.REQUEST_GUILD_MEMBERS, {"guild_id": guild.id, "query": ""})
    await bob.gateway.abort()
    await bob.connect()
    assert len(await ask_all(bob.gateway, guild)) == 4


async def test_members_who_come_and_go_meanwhile_are_told_by_the_last_word(
    town: Town, app: App, guild: Guild, ada: Person
) -> None:
    """READY, events and chunks together are what there is."""
    await crowd(app, guild, 300)
    people = await town.people(6)
    await ada.connect()
    for number, one in enumerate(people):
        body = {"guild_id": guild.id, "query": "", "limit": 0}
        await ada.gateway.send(Op.REQUEST_GUILD_MEMBERS, body)
        await one.post(f"/guilds/{guild.id}/join")
        await one.patch("/users/@me", {"global_name": f"Number {number}"})
        if number % 2:
            await one.post(f"/guilds/{guild.id}/leave")
    for _ in people:
        await ada.gateway.expect("GUILD_MEMBERS_CHUNK")
    await ada.fence()

    known = view_of(ada.gateway).guilds[guild.id]
    there = {m["user"]["id"]: m for m in await ada.get(f"/guilds/{guild.id}/members", limit=1000)}
    assert list(differences(known["members"], there)) == []
    assert known["member_count"] == len(there)


# Large guilds.


async def test_a_large_guild_comes_with_oneself_alone(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await crowd(app, guild, 248)
    _, told = await bob.connect()
    assert (told.d["large"], told.d["member_count"], len(told.d["members"])) == (False, 250, 250)
    await crowd_more(app, guild)
    _, told = await bob.connect()
    assert (told.d["large"], told.d["member_count"]) == (True, 251)
    assert [member["user"]["id"] for member in told.d["members"]] == [bob.id]
    (chunk,) = await ask_all(bob.gateway, guild)
    assert {ada.id, bob.id} < set(ids(chunk))


async def crowd_more(app: App, guild: Guild) -> None:
    """One more member."""
    async with app.db.read() as conn:
        await conn.execute(
            "INSERT INTO users (id, username, email, password_hash) VALUES (7, 'x7', 'x@y', '-')"
        )
        await conn.execute("INSERT INTO members (guild_id, user_id) VALUES ($1, 7)", int(guild.id))
        await conn.execute(
            "UPDATE guilds SET member_count = member_count + 1 WHERE id = $1", int(guild.id)
        )


@pytest.mark.parametrize(
    ("threshold", "told_members"),
    [(None, 60), (50, 1), (1, 1), (59, 1), (60, 60), (250, 60), (9999, 60)],
)
async def test_a_client_says_from_when_on_a_guild_is_large(
    app: App, guild: Guild, ada: Person, threshold: int | None, told_members: int
) -> None:
    await crowd(app, guild, 58)
    _, told = await ada.connect(large_threshold=threshold)
    assert told.d["large"] is (told_members == 1)
    assert len(told.d["members"]) == told_members


async def test_below_fifty_members_no_guild_is_large(guild: Guild, ada: Person) -> None:
    _, told = await ada.connect(large_threshold=1)
    assert told.d["id"] == guild.id
    assert (told.d["large"], len(told.d["members"])) == (False, 2)


async def test_the_sync_law_holds_in_a_large_guild(
    app: App, guild: Guild, ada: Person, bob: Person, eve: Person
) -> None:
    await crowd(app, guild, 300)
    async with unchanged_view(bob):
        await ada.patch("/users/@me", {"global_name": "Countess"})
        await eve.post(f"/guilds/{guild.id}/join")
        await eve.patch("/users/@me", {"global_name": "Evelyn"})
        await eve.post(f"/guilds/{guild.id}/leave")
        await ada.patch(f"/guilds/{guild.id}", {"name": "Hall"})


async def test_joining_a_large_guild_tells_no_members(app: App, guild: Guild, eve: Person) -> None:
    await crowd(app, guild, 300)
    await eve.connect()
    await eve.post(f"/guilds/{guild.id}/join")
    told = await eve.gateway.expect("GUILD_CREATE", id=guild.id)
    assert (told["large"], told["member_count"]) == (True, 303)
    assert [member["user"]["id"] for member in told["members"]] == [eve.id]
