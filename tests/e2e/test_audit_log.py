"""The audit log: what was done, by whom and why, for those who may read it."""

from typing import Any

import asyncpg
import pytest

from internal.app import App
from tests.support.moderation import ban_path, give_role
from tests.support.people import Guild, Person, Town, refused

VIEW_AUDIT_LOG = 1 << 7
ADMINISTRATOR = 1 << 3
MANAGE_MESSAGES = 1 << 13

GUILD_UPDATE, BAN_ADD, BAN_REMOVE, MESSAGE_DELETE, BULK_DELETE = 1, 22, 23, 72, 73


async def entries(person: Person, guild: Guild, **query: str | int) -> list[Any]:
    found = await person.get(f"/guilds/{guild.id}/audit-logs", **query)
    return list(found["audit_log_entries"])


async def test_an_entry_says_who_did_what_to_whom_and_why(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = ban_path(guild, bob)
    await ada.put(path, X_Audit_Log_Reason="Selling%20tea")
    await ada.delete(path, X_Audit_Log_Reason="He%20said%20sorry")
    log = await ada.get(f"/api/v10/guilds/{guild.id}/audit-logs")

    assert [
        (entry["action_type"], entry["user_id"], entry["target_id"], entry["reason"])
        for entry in log["audit_log_entries"]
    ] == [
        (BAN_REMOVE, ada.id, bob.id, "He said sorry"),
        (BAN_ADD, ada.id, bob.id, "Selling tea"),
    ]
    assert all(isinstance(entry["id"], str) for entry in log["audit_log_entries"])
    assert {user["id"] for user in log["users"]} == {ada.id, bob.id}
    empty = {key: value for key, value in log.items() if key not in {"audit_log_entries", "users"}}
    assert empty == {
        "application_commands": [],
        "auto_moderation_rules": [],
        "guild_scheduled_events": [],
        "integrations": [],
        "threads": [],
        "webhooks": [],
    }


async def test_what_changed_of_a_guild_is_told_by_key(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    body = {"name": "Coffee house", "description": "Beans", "verification_level": 1}
    await ada.patch(f"/guilds/{guild.id}", body, X_Audit_Log_Reason="Taste")
    await ada.patch(f"/guilds/{guild.id}", {"features": []})
    # What changes nothing is no act.
    await ada.patch(f"/guilds/{guild.id}", body)
    await ada.patch(f"/guilds/{guild.id}", {"owner_id": bob.id})

    handed, private, renamed = await entries(bob, guild)
    assert renamed["target_id"] == guild.id
    assert renamed["reason"] == "Taste"
    assert by_key(renamed) == {
        "name": ("Tea house", "Coffee house"),
        "description": (None, "Beans"),
        "verification_level": (0, 1),
    }
    assert by_key(private) == {"features": (["DISCOVERABLE"], [])}
    assert "reason" not in private
    assert by_key(handed) == {"owner_id": (ada.id, bob.id)}


def by_key(entry: Any) -> dict[str, tuple[Any, Any]]:
    return {
        change["key"]: (change.get("old_value"), change.get("new_value"))
        for change in entry["changes"]
    }


async def test_others_messages_that_are_deleted_are_counted_and_not_quoted(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await give_role(app, guild, bob, MANAGE_MESSAGES, 3)
    said = [await ada.say(guild.channel_id, f"secret {n}") for n in range(4)]
    own = await bob.say(guild.channel_id, "mine")
    here = f"/messages/{guild.channel_id}"
    await bob.delete(f"{here}/{own['id']}")
    await bob.delete(f"{here}/{said[0]['id']}", X_Audit_Log_Reason="Rude")
    ids = {"messages": [message["id"] for message in said]}
    await bob.post(f"{here}/bulk-delete", ids, X_Audit_Log_Reason="All%20of%20it")

    bulk, one = await entries(ada, guild)
    assert (one["action_type"], one["user_id"], one["target_id"], one["reason"]) == (
        MESSAGE_DELETE,
        bob.id,
        ada.id,
        "Rude",
    )
    assert one["options"] == {"channel_id": guild.channel_id, "count": "1"}
    assert (bulk["action_type"], bulk["target_id"], bulk["reason"]) == (
        BULK_DELETE,
        guild.channel_id,
        "All of it",
    )
    assert bulk["options"] == {"channel_id": guild.channel_id, "count": "3"}
    assert "secret" not in str([bulk, one])


async def test_in_a_direct_message_nobody_keeps_a_log(ada: Person, bob: Person) -> None:
    direct = await ada.direct(bob)
    sent = await ada.say(direct, "between us")
    with refused(403, 50013):
        await bob.delete(f"/messages/{direct}/{sent['id']}")
    await ada.delete(f"/messages/{direct}/{sent['id']}")


async def test_entries_are_filtered_and_come_in_pages(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    rogues = await town.people(3, "rogue")
    guild = await town.guild(ada, bob)
    await give_role(app, guild, bob, ADMINISTRATOR, 3)
    for rogue in rogues:
        await ada.put(ban_path(guild, rogue))
    await bob.delete(ban_path(guild, rogues[0]))
    ids = [entry["id"] for entry in await entries(ada, guild)]
    assert ids == sorted(ids, key=int, reverse=True)
    assert len(ids) == 4

    async def page(**query: str | int) -> list[str]:
        return [entry["id"] for entry in await entries(ada, guild, **query)]

    assert await page(limit=2) == ids[:2]
    assert await page(limit=2, before=ids[1]) == ids[2:]
    # Upwards, the older first.
    assert await page(limit=2, after=ids[3]) == [ids[2], ids[1]]
    assert await page(after=ids[3], before=ids[1]) == [ids[2]]
    assert await page(user_id=bob.id) == ids[:1]
    assert await page(action_type=BAN_ADD) == ids[1:]
    assert await page(action_type=BAN_ADD, limit=1) == ids[1:2]
    assert await page(target_id=rogues[0].id) == [ids[0], ids[3]]
    assert await page(user_id=rogues[0].id) == []
    for query in ({"limit": 0}, {"limit": 101}, {"action_type": "x"}, {"before": "x"}):
        with refused(400, 50035):
            await ada.get(f"/guilds/{guild.id}/audit-logs", **query)


async def test_who_may_not_read_neither_lists_nor_hears(
    town: Town, app: App, ada: Person, bob: Person, eve: Person
) -> None:
    carol, dora = await town.people(2, "warden")
    guild = await town.guild(ada, bob, carol, dora)
    await give_role(app, guild, carol, VIEW_AUDIT_LOG, 2)
    await give_role(app, guild, dora, ADMINISTRATOR, 3)
    watching = [(person, await person.watch()) for person in (ada, bob, carol, dora, eve)]
    await ada.patch(f"/guilds/{guild.id}", {"name": "Coffee house"}, X_Audit_Log_Reason="Beans")

    heard: dict[str, list[Any]] = {}
    for person, gateway in watching:
        await person.fence(gateway)
        heard[person.username] = [
            frame.d for frame in gateway.dispatches if frame.t == "GUILD_AUDIT_LOG_ENTRY_CREATE"
        ]
    assert heard["bob"] == heard["eve"] == []
    (entry,) = heard["ada"]
    assert heard["warden0"] == heard["warden1"] == [entry]
    assert entry["guild_id"] == guild.id
    assert entry["reason"] == "Beans"
    assert by_key(entry) == {"name": ("Tea house", "Coffee house")}
    with refused(403, 50013):
        await entries(bob, guild)
    with refused(404, 10004):
        await entries(eve, guild)
    assert await entries(carol, guild) == await entries(dora, guild)
    listed = (await entries(carol, guild))[0]
    assert listed == {key: value for key, value in entry.items() if key != "guild_id"}


async def test_who_is_timed_out_does_not_read(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await give_role(app, guild, bob, VIEW_AUDIT_LOG, 2)
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE members SET timed_out_until = now() + interval '1 hour' WHERE user_id = $1",
            int(bob.id),
        )
    await bob.connect()
    await ada.patch(f"/guilds/{guild.id}", {"name": "Coffee house"})
    await bob.heard_nothing("GUILD_AUDIT_LOG_ENTRY_CREATE")
    with refused(403, 50013):
        await entries(bob, guild)


async def test_when_everyone_may_read_everyone_hears(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE roles SET permissions = permissions | $2 WHERE id = $1",
            int(guild.id),
            VIEW_AUDIT_LOG,
        )
    await bob.connect()
    await ada.patch(f"/guilds/{guild.id}", {"name": "Glass house"})
    await bob.gateway.expect("GUILD_AUDIT_LOG_ENTRY_CREATE", guild_id=guild.id)
    assert len(await entries(bob, guild)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET reason = 'another'",
        "UPDATE audit_log SET actor_id = NULL",
        "DELETE FROM audit_log",
    ],
)
async def test_what_is_written_stays_written(
    town: Town, app: App, ada: Person, statement: str
) -> None:
    guild = await town.guild(ada)
    await ada.patch(f"/guilds/{guild.id}", {"name": "Coffee house"}, X_Audit_Log_Reason="Beans")
    before = await entries(ada, guild)
    async with app.db.read() as conn:
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await conn.execute(statement)
    assert await entries(ada, guild) == before


async def test_the_log_ends_with_its_guild(town: Town, app: App, ada: Person) -> None:
    guild = await town.guild(ada)
    await ada.patch(f"/guilds/{guild.id}", {"name": "Coffee house"})
    await ada.delete(f"/guilds/{guild.id}")
    async with app.db.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM audit_log") == 0


@pytest.mark.parametrize("reason", ["x" * 513, "%C3%A9" * 513])
async def test_a_reason_is_not_too_long(town: Town, ada: Person, reason: str) -> None:
    guild = await town.guild(ada)
    with refused(400, 50035):
        await ada.patch(f"/guilds/{guild.id}", {"name": "Long house"}, X_Audit_Log_Reason=reason)
    longest = "%C3%A9" * 512
    await ada.patch(f"/guilds/{guild.id}", {"name": "Long house"}, X_Audit_Log_Reason=longest)
    assert (await entries(ada, guild))[0]["reason"] == "é" * 512
