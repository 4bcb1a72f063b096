"""Mentions: whom a message names, who is reached by it, and what has reached oneself."""

import re
from typing import Any, cast

import pytest

from internal.app import App
from internal.channel.model import ChannelAccess
from internal.channel.service import ChannelService
from internal.chat.mention import repository
from internal.chat.mention.model import MentionPage, Named
from internal.chat.mention.service import MentionService, named
from internal.db.postgres import Conn
from internal.permission.model import Permission
from internal.user.model import User
from internal.utils.snowflake import Snowflake
from tests.support.people import Guild, Person, Refused, Town, refused

Json = Any

# How many rows a node of a plan gave, each time.
ROWS = re.compile(r"actual time=\S+ rows=(\d+)")
HERE = Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY | Permission.SEND_MESSAGES


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    """Ada's guild, with Bob in it and without Eve."""
    return await town.guild(ada, bob)


async def add_role(app: App, guild: Guild, role_id: int, *, mentionable: bool = False) -> str:
    async with app.db.read() as conn:
        await conn.execute(
            """
            INSERT INTO roles (id, guild_id, name, permissions, mentionable)
            VALUES ($1, $2, 'role', 0, $3)
            """,
            role_id,
            int(guild.id),
            mentionable,
        )
    return str(role_id)


async def give(app: App, guild: Guild, person: Person, *roles: str) -> None:
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE members SET roles = $3 WHERE guild_id = $1 AND user_id = $2",
            int(guild.id),
            int(person.id),
            list(map(int, roles)),
        )


async def allow_everyone(app: App, guild: Guild, permissions: int) -> None:
    async with app.db.read() as conn:
        await conn.execute(
            "UPDATE roles SET permissions = $2 WHERE id = $1", int(guild.id), int(permissions)
        )


async def rows(app: App) -> list[tuple[int, int]]:
    """What is stored: the kind and the target of each mention."""
    async with app.db.read() as conn:
        found = await conn.fetch("SELECT kind, target_id FROM mentions ORDER BY kind, target_id")
    return [(row["kind"], row["target_id"]) for row in found]


class Counting:
    """A connection that counts what it is asked."""

    def __init__(self, conn: Conn) -> None:
        self.asked: list[tuple[str, tuple[object, ...]]] = []
        self._conn = conn

    async def fetch(self, statement: str, *args: object) -> list[Any]:
        self.asked.append((statement, args))
        return await self._conn.fetch(statement, *args)


def ids(things: Json) -> list[str]:
    return [thing["id"] for thing in things]


async def test_a_mention_of_a_member_is_told_with_the_membership_and_read_again_without(
    guild: Guild, ada: Person, bob: Person, eve: Person
) -> None:
    await bob.connect()
    sent = await ada.say(guild.channel_id, f"<@{bob.id}> and <@!{eve.id}>, <@{bob.id}>! <@42>")

    assert ids(sent["mentions"]) == [bob.id, eve.id]
    assert sent["mentions"][0]["username"] == "bob"
    assert (sent["mention_roles"], sent["mention_everyone"]) == ([], False)
    told = await bob.gateway.expect("MESSAGE_CREATE", id=sent["id"])
    assert ids(told["mentions"]) == [bob.id, eve.id]
    assert told["mentions"][0]["member"]["roles"] == []
    assert "member" not in told["mentions"][1]
    path = f"/messages/{guild.channel_id}/{sent['id']}"
    assert (await bob.get(path))["mentions"] == sent["mentions"]
    (page,) = await bob.get(f"/messages/channel/{guild.channel_id}")
    assert page["mentions"] == sent["mentions"]


async def test_in_a_direct_message_people_are_mentioned_and_nobody_else(
    ada: Person, bob: Person
) -> None:
    await bob.connect()
    channel = await ada.direct(bob)
    sent = await ada.say(channel, f"<@{bob.id}> @everyone <@&{bob.id}>")
    told = await bob.gateway.expect("MESSAGE_CREATE", id=sent["id"])

    assert ids(told["mentions"]) == [bob.id]
    assert "member" not in told["mentions"][0]
    assert (told["mention_everyone"], told["mention_roles"]) == (False, [])
    assert ids(await bob.get("/users/@me/mentions")) == [sent["id"]]


async def test_everyone_is_mentioned_only_by_who_may(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    assert (await ada.say(guild.channel_id, "@everyone"))["mention_everyone"]
    assert (await ada.say(guild.channel_id, "is anybody @here?"))["mention_everyone"]
    assert not (await bob.say(guild.channel_id, "@everyone"))["mention_everyone"]
    await allow_everyone(app, guild, HERE | Permission.MENTION_EVERYONE)
    assert (await bob.say(guild.channel_id, "@everyone"))["mention_everyone"]
    # Once for the channel, not for each member.
    assert await rows(app) == [(0, int(guild.id))] * 3


async def test_roles_are_mentioned_if_they_are_open_or_by_who_may_mention_everyone(
    town: Town, app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    other = await town.guild(ada, name="Elsewhere")
    open_role = await add_role(app, guild, 501, mentionable=True)
    closed = await add_role(app, guild, 502)
    foreign = await add_role(app, other, 503, mentionable=True)
    text = f"<@&{open_role}> <@&{closed}> <@&{foreign}> <@&{guild.id}> <@&504>"

    assert (await bob.say(guild.channel_id, text))["mention_roles"] == [open_role]
    assert (await ada.say(guild.channel_id, text))["mention_roles"] == [open_role, closed]
    assert await rows(app) == [(1, 501), (1, 501), (1, 502)]


@pytest.mark.parametrize(
    ("allowed", "wanted"),
    [
        (None, (["bob", "eve"], True)),
        ({}, ([], False)),
        ({"parse": []}, ([], False)),
        ({"parse": ["users"]}, (["bob", "eve"], False)),
        ({"parse": ["everyone"]}, ([], True)),
        ({"users": ["eve", "ada"]}, (["eve"], False)),
        ({"parse": ["everyone"], "users": ["bob"], "replied_user": True}, (["bob"], True)),
        (
            {"parse": ["roles", "everyone", "users"], "users": [], "roles": None},
            (["bob", "eve"], True),
        ),
    ],
)
async def test_the_sender_says_which_mentions_count(
    guild: Guild,
    ada: Person,
    bob: Person,
    eve: Person,
    allowed: Json,
    wanted: tuple[list[str], bool],
) -> None:
    people = {"ada": ada, "bob": bob, "eve": eve}
    if allowed and "users" in allowed:
        allowed = {**allowed, "users": [people[name].id for name in allowed["users"]]}
    sent = await ada.say(
        guild.channel_id, f"<@{bob.id}> <@{eve.id}> @everyone", allowed_mentions=allowed
    )

    assert ids(sent["mentions"]) == [people[name].id for name in wanted[0]]
    assert sent["mention_everyone"] is wanted[1]


@pytest.mark.parametrize(
    "allowed",
    [
        {"parse": ["users"], "users": ["1"]},
        {"parse": ["roles"], "roles": ["1"]},
        {"parse": ["users", "users"]},
        {"users": ["1", "1"]},
        {"users": [str(n) for n in range(101)]},
        {"parse": ["friends"]},
        {"parse": "users"},
        {"replied_user": "yes"},
        [],
    ],
)
async def test_a_wish_that_contradicts_itself_is_refused(
    guild: Guild, ada: Person, allowed: Json
) -> None:
    with pytest.raises(Refused) as refusal:
        await ada.say(guild.channel_id, "hello", allowed_mentions=allowed)
    assert (refusal.value.status, refusal.value.code) == (400, 50035)
    assert "allowed_mentions" in refusal.value.body["errors"]
    assert await ada.get(f"/messages/channel/{guild.channel_id}") == []


async def test_an_edit_mentions_anew(app: App, guild: Guild, ada: Person, bob: Person) -> None:
    await bob.connect()
    sent = await ada.say(guild.channel_id, f"<@{bob.id}> @everyone")
    path = f"/messages/{guild.channel_id}/{sent['id']}"
    edited = await ada.patch(path, {"content": f"<@{ada.id}>"})

    assert ids(edited["mentions"]) == [ada.id]
    assert not edited["mention_everyone"]
    told = await bob.gateway.expect("MESSAGE_UPDATE", id=sent["id"])
    assert "member" in told["mentions"][0]
    assert await bob.get("/users/@me/mentions") == []
    assert await rows(app) == [(2, int(ada.id))]

    # Other flags leave the mentions as they are.
    flagged = await ada.patch(path, {"flags": 4})
    assert ids(flagged["mentions"]) == [ada.id]
    told = await bob.gateway.expect("MESSAGE_UPDATE", id=sent["id"])
    assert "member" in told["mentions"][0]
    quiet = await ada.patch(path, {"allowed_mentions": {"parse": []}})
    assert quiet["mentions"] == []
    assert await rows(app) == []


async def test_a_repetition_gets_the_first_answer_whatever_has_changed(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await allow_everyone(app, guild, HERE | Permission.MENTION_EVERYONE)
    body = {"channel_id": guild.channel_id, "content": f"<@{ada.id}> @everyone"}
    keyed = {**body, "nonce": "n1", "enforce_nonce": True}
    first = await bob.post("/messages", keyed)
    assert first["mention_everyone"]
    await allow_everyone(app, guild, HERE)
    await ada.patch("/users/@me", {"global_name": "Countess"})

    assert await bob.post("/messages", keyed) == first
    assert len(await rows(app)) == 2
    with refused(409, 40015):
        await bob.post("/messages", {**keyed, "allowed_mentions": {"parse": []}})


async def test_mentions_of_me_come_newest_first_by_pages_and_kinds(
    town: Town, app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    role = await add_role(app, guild, 501, mentionable=True)
    await give(app, guild, bob, role)
    other = await town.guild(ada, bob, name="Elsewhere")
    mine = await ada.say(guild.channel_id, f"<@{bob.id}>")
    ours = await ada.say(guild.channel_id, f"<@&{role}>")
    alls = await ada.say(guild.channel_id, f"@here @everyone <@&{role}> <@{bob.id}>")
    away = await ada.say(other.channel_id, f"<@{bob.id}>")
    await ada.say(guild.channel_id, f"<@{ada.id}>")
    await bob.say(guild.channel_id, f"<@{bob.id}>")

    path = "/users/@me/mentions"
    everything = [away["id"], alls["id"], ours["id"], mine["id"]]
    found = await bob.get(path)
    assert ids(found) == everything
    assert found[0]["guild_id"] == other.id
    assert found[0]["author"]["id"] == ada.id
    assert ids(await bob.get(f"/api/v10{path}")) == everything
    assert ids(await bob.get(path, limit=2)) == everything[:2]
    assert ids(await bob.get(path, limit=2, before=everything[1])) == everything[2:]
    assert ids(await bob.get(path, guild_id=guild.id)) == everything[1:]
    assert ids(await bob.get(path, roles="false")) == [away["id"], alls["id"], mine["id"]]
    assert ids(await bob.get(path, roles="false", everyone="false")) == [
        away["id"],
        alls["id"],
        mine["id"],
    ]
    await give(app, guild, bob)
    assert ids(await bob.get(path)) == [away["id"], alls["id"], mine["id"]]
    with refused(400, 50035):
        await bob.get(path, limit=101)


async def test_mentions_of_me_are_only_what_i_may_read_now(
    app: App, guild: Guild, ada: Person, bob: Person, eve: Person
) -> None:
    path = "/users/@me/mentions"
    before = await ada.say(guild.channel_id, f"@everyone <@{eve.id}>")
    assert await eve.get(path) == []
    await eve.post(f"/guilds/{guild.id}/join")
    # Everyone was not her, before she came.
    assert ids(await eve.get(path)) == [before["id"]]
    await ada.patch(f"/messages/{guild.channel_id}/{before['id']}", {"content": "@everyone"})
    assert await eve.get(path) == []
    after = await ada.say(guild.channel_id, "@everyone")
    assert ids(await eve.get(path)) == [after["id"]]

    await allow_everyone(app, guild, HERE & ~Permission.READ_MESSAGE_HISTORY)
    assert await eve.get(path) == []
    await allow_everyone(app, guild, HERE)
    assert ids(await eve.get(path)) == [after["id"]]
    await eve.post(f"/guilds/{guild.id}/leave")
    assert await eve.get(path) == []
    assert ids(await bob.get(path)) == [after["id"], before["id"]]


async def test_many_mentions_that_i_may_not_read_hide_none_that_i_may(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    seen = await ada.say(guild.channel_id, f"<@{bob.id}>")
    secret = await ada.post("/channels", {"guild_id": guild.id, "name": "secret"})
    async with app.db.read() as conn:
        await conn.execute(
            """
            INSERT INTO channel_overwrites (channel_id, target_id, type, allow, deny)
            VALUES ($1, $2, 0, 0, $3)
            """,
            int(secret["id"]),
            int(guild.id),
            int(Permission.VIEW_CHANNEL),
        )
        await conn.execute(
            """
            WITH said AS (
                INSERT INTO messages (channel_id, id, author_id, content, mention_everyone)
                SELECT $1, $2::bigint + n, $3, '@everyone', true FROM generate_series(1, 300) AS n
                RETURNING channel_id, id
            )
            INSERT INTO mentions (channel_id, message_id, kind, target_id, author_id, guild_id)
            SELECT channel_id, id, 0, $4, $3, $4 FROM said
            """,
            int(secret["id"]),
            int(secret["id"]),
            int(ada.id),
            int(guild.id),
        )
    assert ids(await bob.get("/users/@me/mentions", limit=5)) == [seen["id"]]


async def test_what_is_deleted_mentions_nobody(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    one = await ada.say(guild.channel_id, f"<@{bob.id}>")
    two = await ada.say(guild.channel_id, "@everyone")
    await ada.delete(f"/messages/{guild.channel_id}/{one['id']}")
    assert ids(await bob.get("/users/@me/mentions")) == [two["id"]]
    assert await rows(app) == [(0, int(guild.id))]
    await ada.delete(f"/channels/{guild.channel_id}")
    assert await bob.get("/users/@me/mentions") == []
    assert await rows(app) == []


async def test_each_guild_and_role_costs_a_look_at_the_index_and_no_more(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    """A hundred thousand mentions of others, and of everyone, are not read for one page."""
    async with app.db.read() as conn:
        await conn.execute(
            """
            WITH said AS (
                INSERT INTO messages (channel_id, id, author_id, content)
                SELECT $1, $2::bigint + n, $3, 'x' FROM generate_series(1, 20000) AS n
                RETURNING channel_id, id
            )
            INSERT INTO mentions (channel_id, message_id, kind, target_id, author_id, guild_id)
            SELECT channel_id, id, CASE WHEN id % 2 = 0 THEN 0 ELSE 2 END,
                   CASE WHEN id % 2 = 0 THEN $4::bigint ELSE id % 500 END, $3, $4::bigint
              FROM said
            """,
            int(guild.channel_id),
            2**62,
            int(ada.id),
            int(guild.id),
        )
        await conn.execute("ANALYZE mentions")
        # As it is for the server's connections.
        await conn.execute("SET enable_seqscan = off")
        asked = Counting(conn)
        for guild_id in (None, Snowflake(int(guild.id))):
            await repository.reaching(
                cast("Conn", asked),
                Snowflake(int(bob.id)),
                MentionPage(guild_id=guild_id),
                before=None,
                hidden=[],
                limit=50,
            )
        plans = [
            "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN (ANALYZE) {statement}", *args))
            for statement, args in asked.asked
        ]
        await conn.execute("RESET enable_seqscan")
    assert all("mentions_target_idx" in plan for plan in plans), plans
    assert "mentions_guild_idx" in plans[1], plans[1]
    # No node of the plans has more rows than the two kinds of targets have places on the page.
    assert max(int(rows) for plan in plans for rows in ROWS.findall(plan)) <= 200, plans
    assert len(await bob.get("/users/@me/mentions", limit=100)) == 100


async def test_whom_many_sends_mention_is_looked_up_at_once_and_only_if_somebody_is(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    role = await add_role(app, guild, 501, mentionable=True)
    access = ChannelAccess(
        channel_id=Snowflake(int(guild.channel_id)),
        type=0,
        user=User(id=Snowflake(int(bob.id)), username="bob"),
        permissions=int(HERE),
        guild_id=Snowflake(int(guild.id)),
    )
    users = tuple(Snowflake(int(person.id)) for person in (ada, bob))
    async with app.db.read() as conn:
        channels = ChannelService.__new__(ChannelService)
        counted = Counting(conn)
        asked = cast("Conn", counted)
        nobody = await MentionService(channels).resolve(asked, [(Named(), access)] * 100)
        assert counted.asked == []
        assert all(one.is_nobody for one in nobody)
        wish = Named(users, (Snowflake(int(role)),), everyone=True)
        found = await MentionService(channels).resolve(asked, [(wish, access)] * 100)
        assert len(counted.asked) == 2
    assert [[user.id for user in one.users] for one in found] == [list(users)] * 100
    assert {(one.roles, one.everyone) for one in found} == {((501,), False)}


def test_what_is_code_mentions_nobody() -> None:
    assert named("`<@1>` ``<@2> ` <@3>`` ```\n@everyone\n``` <@4>", None).users == (4,)
    assert not named("`@everyone`", None).everyone
    assert named("` <@5>", None).users == (5,)


@pytest.mark.parametrize(
    "text", ["a@everyone.org", "@everyones", "<@>", "<@&>", "<@99999999999999999999>"]
)
def test_what_only_looks_like_a_mention_is_none(text: str) -> None:
    assert named(text, None).is_nobody


def test_no_more_than_a_hundred_people_are_mentioned() -> None:
    assert len(named("".join(f"<@{n}>" for n in range(200)), None).users) == 100
