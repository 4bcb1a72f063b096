"""Messages: sent once, read, changed and deleted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from internal.app import App
from internal.db import locks
from tests.support.gateway import Op
from tests.support.people import Guild, Person, Refused, Town, refused


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    """Ada's, with Bob in it."""
    return await town.guild(ada, bob)


async def test_a_message_is_answered_and_told_alike(guild: Guild, ada: Person, bob: Person) -> None:
    await bob.connect()
    sent = await ada.say(guild.channel_id, "Grüße, 世界 👋", nonce="n-1")

    assert sent["content"] == "Grüße, 世界 👋"
    assert sent["author"]["id"] == ada.id
    assert sent["nonce"] == "n-1"
    assert sent["edited_timestamp"] is None
    assert "guild_id" not in sent
    told = await bob.gateway.expect("MESSAGE_CREATE", id=sent["id"])
    assert told.pop("guild_id") == guild.id
    member = told.pop("member")
    assert "user" not in member
    assert {"roles", "joined_at", "deaf", "mute", "flags"} <= member.keys()
    assert told == sent
    read = await bob.get(f"/messages/{guild.channel_id}/{sent['id']}")
    assert read == {key: value for key, value in sent.items() if key != "nonce"}


@pytest.mark.parametrize("content", ["", " \n\t", "\u200b\u200d", None])
async def test_an_empty_message_is_refused(guild: Guild, ada: Person, content: Any) -> None:
    with refused(400, 50006):
        await ada.say(guild.channel_id, content)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"content": "x" * 2001}, "content"),
        ({"content": 5}, "content"),
        ({"content": {"$gt": ""}}, "content"),
        ({"content": "nul\x00"}, "content"),
        ({"content": "ok", "nonce": ["n"]}, "nonce"),
        ({"content": "ok", "nonce": "x" * 129}, "nonce"),
        ({"content": "ok", "nonce": 2**63}, "nonce"),
        ({"content": "ok", "flags": -1}, "flags"),
        ({"content": "ok", "enforce_nonce": "yes"}, "enforce_nonce"),
        ({"content": "ok", "channel_id": "1_0"}, "channel_id"),
        ({"content": "ok", "channel_id": 2**63}, "channel_id"),
        ({"content": "ok", "channel_id": None}, "channel_id"),
    ],
)
async def test_a_bad_message_is_refused_by_field(
    guild: Guild, ada: Person, body: Any, field: str
) -> None:
    with pytest.raises(Refused) as refusal:
        await ada.post("/messages", {"channel_id": guild.channel_id, **body})
    assert (refusal.value.status, refusal.value.code) == (400, 50035)
    assert field in refusal.value.body["errors"]
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []


async def test_the_longest_message_keeps_every_character(guild: Guild, ada: Person) -> None:
    content = "👩\u200d👩\u200d👧 " * 333
    sent = await ada.say(guild.channel_id, content[:2000])
    assert (await ada.get(f"/messages/{guild.channel_id}/{sent['id']}"))["content"] == content[
        :2000
    ]


async def test_a_message_needs_a_channel(ada: Person) -> None:
    with pytest.raises(Refused) as refusal:
        await ada.post("/messages", {"content": "to nobody"})
    assert "channel_id" in refusal.value.body["errors"]
    with refused(404, 10003):
        await ada.say("1", "to nowhere")


async def test_what_existing_clients_send_besides_is_ignored(guild: Guild, ada: Person) -> None:
    body = {"content": "hi", "tts": False, "embeds": [], "flags": 1 << 12 | 1 << 9, "x": {"y": 1}}
    sent = await ada.post(f"/api/v10/channels/{guild.channel_id}/messages", body)
    assert sent["channel_id"] == guild.channel_id
    assert sent["flags"] == 1 << 12


# Sending again.


async def test_a_hundred_retries_are_one_message(guild: Guild, ada: Person, bob: Person) -> None:
    await bob.connect()
    answers = await asyncio.gather(
        *(ada.say(guild.channel_id, "once", nonce="n", enforce_nonce=True) for _ in range(100))
    )

    assert all(answer == answers[0] for answer in answers)
    assert len(await ada.get(f"/messages/channel/{guild.channel_id}")) == 1
    await bob.fence()
    of_ada = [f for f in bob.gateway.of_type("MESSAGE_CREATE") if f.d["author"]["id"] == ada.id]
    assert [frame.d["id"] for frame in of_ada] == [answers[0]["id"]]


async def test_a_header_is_a_key_too(guild: Guild, ada: Person) -> None:
    body = {"channel_id": guild.channel_id, "content": "once"}
    first = await ada.post("/messages", body, Idempotency_Key="abc/1")
    again = await ada.post("/messages", body, Idempotency_Key="abc/1")
    other = await ada.post("/messages", body, Idempotency_Key="abc/2")

    assert first == again
    assert other["id"] != first["id"]
    for bad in ("x" * 129, "two words"):
        with refused(400, 50035):
            await ada.post("/messages", body, Idempotency_Key=bad)


async def test_a_nonce_alone_forbids_nothing(guild: Guild, ada: Person) -> None:
    first = await ada.say(guild.channel_id, "again", nonce=7)
    second = await ada.say(guild.channel_id, "again", nonce=7)
    assert first["id"] != second["id"]
    assert first["nonce"] == second["nonce"] == 7


async def test_the_same_nonce_for_something_else_is_a_conflict(
    guild: Guild, ada: Person, bob: Person
) -> None:
    direct = await ada.direct(bob)
    await ada.say(guild.channel_id, "one", nonce="n", enforce_nonce=True)
    with refused(409, 40015):
        await ada.say(guild.channel_id, "two", nonce="n", enforce_nonce=True)
    with refused(409, 40015):
        await ada.say(direct, "one", nonce="n", enforce_nonce=True)
    # Somebody else's nonces are another matter.
    await bob.say(guild.channel_id, "two", nonce="n", enforce_nonce=True)


async def test_a_retry_gets_the_first_answer_whatever_has_happened_since(
    guild: Guild, ada: Person, bob: Person
) -> None:
    first = await ada.say(guild.channel_id, "hello", nonce="n", enforce_nonce=True)
    path = f"/messages/{guild.channel_id}/{first['id']}"
    await ada.patch(path, {"content": "goodbye"})
    assert await ada.say(guild.channel_id, "hello", nonce="n", enforce_nonce=True) == first
    await ada.delete(path)
    await bob.connect()
    assert await ada.say(guild.channel_id, "hello", nonce="n", enforce_nonce=True) == first
    await bob.heard_nothing("MESSAGE_CREATE")
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []


async def test_sending_over_the_socket_is_the_same_sending(
    guild: Guild, ada: Person, bob: Person
) -> None:
    await ada.connect()
    await bob.connect()
    body = {"channel_id": guild.channel_id, "content": "quick", "nonce": "socket-1"}
    await ada.gateway.send(Op.SEND, body)
    first = (await ada.gateway.expect_op(Op.SENT)).d
    await ada.gateway.send(Op.SEND, body)
    again = (await ada.gateway.expect_op(Op.SENT)).d

    assert first["nonce"] == "socket-1"
    assert first["message"] == again["message"]
    rest = await ada.say(guild.channel_id, "quick", nonce="socket-1", enforce_nonce=True)
    assert rest == first["message"]
    await bob.gateway.expect("MESSAGE_CREATE", id=first["message"]["id"])
    await ada.gateway.send(Op.SEND, {**body, "content": "other"})
    refusal = (await ada.gateway.expect_op(Op.SENT)).d
    assert refusal["error"]["code"] == 40015
    assert refusal["nonce"] == "socket-1"


async def test_one_speakers_messages_keep_their_order(
    guild: Guild, ada: Person, bob: Person
) -> None:
    await bob.connect()
    for number in range(30):
        await ada.say(guild.channel_id, str(number))
    await bob.fence()
    told = [
        frame.d["content"]
        for frame in bob.gateway.of_type("MESSAGE_CREATE")
        if frame.d["channel_id"] == guild.channel_id
    ]
    assert told == [str(number) for number in range(30)]


async def test_a_retry_gets_the_first_answer_also_after_a_change_of_name(
    guild: Guild, ada: Person
) -> None:
    first = await ada.say(guild.channel_id, "hello", nonce="n", enforce_nonce=True)
    await ada.patch("/users/@me", {"username": "countess", "global_name": "Countess"})
    assert await ada.say(guild.channel_id, "hello", nonce="n", enforce_nonce=True) == first


@pytest.mark.parametrize("nonce", ["n-1", 7, 'with "quotes"'])
async def test_an_edit_does_not_take_the_nonce_from_the_creation(
    guild: Guild, ada: Person, bob: Person, nonce: str | int
) -> None:
    """In a replay the edited content stands in the creation, which the sender knows by it."""
    await bob.connect()
    before = bob.gateway
    await before.abort()
    sent = await ada.say(guild.channel_id, "helo", nonce=nonce)
    path = f"/messages/{guild.channel_id}/{sent['id']}"
    edited = await ada.patch(path, {"content": "hello"})
    assert "nonce" not in edited
    await ada.connect()
    await ada.fence()

    after = await bob.resume(before.session_id, before.seq)
    created = await after.expect("MESSAGE_CREATE", id=sent["id"])
    assert (created["content"], created["nonce"]) == ("hello", nonce)
    assert (await after.expect("MESSAGE_UPDATE", id=sent["id"]))["nonce"] == nonce


async def test_each_message_is_counted_once(guild: Guild, ada: Person, app: App) -> None:
    for number in range(3):
        await ada.say(guild.channel_id, str(number))
    assert app.metrics.registry.get_sample_value("parley_messages_sent_total") == 3


# A guild that is being changed.


@asynccontextmanager
async def being_changed(database_url: str, guild: Guild) -> AsyncIterator[None]:
    """As while somebody else changes the structure of the guild, and takes long."""
    conn = await asyncpg.connect(database_url)
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", int(guild.id))
            yield
    finally:
        await conn.close()


async def of_the_same_lane(town: Town, owner: Person, guild: Guild) -> Guild:
    """A guild whose sends are committed together with those of another."""
    while True:
        other = await town.guild(owner)
        if (int(other.channel_id) >> 22) % 4 == (int(guild.channel_id) >> 22) % 4:
            return other


async def test_a_guild_that_is_being_changed_holds_up_no_other(
    town: Town, guild: Guild, ada: Person, bob: Person, eve: Person, database_url: str
) -> None:
    other = await of_the_same_lane(town, eve, guild)
    direct = await ada.direct(eve)
    async with being_changed(database_url, guild):
        held_up = [
            asyncio.create_task(person.say(guild.channel_id, f"line {number}"))
            for number, person in enumerate((ada, bob) * 4)
        ]
        changes = [
            asyncio.create_task(ada.patch(f"/guilds/{guild.id}", {"name": f"Name {number}"}))
            for number in range(40)
        ]
        async with asyncio.timeout(2):
            for number in range(10):
                await eve.say(other.channel_id, f"line {number}")
                await ada.say(direct, f"line {number}")
            # Nobody waits for what is not theirs, and reading waits for nothing.
            with refused(404, 10003):
                await eve.say(guild.channel_id, "let me in")
            with refused(404, 10004):
                await eve.patch(f"/guilds/{guild.id}", {"name": "Mine"})
            await bob.get(f"/messages/channel/{guild.channel_id}")
        assert not any(task.done() for task in held_up)
    await asyncio.gather(*held_up, *changes)

    kept = await ada.get(f"/messages/channel/{guild.channel_id}")
    assert {message["content"] for message in kept} == {f"line {number}" for number in range(8)}


async def test_an_order_is_kept_past_a_change_of_the_guild(
    guild: Guild, ada: Person, database_url: str
) -> None:
    await ada.connect()
    for start in (0, 20):
        async with being_changed(database_url, guild):
            for number in range(start, start + 10):
                await ada.gateway.send(
                    Op.SEND,
                    {
                        "channel_id": guild.channel_id,
                        "content": f"{number:02}",
                        "nonce": str(number),
                    },
                )
            await ada.get("/guilds/my")
        for number in range(start + 10, start + 20):
            await ada.gateway.send(
                Op.SEND,
                {"channel_id": guild.channel_id, "content": f"{number:02}", "nonce": str(number)},
            )
    for _ in range(40):
        answer = (await ada.gateway.expect_op(Op.SENT)).d
        assert "message" in answer, answer
    await ada.fence()
    told = [
        frame.d["content"]
        for frame in ada.gateway.of_type("MESSAGE_CREATE")
        if frame.d["channel_id"] == guild.channel_id
    ]
    assert told == sorted(told)
    assert len(told) == 40


async def test_what_waits_for_a_guild_in_vain_is_told_to_come_again(
    guild: Guild, ada: Person, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
    sent = await ada.say(guild.channel_id, "first")
    async with being_changed(database_url, guild):
        attempts = [
            ada.say(guild.channel_id, "second"),
            ada.patch(f"/messages/{guild.channel_id}/{sent['id']}", {"content": "other"}),
            ada.patch(f"/channels/{guild.channel_id}", {"name": "other"}),
            ada.patch("/users/@me", {"global_name": "Countess"}),
            ada.delete(f"/guilds/{guild.id}"),
        ]
        for outcome in await asyncio.gather(*attempts, return_exceptions=True):
            assert isinstance(outcome, Refused)
            assert (outcome.status, outcome.code) == (503, 90004)
    assert (await ada.say(guild.channel_id, "second"))["content"] == "second"


# Reading.


async def test_a_channel_is_read_in_pages(guild: Guild, ada: Person, bob: Person) -> None:
    ids = [(await ada.say(guild.channel_id, f"line {n}"))["id"] for n in range(12)]
    path = f"/messages/channel/{guild.channel_id}"

    async def page(**query: Any) -> list[str]:
        return [message["id"] for message in await bob.get(path, **query)]

    newest_first = ids[::-1]
    assert await page() == newest_first
    assert await page(limit=3) == newest_first[:3]
    assert await page(limit=3, before=ids[6]) == newest_first[6:9]
    assert await page(limit=3, after=ids[6]) == [ids[9], ids[8], ids[7]]
    assert await page(limit=5, around=ids[6]) == ids[4:9][::-1]
    assert await page(limit=1, around=ids[6]) == [ids[6]]
    assert await page(before=ids[0]) == []
    assert await page(after=ids[-1]) == []
    assert await page(before=str(2**63 - 1), limit=1) == newest_first[:1]
    assert await page(around=str(2**63 - 1), limit=1) == newest_first[:1]
    with refused(400, 50035):
        await page(before=ids[6], after=ids[1])
    with refused(400, 50035):
        await page(before="nonsense")
    with refused(400, 50035):
        await page(before="9223372036854775808")


async def test_a_message_is_reached_through_its_own_channel_only(
    guild: Guild, ada: Person, bob: Person
) -> None:
    secret = await ada.post("/guilds", {"name": "Elsewhere"})
    elsewhere = secret["channels"][0]["id"]
    sent = await ada.say(elsewhere, "not for Bob")
    mine = await bob.say(guild.channel_id, "mine")

    through_another = f"/messages/{guild.channel_id}/{sent['id']}"
    for attempt in (
        bob.get(through_another),
        bob.patch(through_another, {"content": "taken"}),
        bob.delete(through_another),
        ada.delete(through_another),
        ada.get(f"/messages/{elsewhere}/{mine['id']}"),
    ):
        with refused(404, 10008):
            await attempt
    body = {"messages": [sent["id"], mine["id"]]}
    await ada.post(f"/messages/{guild.channel_id}/bulk-delete", body)
    assert (await ada.get(f"/messages/{elsewhere}/{sent['id']}"))["content"] == "not for Bob"
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []


# Changing and deleting.


async def test_the_author_edits_and_nobody_else(guild: Guild, ada: Person, bob: Person) -> None:
    sent = await bob.say(guild.channel_id, "helo")
    path = f"/messages/{guild.channel_id}/{sent['id']}"
    await ada.connect()
    edited = await bob.patch(path, {"content": "hello"})

    assert edited["content"] == "hello"
    assert edited["timestamp"] == sent["timestamp"]
    assert edited["edited_timestamp"] is not None
    told = await ada.gateway.expect("MESSAGE_UPDATE", id=sent["id"])
    assert told.pop("guild_id") == guild.id
    assert told.pop("member")["joined_at"]
    assert told == edited == await ada.get(path)
    with refused(403, 50005):
        await ada.patch(path, {"content": "I was wrong"})
    with refused(400, 50006):
        await bob.patch(path, {"content": None})
    with refused(400, 50035):
        await bob.patch(path, {"content": "x" * 2001})
    # What is not given stays, and no change tells nobody.
    await ada.fence()
    assert await bob.patch(path, {}) == edited
    assert await bob.patch(path, {"content": "hello"}) == edited
    await ada.heard_nothing("MESSAGE_UPDATE")
    assert (await bob.patch(path, {"flags": 1 << 2}))["flags"] == 1 << 2


async def test_authors_delete_their_own_and_the_owner_deletes_all(
    guild: Guild, ada: Person, bob: Person
) -> None:
    of_ada = await ada.say(guild.channel_id, "Ada's")
    of_bob = await bob.say(guild.channel_id, "Bob's")
    second = await bob.say(guild.channel_id, "Bob's second")
    await bob.connect()
    with refused(403, 50013):
        await bob.delete(f"/messages/{guild.channel_id}/{of_ada['id']}")
    await bob.delete(f"/messages/{guild.channel_id}/{of_bob['id']}")
    await ada.delete(f"/api/v10/channels/{guild.channel_id}/messages/{second['id']}")

    told = await bob.gateway.expect("MESSAGE_DELETE", id=of_bob["id"])
    assert told == {
        "id": of_bob["id"],
        "channel_id": guild.channel_id,
        "guild_id": guild.id,
    }
    await bob.gateway.expect("MESSAGE_DELETE", id=second["id"])
    with refused(404, 10008):
        await bob.get(f"/messages/{guild.channel_id}/{of_bob['id']}")
    with refused(404, 10008):
        await bob.delete(f"/messages/{guild.channel_id}/{of_bob['id']}")


async def test_a_deletion_is_told_once(guild: Guild, ada: Person, bob: Person) -> None:
    sent = await ada.say(guild.channel_id, "oops")
    path = f"/messages/{guild.channel_id}/{sent['id']}"
    await bob.connect()
    outcomes = await asyncio.gather(*(ada.delete(path) for _ in range(8)), return_exceptions=True)

    assert [outcome for outcome in outcomes if outcome is None] == [None]
    await bob.fence()
    assert len(bob.gateway.of_type("MESSAGE_DELETE")) == 1


async def test_many_are_deleted_at_once(guild: Guild, ada: Person, bob: Person) -> None:
    ids = [(await bob.say(guild.channel_id, f"advert {n}"))["id"] for n in range(5)]
    path = f"/messages/{guild.channel_id}/bulk-delete"
    await bob.connect()
    with refused(403, 50013):
        await bob.post(path, {"messages": ids})
    # Twice the same, and one that is not there.
    await ada.post(path, {"messages": [*ids[:4], ids[0], "1"]})

    told = await bob.gateway.expect("MESSAGE_DELETE_BULK", channel_id=guild.channel_id)
    assert told["ids"] == ids[:4]
    assert told["guild_id"] == guild.id
    left = await ada.get(f"/messages/channel/{guild.channel_id}")
    assert [message["id"] for message in left] == ids[4:]
    await ada.post(
        f"/api/v10/channels/{guild.channel_id}/messages/bulk-delete", {"messages": ids[:4]}
    )
    await bob.heard_nothing("MESSAGE_DELETE_BULK")


@pytest.mark.parametrize(
    ("messages", "code"),
    [([], 50016), ([str(n) for n in range(1, 102)], 50016), (["x"], 50035), ("1", 50035)],
)
async def test_a_bad_bulk_delete_is_refused(
    guild: Guild, ada: Person, messages: Any, code: int
) -> None:
    with refused(400, code):
        await ada.post(f"/messages/{guild.channel_id}/bulk-delete", {"messages": messages})


async def test_sends_into_a_channel_that_is_being_deleted_are_told_or_refused(
    guild: Guild, ada: Person, bob: Person
) -> None:
    """One that fails does not fail the others of its batch."""
    doomed = await ada.post("/channels", {"guild_id": guild.id, "name": "doomed"})
    await bob.connect()
    sends = [
        bob.say(doomed["id"] if number % 2 else guild.channel_id, f"line {number}")
        for number in range(60)
    ]
    outcomes, _ = await asyncio.gather(
        asyncio.gather(*sends, return_exceptions=True), ada.delete(f"/channels/{doomed['id']}")
    )

    stayed, lost = outcomes[::2], outcomes[1::2]
    assert all(isinstance(outcome, dict) for outcome in stayed)
    for outcome in lost:
        assert isinstance(outcome, dict) or (isinstance(outcome, Refused) and outcome.code == 10003)
    await bob.fence()
    kept = {message["id"] for message in await ada.get(f"/messages/channel/{guild.channel_id}")}
    assert kept <= {outcome["id"] for outcome in stayed}
    # Everything acknowledged was told, and nothing after the channel's end.
    frames = bob.gateway.dispatches
    end = next(i for i, frame in enumerate(frames) if frame.t == "CHANNEL_DELETE")
    told = {frame.d["id"] for frame in frames if frame.t == "MESSAGE_CREATE"}
    assert {outcome["id"] for outcome in outcomes if isinstance(outcome, dict)} <= told
    assert not [
        frame
        for frame in frames[end:]
        if frame.t == "MESSAGE_CREATE" and frame.d["channel_id"] == doomed["id"]
    ]


async def test_a_send_does_not_slip_past_the_leaving_of_its_author(
    guild: Guild, ada: Person, bob: Person
) -> None:
    await ada.connect()
    sends = asyncio.gather(
        *(bob.say(guild.channel_id, f"line {n}") for n in range(40)), return_exceptions=True
    )
    await asyncio.gather(sends, bob.post(f"/guilds/{guild.id}/leave"))
    await ada.fence()

    frames = ada.gateway.dispatches
    left = next(i for i, frame in enumerate(frames) if frame.t == "GUILD_MEMBER_REMOVE")
    assert not [
        frame
        for frame in frames[left:]
        if frame.t == "MESSAGE_CREATE" and frame.d["author"]["id"] == bob.id
    ]
