"""Invites: who lets people in, how many, for how long, and what a code tells."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from internal.app import App
from internal.db.postgres import Conn
from internal.guild.audit.service import AuditTrail
from internal.guild.invite.model import SeenChannel
from internal.guild.invite.service import InviteService, TemporaryMembers
from internal.guild.service import GuildService
from internal.permission.model import Permission
from internal.utils.clock import SystemClock
from internal.utils.snowflake import Snowflake
from tests.support.clock import StandingClock
from tests.support.people import Guild, Person, Refused, Town, refused

CREATE_INSTANT_INVITE = 1 << 0
MANAGE_CHANNELS = 1 << 4
MANAGE_GUILD = 1 << 5


async def private_guild(owner: Person, *members: Person) -> Guild:
    """A guild that nobody gets into but by an invite."""
    made = await owner.post("/guilds", {"name": "Salon"})
    guild = Guild(made["id"], made["channels"][0]["id"])
    for member in members:
        code = (await invite(owner, guild))["code"]
        await member.post(f"/invites/{code}")
    return guild


async def invite(person: Person, guild: Guild, **wish: Any) -> Any:
    return await person.post(f"/channels/{guild.channel_id}/invites", wish)


async def give_role(app: App, guild: Guild, person: Person, permissions: int) -> None:
    """A role of its own for a member, straight in the database."""
    async with app.db.read() as conn:
        role_id = await conn.fetchval(
            """
            INSERT INTO roles (id, guild_id, name, permissions, position)
            SELECT max(id) + 1, $1, 'of a test', $2, 1 FROM roles
            RETURNING id
            """,
            int(guild.id),
            permissions,
        )
        await conn.execute(
            "UPDATE members SET roles = roles || $3::bigint WHERE guild_id = $1 AND user_id = $2",
            int(guild.id),
            int(person.id),
            role_id,
        )


def no_ids() -> Snowflake:
    raise AssertionError("what goes makes nothing")


async def nobody_looks(
    conn: Conn, actor: Snowflake, channel_id: Snowflake, needs: Permission
) -> SeenChannel:
    raise AssertionError(f"{conn} {actor} {channel_id} {needs}")


@pytest.fixture
def app(town: Town) -> App:
    assert town.app is not None
    return town.app


async def test_a_code_lets_people_into_a_private_guild(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await private_guild(ada)
    await ada.connect()
    await bob.connect()
    reason = {"X_Audit_Log_Reason": "for%20Bob"}
    made = await ada.post(f"/channels/{guild.channel_id}/invites", {"max_uses": 5}, **reason)

    assert len(made["code"]) >= 8
    assert made["guild"]["id"] == made["guild_id"] == guild.id
    assert made["channel"] == {"id": guild.channel_id, "type": 0, "name": "general"}
    assert made["inviter"]["id"] == ada.id
    assert (made["uses"], made["max_uses"], made["max_age"]) == (0, 5, 86400)
    assert made["temporary"] is False
    told = await ada.gateway.expect("INVITE_CREATE", code=made["code"])
    assert (told["guild_id"], told["channel_id"], told["inviter"]["id"]) == (
        guild.id,
        guild.channel_id,
        ada.id,
    )
    # Without an account: what there is to join, and nothing of what only the guild is told.
    seen = await town.stranger.get(f"/api/v10/invites/{made['code']}", with_counts="true")
    assert seen["guild"]["name"] == "Salon"
    assert (seen["approximate_member_count"], seen["expires_at"]) == (1, made["expires_at"])
    assert "approximate_presence_count" in seen
    assert not {"uses", "max_uses", "max_age", "temporary"} & seen.keys()
    plain = await town.stranger.get(f"/invites/{made['code']}")
    assert "approximate_member_count" not in plain

    accepted = await bob.post(f"/invites/{made['code']}")
    assert (accepted["new_member"], accepted["guild"]["id"]) == (True, guild.id)
    await bob.gateway.expect("GUILD_CREATE", id=guild.id)
    await bob.say(guild.channel_id, "here I am")
    again = await bob.post(f"/invites/{made['code']}")
    assert again["new_member"] is False
    (listed,) = await ada.get(f"/guilds/{guild.id}/invites")
    assert (listed["code"], listed["uses"]) == (made["code"], 1)
    log = await ada.get(f"/guilds/{guild.id}/audit-logs", action_type=40)
    (entry,) = log["audit_log_entries"]
    assert (entry["user_id"], entry["reason"]) == (ada.id, "for Bob")
    assert {"key": "code", "new_value": made["code"]} in entry["changes"]


async def test_of_a_hundred_who_come_at_once_ten_get_in(town: Town, ada: Person) -> None:
    guild = await private_guild(ada)
    made = await invite(ada, guild, max_uses=10)
    people = await town.people(100)
    await ada.connect()

    async def come(person: Person) -> int:
        while True:
            try:
                await person.post(f"/invites/{made['code']}")
            except Refused as refusal:
                # The guild's lock was waited for too long, which is no answer.
                if refusal.status != 503:
                    return refusal.code
            else:
                return 0

    answers = await asyncio.gather(*(come(person) for person in people))

    assert answers.count(0) == 10
    assert answers.count(10006) == 90
    assert (await ada.get(f"/guilds/{guild.id}", with_counts="true"))[
        "approximate_member_count"
    ] == 11
    gone = await ada.gateway.expect("INVITE_DELETE", code=made["code"])
    assert gone == {"channel_id": guild.channel_id, "guild_id": guild.id, "code": made["code"]}
    assert await ada.get(f"/guilds/{guild.id}/invites") == []


async def test_who_is_in_or_stays_out_uses_nothing_up(
    ada: Person, bob: Person, eve: Person
) -> None:
    guild = await private_guild(ada, bob)
    await ada.put(f"/guilds/{guild.id}/bans/{eve.id}", {})
    made = await invite(ada, guild, max_uses=1, unique=True)

    for _ in range(3):
        assert (await bob.post(f"/invites/{made['code']}"))["new_member"] is False
        with refused(403, 40007):
            await eve.post(f"/invites/{made['code']}")
    uses = {one["code"]: one["uses"] for one in await ada.get(f"/guilds/{guild.id}/invites")}
    assert uses[made["code"]] == 0
    await ada.delete(f"/guilds/{guild.id}/bans/{eve.id}")
    assert (await eve.post(f"/invites/{made['code']}"))["new_member"] is True
    with refused(404, 10006):
        await bob.get(f"/invites/{made['code']}")


async def test_the_same_wish_gives_the_same_code(ada: Person) -> None:
    guild = await private_guild(ada)
    first = await invite(ada, guild, max_uses=7)

    assert (await invite(ada, guild, max_uses=7))["code"] == first["code"]
    others = [
        await invite(ada, guild, max_uses=7, unique=True),
        await invite(ada, guild, max_uses=8),
        await invite(ada, guild, max_uses=7, max_age=60),
        await invite(ada, guild, max_uses=7, temporary=True),
    ]
    codes = {first["code"], *(one["code"] for one in others)}
    assert len(codes) == 5
    pages = [await ada.get(f"/channels/{guild.channel_id}/invites", limit=3)]
    pages.append(
        await ada.get(f"/channels/{guild.channel_id}/invites", limit=3, after=pages[0][-1]["code"])
    )
    assert [len(page) for page in pages] == [3, 2]
    assert {one["code"] for page in pages for one in page} == codes


async def test_an_invite_may_be_for_ever(ada: Person) -> None:
    guild = await private_guild(ada)
    made = await ada.post(f"/channels/{guild.channel_id}/invites", {"max_age": 0})
    assert (made["expires_at"], made["max_age"]) == (None, 0)
    without_body = await ada.post(f"/channels/{guild.channel_id}/invites")
    assert without_body["max_age"] == 86400


async def test_what_has_expired_is_unknown_and_goes(app: App, ada: Person, bob: Person) -> None:
    guild = await private_guild(ada)
    made = await invite(ada, guild, max_age=60)
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE invites SET expires_at = now() - interval '1 second' WHERE code = $1",
            made["code"],
        )
    for attempt in (
        bob.get(f"/invites/{made['code']}"),
        bob.post(f"/invites/{made['code']}"),
        ada.delete(f"/invites/{made['code']}"),
        ada.get("/invites/NoSuchCode"),
        ada.get("/invites/no-such-code"),
    ):
        with refused(404, 10006):
            await attempt
    assert await ada.get(f"/guilds/{guild.id}/invites") == []
    invites = InviteService(
        app.db,
        GuildService(app.db, no_ids, AuditTrail(no_ids)),
        AuditTrail(no_ids),
        SystemClock(),
        nobody_looks,
    )
    await ada.connect()
    assert await invites.sweep(100) == 1
    await ada.gateway.expect("INVITE_DELETE", code=made["code"])
    assert await invites.sweep(100) == 0
    # The old one is not given again.
    assert (await invite(ada, guild, max_age=60))["code"] != made["code"]


@pytest.mark.parametrize(
    "wish",
    [{"max_age": -1}, {"max_age": 604801}, {"max_uses": 101}, {"max_uses": -1}, {"temporary": 1}],
)
async def test_a_wish_has_its_bounds(ada: Person, wish: dict[str, Any]) -> None:
    guild = await private_guild(ada)
    with refused(400, 50035):
        await invite(ada, guild, **wish)


async def test_only_who_may_invites_lists_and_deletes(
    app: App, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await private_guild(ada, bob)
    made = await invite(ada, guild, max_uses=3)
    path = f"/invites/{made['code']}"
    with refused(403, 50013):
        await bob.get(f"/guilds/{guild.id}/invites")
    with refused(403, 50013):
        await bob.get(f"/channels/{guild.channel_id}/invites")
    for person in (bob, eve):
        with refused(403, 50013):
            await person.delete(path)
    with refused(404, 10003):
        await invite(eve, guild)
    with refused(404, 10004):
        await eve.get(f"/guilds/{guild.id}/invites")
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE roles SET permissions = permissions & ~1::bigint WHERE id = $1", int(guild.id)
        )
    with refused(403, 50013):
        await invite(bob, guild)
    await give_role(app, guild, bob, MANAGE_CHANNELS)
    assert {one["code"] for one in await bob.get(f"/channels/{guild.channel_id}/invites")} >= {
        made["code"]
    }
    with refused(403, 50013):
        await bob.get(f"/guilds/{guild.id}/invites")
    await bob.connect()
    gone = await bob.delete(path)
    assert gone["code"] == made["code"]
    await bob.gateway.expect("INVITE_DELETE", code=made["code"])
    with refused(404, 10006):
        await ada.delete(path)


async def test_only_who_manages_hears_of_codes(ada: Person, bob: Person) -> None:
    guild = await private_guild(ada, bob)
    await bob.connect()
    made = await invite(ada, guild, unique=True)
    await ada.delete(f"/invites/{made['code']}")
    await bob.heard_nothing("INVITE_CREATE", "INVITE_DELETE")


async def test_nobody_is_invited_to_a_category_or_a_letter(ada: Person, bob: Person) -> None:
    guild = await private_guild(ada)
    category = await ada.post("/channels", {"guild_id": guild.id, "name": "rooms", "type": 4})
    for channel_id in (category["id"], await ada.direct(bob)):
        with refused(400, 50024):
            await ada.post(f"/channels/{channel_id}/invites", {})
    # Nor is there anything to manage in a letter.
    with refused(403, 50013):
        await ada.get(f"/channels/{await ada.direct(bob)}/invites")


async def test_invites_go_with_their_channel_and_their_guild(ada: Person) -> None:
    guild = await private_guild(ada)
    other = await ada.post("/channels", {"guild_id": guild.id, "name": "kitchen"})
    to_kitchen = await ada.post(f"/channels/{other['id']}/invites", {})
    to_general = await invite(ada, guild)
    await ada.delete(f"/channels/{other['id']}")
    with refused(404, 10006):
        await ada.get(f"/invites/{to_kitchen['code']}")
    await ada.delete(f"/guilds/{guild.id}")
    with refused(404, 10006):
        await ada.get(f"/invites/{to_general['code']}")


async def test_a_guild_has_at_most_a_thousand(app: App, ada: Person) -> None:
    guild = await private_guild(ada)
    async with app.db.read() as conn:
        await conn.execute(
            """
            INSERT INTO invites (
                   code, guild_id, channel_id, inviter_id, max_age, max_uses, temporary
            )
            SELECT 'many' || n, $1, $2, $3, 0, 99, false FROM generate_series(1, 1000) AS n
            """,
            int(guild.id),
            int(guild.channel_id),
            int(ada.id),
        )
    with refused(400, 30016):
        await invite(ada, guild, unique=True)
    assert len(await ada.get(f"/guilds/{guild.id}/invites")) == 1000


class Presence:
    """Who is there, as a node knows it."""

    def __init__(self, *people: Person) -> None:
        self.ids = {int(person.id) for person in people}

    def __call__(self, user_id: Snowflake) -> bool:
        return user_id in self.ids


def node(app: App, clock: StandingClock, *present: Person) -> TemporaryMembers:
    """What one node does for temporary members, and who is connected to it."""
    guilds = GuildService(app.db, no_ids, AuditTrail(no_ids))
    temporary = TemporaryMembers(app.db, guilds, clock)
    temporary.is_there = Presence(*present)
    return temporary


def clock_of_today() -> StandingClock:
    clock = StandingClock()
    clock.at = datetime.now(UTC)
    return clock


async def rounds(clock: StandingClock, seconds: int, *nodes: TemporaryMembers) -> int:
    """Let the nodes work for so long; how many they sent away."""
    gone = 0
    for _ in range(seconds // 10):
        clock.pass_by(seconds=10)
        for one in nodes:
            gone += await one.sweep(2)
    return gone


async def members_of(person: Person, guild: Guild) -> set[str]:
    return {one["user"]["id"] for one in await person.get(f"/guilds/{guild.id}/members")}


async def test_who_came_for_a_while_goes_with_the_connection(
    app: App, town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await private_guild(ada)
    code = (await invite(ada, guild, temporary=True))["code"]
    crowd = await town.people(3)
    for person in (bob, eve, *crowd):
        await person.post(f"/invites/{code}")
    zoe = await town.person("zoe")
    await zoe.post(f"/invites/{(await invite(ada, guild))['code']}")
    await give_role(app, guild, eve, 0)
    await ada.connect()
    clock = clock_of_today()
    here, there = node(app, clock, bob), node(app, clock, *crowd)

    # Eve has a role by now, Zoe came to stay, and all others are on one node or the other.
    assert await rounds(clock, 300, here, there) == 0
    assert len(await members_of(ada, guild)) == 7
    # Bob is cut off, and back within the minute.
    here.is_there = Presence()
    assert await rounds(clock, 60, here, there) == 0
    here.is_there = Presence(bob)
    assert await rounds(clock, 60, here, there) == 0
    here.is_there = Presence()
    assert await rounds(clock, 120, here, there) == 1
    left = await ada.gateway.expect("GUILD_MEMBER_REMOVE", guild_id=guild.id)
    assert left["user"]["id"] == bob.id
    # The others go all at once, though a round looks at two at a time.
    there.is_there = Presence()
    assert await rounds(clock, 120, here, there) == 3
    assert await members_of(ada, guild) == {ada.id, eve.id, zoe.id}


async def test_a_restart_gives_everybody_a_minute_to_come_back(
    app: App, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await private_guild(ada)
    code = (await invite(ada, guild, temporary=True))["code"]
    for person in (bob, eve):
        await person.post(f"/invites/{code}")
    clock = clock_of_today()
    await rounds(clock, 60, node(app, clock, bob, eve))
    # The only node was away for an hour. Bob comes back, Eve does not.
    clock.pass_by(hours=1)
    again = node(app, clock)
    assert await rounds(clock, 30, again) == 0
    again.is_there = Presence(bob)
    assert await rounds(clock, 30, again) == 0
    assert await rounds(clock, 60, again) == 1
    assert await members_of(ada, guild) == {ada.id, bob.id}
    # Nor is anybody sent away by a node that could not look for a while.
    clock.pass_by(hours=1)
    again.is_there = Presence()
    assert await rounds(clock, 50, again) == 0


async def test_the_server_knows_who_is_there(app: App, bob: Person) -> None:
    assert not app.gateway.presence.is_there(int(bob.id))
    await bob.connect(presence={"status": "invisible", "activities": [], "afk": False, "since": 0})
    assert app.gateway.presence.is_there(int(bob.id))
