"""The list of members that a client looks at (opcode 102), kept up to date."""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from internal.app import App
from internal.chat.ws.members import LISTED_OFFLINE, MOST_LISTS
from internal.db.postgres import Conn
from internal.guild.model import Member
from internal.permission.model import Permission
from internal.utils.snowflake import Snowflake
from tests.support.crowd import crowd
from tests.support.gateway import Gateway, Op
from tests.support.people import Guild, Person, Town

Json = Any
UPDATE = "GUILD_MEMBER_LIST_UPDATE"


@pytest.fixture
async def guild(app: App, town: Town, ada: Person, bob: Person) -> Guild:
    """Ada's guild, with Bob in it and without Eve. Lists are told sooner than elsewhere."""
    app.gateway.lists.pause_s = 0.1
    return await town.guild(ada, bob)


async def look(gateway: Gateway, guild: Guild, *ranges: list[int], channel: str = "") -> None:
    await gateway.send(
        Op.LOOK_AT_MEMBERS,
        {
            "guild_id": guild.id,
            "channel_id": channel or guild.channel_id,
            "ranges": list(ranges) or [[0, 99]],
        },
    )


async def expect_list(gateway: Gateway, *wanted: str) -> Json:
    """The update after which a first range reads so: headings by id, members by their names."""

    def reads_so(frame: Any) -> bool:
        return frame.t == UPDATE and any(rows(op) == list(wanted) for op in frame.d["ops"])

    return (await gateway.find(reads_so, f"a list of {wanted}", 10)).d


async def both_come(ada: Person, bob: Person) -> None:
    """Both are there, and are known to be."""
    await ada.connect()
    await bob.connect()
    await ada.gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="online")


def rows(op: Json) -> list[str]:
    return [
        f"# {item['group']['id']}"
        if "group" in item
        else item["member"]["nick"] or item["member"]["user"]["username"]
        for item in op["items"]
    ]


async def make_role(owner: Person, guild: Guild, name: str) -> str:
    """A role that is shown apart, above those made before it."""
    path = f"/guilds/{guild.id}/roles"
    role = await owner.post(path, {"name": name, "hoist": True})
    await owner.patch(path, [{"id": role["id"], "position": 250}])
    return str(role["id"])


async def rename(owner: Person, guild: Guild, member: Person, nick: str) -> None:
    await owner.patch(f"/guilds/{guild.id}/members/{member.id}", {"nick": nick})


async def give(owner: Person, guild: Guild, member: Person, *roles: str) -> None:
    await owner.patch(f"/guilds/{guild.id}/members/{member.id}", {"roles": list(roles)})


async def test_a_list_has_who_is_online_by_role_and_then_who_is_not(
    town: Town, guild: Guild, ada: Person, bob: Person
) -> None:
    cleo, dora, emil = await town.people(3, "zoe")
    for one in (cleo, dora, emil):
        await one.post(f"/guilds/{guild.id}/join")
    low, high = await make_role(ada, guild, "low"), await make_role(ada, guild, "high")
    await give(ada, guild, bob, low, high)
    await give(ada, guild, cleo, low)
    await give(ada, guild, emil, high)
    for one in (bob, cleo, dora, ada):
        await one.connect()
    await look(ada.gateway, guild)
    told = await expect_list(
        ada.gateway,
        *(f"# {high}", "bob", f"# {low}", "zoe0", "# online", "ada", "zoe1", "# offline", "zoe2"),
    )

    assert (told["guild_id"], told["channel_id"]) == (guild.id, guild.channel_id)
    assert (told["member_count"], told["online_count"]) == (5, 4)
    assert [(one["id"], one["count"]) for one in told["groups"]] == [
        (high, 1),
        (low, 1),
        ("online", 2),
        ("offline", 1),
    ]
    (op,) = told["ops"]
    assert (op["op"], op["range"]) == ("SYNC", [0, 99])
    first, last = op["items"][1]["member"], op["items"][-1]["member"]
    assert first["user"]["id"] == bob.id
    assert sorted(first["roles"]) == sorted([low, high])
    assert first["presence"]["status"] == "online"
    assert (last["user"]["id"], last["presence"]["status"]) == (emil.id, "offline")


async def test_a_list_follows_what_happens(
    guild: Guild, ada: Person, bob: Person, eve: Person
) -> None:
    await ada.connect()
    await look(ada.gateway, guild)
    await expect_list(ada.gateway, "# online", "ada", "# offline", "bob")
    await bob.connect()
    await expect_list(ada.gateway, "# online", "ada", "bob")
    await bob.gateway.send(Op.UPDATE_PRESENCE, {"status": "dnd"})
    told = await expect_list(ada.gateway, "# online", "ada", "bob")
    assert told["ops"][0]["items"][2]["member"]["presence"]["status"] == "dnd"
    await rename(ada, guild, bob, "aaron")
    await expect_list(ada.gateway, "# online", "aaron", "ada")
    role = await make_role(ada, guild, "crew")
    await give(ada, guild, bob, role)
    await expect_list(ada.gateway, f"# {role}", "aaron", "# online", "ada")
    await ada.patch(f"/guilds/{guild.id}/roles/{role}", {"hoist": False})
    await expect_list(ada.gateway, "# online", "aaron", "ada")
    await eve.post(f"/guilds/{guild.id}/join")
    await expect_list(ada.gateway, "# online", "aaron", "ada", "# offline", "eve")
    await eve.post(f"/guilds/{guild.id}/leave")
    await expect_list(ada.gateway, "# online", "aaron", "ada")
    await bob.gateway.close()
    told = await expect_list(ada.gateway, "# online", "ada", "# offline", "aaron")
    assert (told["member_count"], told["online_count"]) == (2, 1)
    positions = [frame.s for frame in ada.gateway.frames if frame.s]
    assert positions == sorted(positions)


async def test_only_who_sees_the_channel_is_listed(guild: Guild, ada: Person, bob: Person) -> None:
    await both_come(ada, bob)
    secret = (await ada.post("/channels", {"guild_id": guild.id, "name": "secret"}))["id"]
    await ada.gateway.expect("CHANNEL_CREATE", id=secret)
    await look(ada.gateway, guild, channel=secret)
    await expect_list(ada.gateway, "# online", "ada", "bob")
    await bob.gateway.expect("CHANNEL_CREATE", id=secret)
    await look(bob.gateway, guild, channel=secret)
    await expect_list(bob.gateway, "# online", "ada", "bob")

    path = f"/channels/{secret}/permissions/{guild.id}"
    deny = str(int(Permission.VIEW_CHANNEL))
    await ada.put(path, {"type": 0, "allow": "0", "deny": deny})
    told = await expect_list(ada.gateway, "# online", "ada")
    assert told["online_count"] == 1
    await bob.gateway.expect("CHANNEL_DELETE", id=secret)
    await bob.heard_nothing(UPDATE)
    # Nor is it told to who looks anew.
    await look(bob.gateway, guild, channel=secret)
    await rename(ada, guild, ada, "queen")
    await expect_list(ada.gateway, "# online", "queen")
    await bob.heard_nothing(UPDATE)
    await ada.delete(path)
    await expect_list(ada.gateway, "# online", "bob", "queen")


async def test_strangers_are_told_nothing(
    app: App, town: Town, guild: Guild, ada: Person, eve: Person
) -> None:
    other = await town.guild(eve, name="Elsewhere")
    await eve.connect()
    await look(eve.gateway, guild)
    # The channel of one guild under the name of another.
    await look(eve.gateway, other, channel=guild.channel_id)
    await look(eve.gateway, guild, channel=other.channel_id)
    await look(eve.gateway, other, channel="42")
    await eve.gateway.heartbeat()
    assert app.gateway.lists.lists == 0
    await ada.connect()
    await look(ada.gateway, guild)
    await expect_list(ada.gateway, "# online", "ada", "# offline", "bob")
    await eve.heard_nothing(UPDATE)


async def test_who_leaves_the_guild_looks_no_more(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await ada.connect()
    await bob.connect()
    await look(bob.gateway, guild)
    await expect_list(bob.gateway, "# online", "ada", "bob")
    await look(ada.gateway, guild)
    await expect_list(ada.gateway, "# online", "ada", "bob")
    await bob.post(f"/guilds/{guild.id}/leave")
    await bob.gateway.expect("GUILD_DELETE", id=guild.id)
    await expect_list(ada.gateway, "# online", "ada")
    await bob.heard_nothing(UPDATE)
    assert app.gateway.lists.lists == 1


async def test_ranges_are_told_one_by_one_and_only_those_that_changed(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await crowd(app, guild, 150)
    await both_come(ada, bob)
    await look(ada.gateway, guild, [0, 2], [100, 199], [5000, 5099])
    told = await expect_list(ada.gateway, "# online", "ada", "bob")
    first, second, third = told["ops"]
    assert rows(first) == ["# online", "ada", "bob"]
    assert second["range"] == [100, 199]
    # Two headings and 152 people in all.
    assert len(second["items"]) == 54
    assert third["items"] == []

    await rename(ada, guild, bob, "aaron")
    told = await expect_list(ada.gateway, "# online", "aaron", "ada")
    assert [op["range"] for op in told["ops"]] == [[0, 2]]
    await look(ada.gateway, guild, [1, 1])
    told = await expect_list(ada.gateway, "aaron")
    assert [op["range"] for op in told["ops"]] == [[1, 1]]


async def test_without_ranges_one_looks_no_more(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await ada.connect()
    await look(ada.gateway, guild)
    await expect_list(ada.gateway, "# online", "ada", "# offline", "bob")
    body = {"guild_id": guild.id, "channel_id": guild.channel_id, "ranges": []}
    await ada.gateway.send(Op.LOOK_AT_MEMBERS, body)
    await ada.gateway.send(Op.LOOK_AT_MEMBERS, body)
    await ada.gateway.heartbeat()
    assert app.gateway.lists.lists == 0
    await rename(ada, guild, bob, "aaron")
    await ada.gateway.expect("GUILD_MEMBER_UPDATE")
    await ada.heard_nothing(UPDATE)


async def test_a_socket_that_is_gone_looks_at_nothing(app: App, guild: Guild, ada: Person) -> None:
    await ada.connect()
    await look(ada.gateway, guild)
    await ada.gateway.expect(UPDATE)
    assert app.gateway.lists.lists == 1
    await ada.gateway.close()
    await ada.connect()
    assert app.gateway.lists.lists == 0
    # A session that goes on at another socket has to say anew what it looks at.
    await look(ada.gateway, guild)
    await ada.gateway.expect(UPDATE)


async def test_of_too_many_lists_the_first_is_let_go(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await ada.connect()
    rooms = [guild.channel_id]
    for number in range(MOST_LISTS):
        body = {"guild_id": guild.id, "name": f"room-{number}"}
        rooms.append((await ada.post("/channels", body))["id"])
        await ada.gateway.expect("CHANNEL_CREATE", id=rooms[-1])
    for room in rooms:
        await look(ada.gateway, guild, channel=room)
        await ada.gateway.expect(UPDATE, channel_id=room)
    assert app.gateway.lists.lists == MOST_LISTS
    start = ada.gateway.mark
    await rename(ada, guild, bob, "aaron")
    for _ in range(MOST_LISTS):
        await ada.gateway.expect(UPDATE)
    told = [frame.d["channel_id"] for frame in ada.gateway.frames[start:] if frame.t == UPDATE]
    assert sorted(told) == sorted(rooms[1:])


async def test_many_changes_are_told_as_one(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    app.gateway.lists.pause_s = 1.0
    await ada.connect()
    await look(ada.gateway, guild)
    await ada.gateway.expect(UPDATE)
    for number in range(20):
        await rename(ada, guild, bob, f"bob{number}")
    await expect_list(ada.gateway, "# online", "ada", "# offline", "bob19")
    # One now and one each second, whatever the machine needed for the twenty.
    assert len(ada.gateway.of_type(UPDATE)) < 15


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"guild_id": "1"},
        {"guild_id": "1", "channel_id": "x", "ranges": []},
        {"guild_id": "1", "channel_id": "1", "ranges": [[0]]},
        {"guild_id": "1", "channel_id": "1", "ranges": [[0, 100]]},
        {"guild_id": "1", "channel_id": "1", "ranges": [[5, 4]]},
        {"guild_id": "1", "channel_id": "1", "ranges": [[-1, 4]]},
        {"guild_id": "1", "channel_id": "1", "ranges": [[0, 1]] * 6},
        {"guild_id": "1", "channel_id": "1", "ranges": [["0", "1"]]},
    ],
)
async def test_what_is_no_wish_ends_the_socket(ada: Person, body: Json) -> None:
    await ada.connect()
    await ada.gateway.send(Op.LOOK_AT_MEMBERS, body)
    await ada.gateway.expect_close(4002)


async def test_nobody_looks_before_it_is_known_who_it_is(town: Town, guild: Guild) -> None:
    gateway = await town.open_gateway()
    await look(gateway, guild)
    await gateway.expect_close(4003)


async def test_people_in_a_thread_that_is_private_are_its_members_alone(
    guild: Guild, ada: Person, bob: Person
) -> None:
    await ada.connect()
    await bob.connect()
    path = f"/api/v10/channels/{guild.channel_id}/threads"
    thread = await ada.post(path, {"name": "aside", "type": 12})
    await ada.gateway.expect("THREAD_CREATE", id=thread["id"])
    await look(ada.gateway, guild, channel=thread["id"])
    await expect_list(ada.gateway, "# online", "ada")
    await ada.put(f"/api/v10/channels/{thread['id']}/thread-members/{bob.id}")
    await expect_list(ada.gateway, "# online", "ada", "bob")


class Counted:
    """What the lists read of members, counted on its way."""

    def __init__(self, app: App) -> None:
        lists = app.gateway.lists
        doors = lists._doors
        self.rows = 0
        self.calls = 0
        lists._doors = dataclasses.replace(
            doors, among=self._counting(doors.among), between=self._counting(doors.between)
        )

    def _counting(
        self, inner: Callable[..., Awaitable[list[Member]]]
    ) -> Callable[..., Awaitable[list[Member]]]:
        async def read(conn: Conn, *args: Snowflake | Sequence[Snowflake] | int) -> list[Member]:
            members = await inner(conn, *args)
            self.calls += 1
            self.rows += len(members)
            return members

        return read


async def test_those_who_are_offline_cost_nothing_in_a_guild_of_a_hundred_thousand(
    app: App, guild: Guild, ada: Person, bob: Person
) -> None:
    await crowd(app, guild, 100_000)
    async with app.db.read() as conn:
        await conn.execute("ANALYZE members")
        await conn.execute("ANALYZE users")
    await both_come(ada, bob)
    counted = Counted(app)
    await look(ada.gateway, guild)
    told = await expect_list(ada.gateway, "# online", "ada", "bob")
    assert (told["member_count"], told["online_count"]) == (100_002, 2)
    assert (counted.rows, counted.calls) == (2, 1)

    # Nor does a change cost more than whom it is about.
    await rename(ada, guild, bob, "aaron")
    await expect_list(ada.gateway, "# online", "aaron", "ada")
    role = await make_role(ada, guild, "crew")
    await give(ada, guild, bob, role)
    await expect_list(ada.gateway, f"# {role}", "aaron", "# online", "ada")
    await bob.gateway.close()
    await expect_list(ada.gateway, "# online", "ada")
    assert counted.rows <= 4

    # And what is asked for is found by the index, row by row.
    async with app.db.read() as conn:
        await conn.execute("SET enable_seqscan = off")
        plan = "\n".join(
            row[0]
            for row in await conn.fetch(
                f"""
                EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)
                SELECT m.* FROM unnest(ARRAY[{ada.id}, {bob.id}]::bigint[]) AS a (id)
                  JOIN member_profiles AS m ON m.guild_id = {guild.id} AND m.user_id = a.id
                """  # noqa: S608  # our own numbers
            )
        )
        await conn.execute("RESET enable_seqscan")
    assert "using members_pkey" in plan or "using members_user_idx" in plan, plan
    assert "Seq Scan" not in plan, plan


async def test_just_above_the_bound_nobody_offline_is_listed(
    app: App, guild: Guild, ada: Person, eve: Person
) -> None:
    await crowd(app, guild, LISTED_OFFLINE - 2)
    await ada.connect()
    await look(ada.gateway, guild, [0, 3])
    told = await ada.gateway.expect(UPDATE, online_count=1)
    assert [(one["id"], one["count"]) for one in told["groups"]] == [
        ("online", 1),
        ("offline", LISTED_OFFLINE - 1),
    ]
    await eve.post(f"/guilds/{guild.id}/join")
    told = await ada.gateway.expect(UPDATE, member_count=LISTED_OFFLINE + 1)
    assert [(one["id"], one["count"]) for one in told["groups"]] == [("online", 1)]
