"""Bans: who is sent away, what goes with them, and who may come back."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from internal.app import App
from tests.support.moderation import ban_path, give_role
from tests.support.people import Person, Refused, Town, refused

DAY_S = 24 * 3600
BAN_MEMBERS = 1 << 2
MANAGE_GUILD = 1 << 5


async def test_who_is_banned_is_out_and_stays_out(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    reason = {"X_Audit_Log_Reason": "Spam%20in%20caf%C3%A9"}
    assert await ada.put(ban_path(guild, bob), {}, **reason) is None

    async with asyncio.timeout(2):
        gone = await bob.gateway.expect("GUILD_DELETE", id=guild.id)
    assert gone == {"id": guild.id, "unavailable": False}
    left = await ada.gateway.expect("GUILD_MEMBER_REMOVE", guild_id=guild.id)
    assert left["user"]["id"] == bob.id
    told = await ada.gateway.expect("GUILD_BAN_ADD", guild_id=guild.id)
    assert (told["user"]["id"], told["user"]["username"]) == (bob.id, "bob")
    ban = await ada.get(ban_path(guild, bob))
    assert (ban["user"]["id"], ban["reason"]) == (bob.id, "Spam in café")
    # His sight has ended on the live socket and by REST, and he can't come back.
    await ada.say(guild.channel_id, "he is gone")
    await bob.heard_nothing("MESSAGE_CREATE", "GUILD_BAN_ADD", "GUILD_MEMBER_REMOVE")
    for attempt in (
        bob.get(f"/channels/{guild.channel_id}"),
        bob.get(f"/messages/channel/{guild.channel_id}"),
        bob.say(guild.channel_id, "still there"),
    ):
        with refused(404, 10003):
            await attempt
    with refused(404, 10004):
        await bob.get(f"/guilds/{guild.id}")
    with refused(403, 40007):
        await bob.post(f"/guilds/{guild.id}/join")
    assert (await ada.get(f"/guilds/{guild.id}"))["approximate_member_count"] == 1


async def test_a_resumed_connection_hears_of_the_end_and_of_nothing_after(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    before = bob.gateway
    await before.abort()
    await ada.say(guild.channel_id, "before the ban")
    await ada.put(ban_path(guild, bob), {"delete_message_seconds": DAY_S})
    await ada.say(guild.channel_id, "after the ban")
    await ada.patch(f"/guilds/{guild.id}", {"name": "Quiet house"})
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")

    told = [frame.t for frame in after.dispatches]
    assert told == ["GUILD_DELETE", "RESUMED"]


async def test_a_moderator_who_is_banned_reads_no_audit_log_in_the_replay(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    view_audit_log = 1 << 7
    await give_role(app, guild, bob, view_audit_log, 1)
    await bob.connect()
    before = bob.gateway
    await ada.patch(f"/guilds/{guild.id}", {"name": "Read by Bob"})
    await before.expect("GUILD_AUDIT_LOG_ENTRY_CREATE", guild_id=guild.id)
    await before.abort()
    await ada.patch(f"/guilds/{guild.id}", {"name": "Missed by Bob"})
    await ada.put(ban_path(guild, bob))
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")

    assert [frame.t for frame in after.dispatches] == ["GUILD_DELETE", "RESUMED"]


async def test_banning_and_unbanning_twice(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = ban_path(guild, bob)
    await ada.put(path, X_Audit_Log_Reason="first")
    await ada.connect()
    await ada.put(path, X_Audit_Log_Reason="second")

    assert (await ada.get(path))["reason"] == "first"
    await ada.heard_nothing("GUILD_BAN_ADD", "GUILD_AUDIT_LOG_ENTRY_CREATE")
    await ada.delete(path)
    told = await ada.gateway.expect("GUILD_BAN_REMOVE", guild_id=guild.id)
    assert told["user"]["id"] == bob.id
    for attempt in (ada.delete(path), ada.get(path)):
        with refused(404, 10026):
            await attempt
    await bob.post(f"/guilds/{guild.id}/join")


async def test_somebody_who_is_no_member_can_be_banned(
    town: Town, ada: Person, eve: Person
) -> None:
    guild = await town.guild(ada)
    await ada.connect()
    await ada.put(f"/api/v10{ban_path(guild, eve)}")

    await ada.gateway.expect("GUILD_BAN_ADD", guild_id=guild.id)
    await ada.heard_nothing("GUILD_MEMBER_REMOVE")
    with refused(403, 40007):
        await eve.post(f"/guilds/{guild.id}/join")
    with refused(404, 10013):
        await ada.put(f"/guilds/{guild.id}/bans/1")


async def test_who_may_not_ban(town: Town, app: App, ada: Person, bob: Person, eve: Person) -> None:
    carol, dora = await town.people(2, "warden")
    guild = await town.guild(ada, bob, carol, dora)
    await give_role(app, guild, carol, BAN_MEMBERS, 5)
    await give_role(app, guild, dora, BAN_MEMBERS, 5)
    path = f"/guilds/{guild.id}/bans"
    # A member without the permission, and somebody from outside.
    for person, status, code in ((bob, 403, 50013), (eve, 404, 10004)):
        for attempt in (
            person.put(ban_path(guild, carol)),
            person.delete(ban_path(guild, carol)),
            person.get(ban_path(guild, carol)),
            person.get(path),
            person.post(f"/guilds/{guild.id}/bulk-ban", {"user_ids": [carol.id]}),
        ):
            with refused(status, code):
                await attempt
    # Nobody bans the owner, oneself, or who stands as high or higher.
    for other in (ada, carol, dora):
        higher = carol if other is not dora else dora
        with refused(403, 50013):
            await higher.put(ban_path(guild, other))
    with refused(403, 50013):
        await dora.put(ban_path(guild, carol))
    with refused(403, 50013):
        await ada.put(ban_path(guild, ada))
    await carol.put(ban_path(guild, bob))
    assert [ban["user"]["id"] for ban in await ada.get(path)] == [bob.id]


@pytest.mark.parametrize(
    "body",
    [
        {"delete_message_seconds": -1},
        {"delete_message_seconds": 7 * DAY_S + 1},
        {"delete_message_seconds": "soon"},
        {"delete_message_days": 8},
    ],
)
async def test_a_bad_ban_is_refused_by_field(
    town: Town, ada: Person, bob: Person, body: dict[str, Any]
) -> None:
    guild = await town.guild(ada, bob)
    with pytest.raises(Refused) as refusal:
        await ada.put(ban_path(guild, bob), body)
    assert (refusal.value.status, refusal.value.code) == (400, 50035)
    assert list(refusal.value.body["errors"]) == list(body)
    assert await ada.get(f"/guilds/{guild.id}/bans") == []


async def test_bans_are_listed_by_id_in_pages(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    rogues = sorted(await town.people(5, "rogue"), key=lambda one: int(one.id))
    for rogue in rogues:
        await ada.put(ban_path(guild, rogue))
    ids = [rogue.id for rogue in rogues]
    path = f"/guilds/{guild.id}/bans"

    async def page(**query: str | int) -> list[str]:
        return [ban["user"]["id"] for ban in await ada.get(path, **query)]

    assert await page() == ids
    assert await page(limit=2) == ids[:2]
    assert await page(limit=2, after=ids[1]) == ids[2:4]
    assert await page(limit=2, before=ids[4]) == ids[2:4]
    assert await page(limit=2, before=ids[1], after=ids[3]) == ids[:1]
    assert await page(after=ids[4]) == []
    for limit in (0, 1001):
        with refused(400, 50035):
            await page(limit=limit)


async def test_recent_messages_go_with_who_is_banned(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild, other = await town.guild(ada, bob), await town.guild(ada, bob, name="Elsewhere")
    kitchen = await ada.post("/channels", {"guild_id": guild.id, "name": "kitchen"})
    old = await bob.say(guild.channel_id, "long ago")
    await age(app, old, days=2)
    spam = [await bob.say(guild.channel_id, f"spam {n}") for n in range(103)]
    more = await bob.say(kitchen["id"], "more of it")
    kept = await ada.say(guild.channel_id, "what I say stays")
    elsewhere = await bob.say(other.channel_id, "elsewhere it stays")
    await ada.connect()
    await ada.put(ban_path(guild, bob), {"delete_message_seconds": DAY_S})

    await ada.fence()
    told = [frame.d for frame in ada.gateway.of_type("MESSAGE_DELETE_BULK")]
    assert [len(d["ids"]) for d in told if d["channel_id"] == guild.channel_id] == [100, 3]
    assert all(d["guild_id"] == guild.id for d in told)
    assert {one for d in told for one in d["ids"]} == {m["id"] for m in [*spam, more]}
    left = await ada.get(f"/messages/channel/{guild.channel_id}")
    assert {message["id"] for message in left} >= {kept["id"]}
    assert not {message["id"] for message in left} & {message["id"] for message in spam}
    assert await ada.get(f"/messages/channel/{kitchen['id']}") == []
    assert [m["id"] for m in await ada.get(f"/messages/channel/{other.channel_id}")] == [
        elsewhere["id"]
    ]


async def age(app: App, message: Any, *, days: int) -> None:
    """Let a message be from some days ago: its time is in its id."""
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE messages SET id = id - ($3::bigint << 22) WHERE channel_id = $1 AND id = $2",
            int(message["channel_id"]),
            int(message["id"]),
            days * DAY_S * 1000,
        )


async def test_what_is_older_stays(town: Town, app: App, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    old = await bob.say(guild.channel_id, "yesterday's news")
    await age(app, old, days=2)
    await bob.say(guild.channel_id, "today's")
    await ada.put(ban_path(guild, bob), {"delete_message_days": 1})

    left = await ada.get(f"/messages/channel/{guild.channel_id}")
    assert [message["content"] for message in left] == ["yesterday's news"]


async def test_without_a_wish_no_message_goes(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await bob.say(guild.channel_id, "my two cents")
    await ada.put(ban_path(guild, bob))
    assert len(await ada.get(f"/messages/channel/{guild.channel_id}")) == 1


async def test_the_query_says_it_as_well(town: Town, ada: Person, bob: Person) -> None:
    """Some client libraries put into the query what others put into the body."""
    guild = await town.guild(ada, bob)
    await bob.say(guild.channel_id, "my two cents")
    await ada.put(f"{ban_path(guild, bob)}?delete_message_seconds=60")
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []


async def test_thousands_of_messages_go_soon(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.say(guild.channel_id, "the first of many")
    async with app.db.read() as conn:
        await conn.execute(
            """
            INSERT INTO messages (channel_id, id, author_id, content)
            SELECT m.channel_id, m.id - n, m.author_id, 'spam'
              FROM messages AS m
             CROSS JOIN generate_series(1, 2500) AS n
             WHERE m.channel_id = $1
            """,
            int(guild.channel_id),
        )
    await ada.connect()
    await ada.put(ban_path(guild, bob), {"delete_message_seconds": DAY_S})

    gone: set[str] = set()
    while len(gone) < 2501:
        told = await ada.gateway.expect("MESSAGE_DELETE_BULK", channel_id=guild.channel_id)
        assert len(told["ids"]) <= 100
        assert not gone & set(told["ids"])
        gone |= set(told["ids"])
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []
    async with app.db.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM author_purges") in {0, 1}


async def test_many_are_banned_at_once(town: Town, app: App, ada: Person, bob: Person) -> None:
    crowd = await town.people(4, "rogue")
    guild = await town.guild(ada, bob, *crowd[:3])
    await give_role(app, guild, bob, BAN_MEMBERS | MANAGE_GUILD, 5)
    await crowd[0].say(guild.channel_id, "hear me")
    path = f"/guilds/{guild.id}/bulk-ban"
    ids = [one.id for one in crowd]
    # Crowd, with the owner and somebody who does not exist.
    body = {"user_ids": [*ids, ada.id, "1"], "delete_message_seconds": 60}
    answer = await bob.post(path, body, X_Audit_Log_Reason="raid")

    assert sorted(answer["banned_users"]) == sorted(ids)
    assert sorted(answer["failed_users"]) == sorted(["1", ada.id])
    assert {ban["reason"] for ban in await ada.get(f"/guilds/{guild.id}/bans")} == {"raid"}
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []
    log = (await ada.get(f"/guilds/{guild.id}/audit-logs"))["audit_log_entries"]
    assert {(entry["action_type"], entry["user_id"], entry["reason"]) for entry in log} == {
        (22, bob.id, "raid")
    }
    assert sorted(entry["target_id"] for entry in log) == sorted(ids)
    # Nobody is left to be banned.
    with refused(400, 500000):
        await bob.post(path, body)
    wrongs: list[dict[str, list[str]]] = [{"user_ids": []}, {"user_ids": ["2"] * 201}, {}]
    for wrong in wrongs:
        with refused(400, 50035):
            await bob.post(path, wrong)
    # Both permissions are asked for.
    eve = await town.person("eve")
    await eve.post(f"/guilds/{guild.id}/join")
    await give_role(app, guild, eve, BAN_MEMBERS, 4)
    with refused(403, 50013):
        await eve.post(path, {"user_ids": ["1"]})


async def test_a_ban_and_a_join_at_once_leave_nobody_inside(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada)

    async def come() -> None:
        with suppress(Refused):
            await bob.post(f"/guilds/{guild.id}/join")

    for _ in range(5):
        await asyncio.gather(come(), ada.put(ban_path(guild, bob)), come())
        members = await ada.get(f"/guilds/{guild.id}/members")
        assert [member["user"]["id"] for member in members] == [ada.id]
        assert (await ada.get(f"/guilds/{guild.id}"))["approximate_member_count"] == 1
        await ada.delete(ban_path(guild, bob))


async def test_two_who_ban_at_once_are_one_ban(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await asyncio.gather(*(ada.put(ban_path(guild, bob)) for _ in range(5)))
    await ada.fence()
    assert len(ada.gateway.of_type("GUILD_BAN_ADD")) == 1
    assert len(ada.gateway.of_type("GUILD_MEMBER_REMOVE")) == 1


async def test_messages_in_threads_go_too_and_only_those_hear_who_see_them(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    threads = f"/api/v10/channels/{guild.channel_id}/threads"
    public = await ada.post(threads, {"name": "open", "type": 11})
    private = await ada.post(threads, {"name": "closed", "type": 12})
    await ada.put(f"/api/v10/channels/{private['id']}/thread-members/{bob.id}")
    for thread in (public, private):
        await bob.say(thread["id"], "spam in a thread")
    await ada.connect()
    await eve.connect()
    await ada.put(ban_path(guild, bob), {"delete_message_seconds": 60})

    for thread in (public, private):
        told = await ada.gateway.expect("MESSAGE_DELETE_BULK", channel_id=thread["id"])
        assert (told["guild_id"], len(told["ids"])) == (guild.id, 1)
        assert not [
            message
            for message in await ada.get(f"/messages/channel/{thread['id']}")
            if message["author"]["id"] == bob.id
        ]
    await eve.fence()
    heard = {frame.d["channel_id"] for frame in eve.gateway.of_type("MESSAGE_DELETE_BULK")}
    assert heard == {public["id"]}


async def test_who_is_banned_in_the_middle_of_talking_leaves_nothing(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)

    async def talk() -> None:
        """Go on until it is refused."""
        with suppress(Refused):
            while True:
                await bob.say(guild.channel_id, "and another thing")

    talking = [asyncio.create_task(talk()) for _ in range(4)]
    await ada.connect()
    await bob.say(guild.channel_id, "first")
    await ada.put(ban_path(guild, bob), {"delete_message_seconds": DAY_S})
    async with asyncio.timeout(10):
        await asyncio.gather(*talking)

    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []
    with refused(404, 10003):
        await bob.say(guild.channel_id, "still there")
