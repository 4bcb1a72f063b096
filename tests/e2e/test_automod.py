"""Automatic moderation: what is said, looked at before people see it."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from internal.app import App
from internal.db.postgres import Transaction
from internal.guild.audit.service import AuditTrail
from internal.guild.automod.model import Hit
from internal.guild.automod.service import AutomodService
from internal.guild.service import GuildService
from internal.user.model import User
from internal.utils.snowflake import Snowflake, SnowflakeFactory
from tests.e2e.conftest import OpenTown
from tests.support.clock import StandingClock
from tests.support.people import Guild, Person, Refused, Town, refused

MANAGE_GUILD = 1 << 5
MODERATE_MEMBERS = 1 << 40
BLOCK = {"type": 1, "metadata": {"custom_message": "Mind your tongue."}}
WORDS = {"trigger_type": 1, "trigger_metadata": {"keyword_filter": ["darn*"]}}


def rules_path(guild: Guild) -> str:
    return f"/guilds/{guild.id}/auto-moderation/rules"


async def make_rule(owner: Person, guild: Guild, **wish: Any) -> Any:
    body = {"name": "manners", "event_type": 1, "enabled": True, "actions": [BLOCK], **WORDS}
    return await owner.post(rules_path(guild), {**body, **wish})


async def make_role(owner: Person, guild: Guild, permissions: int, *people: Person) -> str:
    made = await owner.post(
        f"/guilds/{guild.id}/roles", {"name": "of a test", "permissions": str(permissions)}
    )
    for person in people:
        await owner.put(f"/guilds/{guild.id}/members/{person.id}/roles/{made['id']}")
    return str(made["id"])


async def contents(person: Person, channel_id: str) -> list[str]:
    return [one["content"] for one in await person.get(f"/messages/channel/{channel_id}")]


async def test_a_word_is_blocked_and_those_who_keep_order_hear_of_it(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    for person in (ada, bob, eve):
        await person.connect()
    reason = {"X_Audit_Log_Reason": "at%20last"}
    rule = await ada.post(
        f"/api/v10{rules_path(guild)}",
        {"name": "manners", "event_type": 1, "enabled": True, "actions": [BLOCK], **WORDS},
        **reason,
    )
    assert (rule["guild_id"], rule["creator_id"]) == (guild.id, ada.id)
    assert rule["trigger_metadata"] == {
        "keyword_filter": ["darn*"],
        "regex_patterns": [],
        "allow_list": [],
    }
    assert await ada.gateway.expect("AUTO_MODERATION_RULE_CREATE", id=rule["id"]) == rule

    with pytest.raises(Refused) as refusal:
        await bob.say(guild.channel_id, "Darned thing")
    assert (refusal.value.status, refusal.value.code) == (400, 200000)
    assert refusal.value.body["message"] == "Mind your tongue."
    told = await ada.gateway.expect("AUTO_MODERATION_ACTION_EXECUTION", rule_id=rule["id"])
    assert told == {
        "guild_id": guild.id,
        "action": BLOCK,
        "rule_id": rule["id"],
        "rule_trigger_type": 1,
        "user_id": bob.id,
        "channel_id": guild.channel_id,
        "content": "Darned thing",
        "matched_keyword": "darn*",
        "matched_content": "darn",
    }
    sent = await bob.say(guild.channel_id, "a nice thing")
    await eve.gateway.expect("MESSAGE_CREATE", id=sent["id"])
    assert await contents(eve, guild.channel_id) == ["a nice thing"]
    for person in (bob, eve):
        await person.heard_nothing(
            "AUTO_MODERATION_RULE_CREATE", "AUTO_MODERATION_ACTION_EXECUTION"
        )
    log = await ada.get(f"/guilds/{guild.id}/audit-logs")
    entries = {one["action_type"]: one for one in log["audit_log_entries"]}
    assert (entries[140]["target_id"], entries[140]["reason"]) == (rule["id"], "at last")
    assert (entries[143]["target_id"], entries[143]["user_id"]) == (bob.id, None)
    assert entries[143]["options"]["auto_moderation_rule_name"] == "manners"


async def test_an_edit_is_looked_at_like_a_send(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await make_rule(ada, guild)
    sent = await bob.say(guild.channel_id, "a nice thing")
    path = f"/messages/{guild.channel_id}/{sent['id']}"
    for _ in range(2):
        with refused(400, 200000):
            await bob.patch(path, {"content": "a darn thing"})
    told = await ada.gateway.expect("AUTO_MODERATION_ACTION_EXECUTION", user_id=bob.id)
    assert told["content"] == "a darn thing"
    assert await contents(ada, guild.channel_id) == ["a nice thing"]
    await bob.patch(path, {"content": "a nicer thing"})
    assert await contents(ada, guild.channel_id) == ["a nicer thing"]
    # The same attempt again is acted upon once.
    await settled(ada, guild, bob)
    assert heard(ada, "AUTO_MODERATION_ACTION_EXECUTION", content="a darn thing") == 1


async def settled(owner: Person, guild: Guild, person: Person) -> None:
    """All that was found by now was acted upon: hits are taken in their order."""
    with refused(400, 200000):
        await person.say(guild.channel_id, "darn it all at last")
    await owner.gateway.expect("AUTO_MODERATION_ACTION_EXECUTION", content="darn it all at last")


def heard(person: Person, kind: str, **fields: Any) -> int:
    """How often a connection was told this."""
    return sum(
        frame.t == kind and fields.items() <= frame.d.items() for frame in person.gateway.frames
    )


async def test_a_repeated_send_is_refused_again_and_acted_upon_once(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await make_rule(ada, guild)

    async def attempt(content: str) -> int:
        try:
            await bob.say(guild.channel_id, content, nonce="n", enforce_nonce=True)
        except Refused as refusal:
            return refusal.code
        return 0

    assert set(await asyncio.gather(*(attempt("darn") for _ in range(8)))) == {200000}
    await settled(ada, guild, bob)
    assert heard(ada, "AUTO_MODERATION_ACTION_EXECUTION", content="darn") == 1
    # Nothing was sent under the nonce, so it is free.
    assert await attempt("fine") == 0
    assert await contents(ada, guild.channel_id) == ["fine"]


async def test_an_alert_shows_what_was_said_where_moderators_look(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    desk = await ada.post("/channels", {"guild_id": guild.id, "name": "desk"})
    await ada.connect()
    alert = {"type": 2, "metadata": {"channel_id": desk["id"]}}
    rule = await make_rule(ada, guild, actions=[alert])
    sent = await bob.say(guild.channel_id, "darn <@1>")

    shown = await ada.gateway.expect("MESSAGE_CREATE", channel_id=desk["id"])
    assert (shown["type"], shown["content"]) == (24, "darn <@1>")
    assert (shown["author"]["id"], shown["guild_id"]) == (bob.id, guild.id)
    told = await ada.gateway.expect("AUTO_MODERATION_ACTION_EXECUTION", rule_id=rule["id"])
    assert (told["message_id"], told["alert_system_message_id"]) == (sent["id"], shown["id"])
    assert await contents(ada, guild.channel_id) == ["darn <@1>"]
    # It is about Bob and not his: he can neither change it nor take it back.
    path = f"/messages/{desk['id']}/{shown['id']}"
    with refused(403, 50005):
        await bob.patch(path, {"content": "nothing"})
    with refused(403, 50013):
        await bob.delete(path)
    await ada.put(f"/guilds/{guild.id}/bans/{bob.id}", {"delete_message_seconds": 3600})
    assert await contents(ada, guild.channel_id) == []
    assert await contents(ada, desk["id"]) == ["darn <@1>"]
    await ada.delete(path)
    # Without the channel there is no alert, and everything else goes on.
    eve = await town.person("eve")
    await eve.post(f"/guilds/{guild.id}/join")
    await ada.delete(f"/channels/{desk['id']}")
    await eve.say(guild.channel_id, "darn")
    await ada.patch(f"{rules_path(guild)}/{rule['id']}", {"actions": [BLOCK]})
    await settled(ada, guild, eve)


async def test_a_timeout_begins_soon_after(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    timeout = {"type": 3, "metadata": {"duration_seconds": 600}}
    await make_rule(ada, guild, actions=[BLOCK, timeout])
    with refused(400, 200000):
        await bob.say(guild.channel_id, "darn")
    told = await bob.gateway.expect("GUILD_MEMBER_UPDATE", guild_id=guild.id)
    assert told["user"]["id"] == bob.id
    assert told["communication_disabled_until"] is not None
    with refused(403, 50013):
        await bob.say(guild.channel_id, "sorry")
    log = await ada.get(f"/guilds/{guild.id}/audit-logs", action_type=145)
    assert [one["target_id"] for one in log["audit_log_entries"]] == [bob.id]


async def test_mentions_have_a_limit(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await make_rule(ada, guild, trigger_type=5, trigger_metadata={"mention_total_limit": 3})
    await bob.say(guild.channel_id, "<@1> <@2> <@3> <@1> <@!2>")
    with refused(400, 200000):
        await bob.say(guild.channel_id, "<@1> <@2> <@3> <@&4>")


async def test_the_same_again_and_again_is_spam(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await make_rule(ada, guild, trigger_type=3, trigger_metadata={})
    for _ in range(4):
        await bob.say(guild.channel_id, "Buy now")
    # A repetition of a send is none of what was said.
    for _ in range(4):
        await bob.say(guild.channel_id, "one", nonce="1", enforce_nonce=True)
    with refused(400, 200000):
        await bob.say(guild.channel_id, "buy NOW ")
    await bob.say(guild.channel_id, "something else")


async def test_expressions_are_looked_for_and_some_things_allowed(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    metadata = {
        "regex_patterns": [r"(?i)b[a4]d\w*", r"(a+)+$"],
        "keyword_filter": ["*ass*"],
        "allow_list": ["badge", "classic"],
    }
    await make_rule(ada, guild, trigger_metadata=metadata)
    for content in ("a badge", "what a classic!"):
        await bob.say(guild.channel_id, content)
    for content in ("B4Dly", "badge bad", "classic grass", "a" * 2000):
        with refused(400, 200000):
            await bob.say(guild.channel_id, content)


async def test_who_manages_the_guild_and_who_is_exempt_is_spared(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    pub = await ada.post("/channels", {"guild_id": guild.id, "name": "pub"})
    cursing = await make_role(ada, guild, 0, eve)
    rule = await make_rule(ada, guild, exempt_roles=[cursing], exempt_channels=[pub["id"]])
    for person, channel_id in ((ada, guild.channel_id), (eve, guild.channel_id), (bob, pub["id"])):
        await person.say(channel_id, "darn")
    # A thread is in its channel.
    thread = await bob.post(f"/channels/{pub['id']}/threads", {"name": "in it", "type": 11})
    await bob.say(thread["id"], "darn")
    with refused(400, 200000):
        await bob.say(guild.channel_id, "darn")
    await make_role(ada, guild, MANAGE_GUILD, bob)
    await bob.say(guild.channel_id, "darn")
    # Rules that are changed hold at once, also those that are switched off.
    zoe = await town.person("zoe")
    await zoe.post(f"/guilds/{guild.id}/join")
    one = f"{rules_path(guild)}/{rule['id']}"
    for _ in range(3):
        await ada.patch(one, {"enabled": False})
        await zoe.say(guild.channel_id, "darn")
        await ada.patch(one, {"enabled": True})
        with refused(400, 200000):
            await zoe.say(guild.channel_id, "darn")
    await ada.patch(one, {"trigger_metadata": {"keyword_filter": ["heck"]}})
    await zoe.say(guild.channel_id, "darn")
    with refused(400, 200000):
        await zoe.say(guild.channel_id, "heck")


async def test_a_post_of_a_forum_is_looked_at_too(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    forum = await ada.post("/channels", {"guild_id": guild.id, "name": "forum", "type": 15})
    await make_rule(ada, guild)
    with refused(400, 200000):
        await bob.post(
            f"/channels/{forum['id']}/threads",
            {"name": "hello", "message": {"content": "darn you all"}},
        )
    told = await ada.gateway.expect("AUTO_MODERATION_ACTION_EXECUTION", user_id=bob.id)
    assert told["content"] == "darn you all"
    active = await ada.get(f"/api/v10/guilds/{guild.id}/threads/active")
    assert active["threads"] == []


async def test_rules_are_kept_by_who_manages_the_guild(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    other = await town.guild(eve)
    rule = await make_rule(ada, guild)
    one = f"{rules_path(guild)}/{rule['id']}"
    for person, refusal in ((bob, (403, 50013)), (eve, (404, 10004))):
        for attempt in (
            person.get(rules_path(guild)),
            person.get(one),
            person.patch(one, {"name": "mine"}),
            person.delete(one),
            make_rule(person, guild),
        ):
            with refused(*refusal):
                await attempt
    # A rule is looked up with its guild.
    for attempt in (
        eve.get(f"{rules_path(other)}/{rule['id']}"),
        eve.patch(f"{rules_path(other)}/{rule['id']}", {"name": "mine"}),
        eve.delete(f"{rules_path(other)}/{rule['id']}"),
    ):
        with refused(404, 90040):
            await attempt
    await make_role(ada, guild, MANAGE_GUILD, bob)
    await bob.connect()
    changed = await bob.patch(one, {"name": "better manners", "exempt_roles": [guild.id]})
    assert (changed["name"], changed["exempt_roles"]) == ("better manners", [guild.id])
    assert await bob.gateway.expect("AUTO_MODERATION_RULE_UPDATE", id=rule["id"]) == changed
    assert await bob.patch(one, {"name": "better manners"}) == changed
    assert await bob.get(one) == changed
    assert await bob.get(rules_path(guild)) == [changed]
    await bob.heard_nothing("AUTO_MODERATION_RULE_UPDATE")
    # Without the permission to time people out no rule of Bob's does.
    timeout = {"type": 3, "metadata": {"duration_seconds": 60}}
    with refused(403, 50013):
        await bob.patch(one, {"actions": [timeout]})
    await make_role(ada, guild, MODERATE_MEMBERS, bob)
    await bob.patch(one, {"actions": [timeout]})
    await bob.delete(one)
    assert (await bob.gateway.expect("AUTO_MODERATION_RULE_DELETE"))["id"] == rule["id"]
    with refused(404, 90040):
        await bob.get(one)
    log = await ada.get(f"/guilds/{guild.id}/audit-logs", action_type=141)
    changes = {one["key"] for entry in log["audit_log_entries"] for one in entry["changes"]}
    assert changes == {"name", "exempt_roles", "actions"}


async def test_a_guild_has_six_rules_for_words_and_one_of_each_other_kind(
    town: Town, ada: Person
) -> None:
    guild = await town.guild(ada)
    for _ in range(6):
        await make_rule(ada, guild)
    await make_rule(ada, guild, trigger_type=3, trigger_metadata=None)
    await make_rule(ada, guild, trigger_type=5, trigger_metadata={"mention_total_limit": 9})
    for kind, metadata in (
        (1, WORDS["trigger_metadata"]),
        (3, None),
        (5, {"mention_total_limit": 9}),
    ):
        with pytest.raises(Refused) as refusal:
            await make_rule(ada, guild, trigger_type=kind, trigger_metadata=metadata)
        assert refusal.value.code == 50035
        (fault,) = refusal.value.body["errors"]["trigger_type"]["_errors"]
        assert fault["code"] == "AUTO_MODERATION_MAX_RULES_OF_TYPE_EXCEEDED"


@pytest.mark.parametrize(
    "wish",
    [
        {"trigger_type": 4, "trigger_metadata": {"presets": [1]}},
        {"trigger_type": 6},
        {"event_type": 2},
        {"actions": []},
        {"actions": None},
        {"actions": [{"type": 4}]},
        {"actions": [BLOCK, BLOCK]},
        {"actions": [{"type": 2}]},
        {"actions": [{"type": 2, "metadata": {"channel_id": "1"}}]},
        {"actions": [{"type": 3, "metadata": {"duration_seconds": 2419201}}]},
        {"actions": [{"type": 3}]},
        {
            "trigger_type": 3,
            "actions": [{"type": 3, "metadata": {"duration_seconds": 60}}],
        },
        {"trigger_metadata": {}},
        {"trigger_metadata": {"keyword_filter": ["*"]}},
        {"trigger_metadata": {"keyword_filter": ["x" * 61]}},
        {"trigger_metadata": {"keyword_filter": ["x"] * 1001}},
        {"trigger_metadata": {"regex_patterns": ["("]}},
        {"trigger_metadata": {"regex_patterns": [r"(a)\1"]}},
        {"trigger_metadata": {"regex_patterns": ["a"] * 11}},
        {"trigger_type": 5, "trigger_metadata": {}},
        {"trigger_type": 5, "trigger_metadata": {"mention_total_limit": 51}},
        {"exempt_roles": ["1"]},
        {"exempt_channels": ["1"]},
        {"exempt_roles": [str(n) for n in range(21)]},
        {"name": ""},
    ],
    ids=lambda wish: msgspec.json.encode(wish).decode()[:60],
)
async def test_a_rule_makes_sense(town: Town, ada: Person, wish: dict[str, Any]) -> None:
    guild = await town.guild(ada)
    with refused(400, 50035):
        await make_rule(ada, guild, **wish)


async def test_rules_hold_on_every_node_and_are_acted_upon_once(open_town: OpenTown) -> None:
    here, there = await open_town(), await open_town()
    there.shares_people_with(here)
    ada, bob = await here.person("ada"), await there.person("bob")
    guild = await here.guild(ada, bob)
    await ada.connect()
    rule = await make_rule(ada, guild)
    one = f"{rules_path(guild)}/{rule['id']}"
    # From the moment that Ada is answered, every time.
    for n in range(5):
        with refused(400, 200000):
            await bob.say(guild.channel_id, f"darn {n}")
        await ada.patch(one, {"enabled": False})
        await bob.say(guild.channel_id, f"darn {n}")
        await ada.patch(one, {"enabled": True})
    await settled(ada, guild, bob)
    for n in range(5):
        assert heard(ada, "AUTO_MODERATION_ACTION_EXECUTION", content=f"darn {n}") == 1


def no_ids() -> Snowflake:
    raise AssertionError("what is swept makes nothing")


async def test_what_was_said_is_forgotten_once_it_was_acted_upon(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await make_rule(ada, guild)
    await settled(ada, guild, bob)
    app = town.app
    assert app is not None
    assert await hits_of(app) == [("", None, True)]
    clock = StandingClock()
    automod = AutomodService(
        app.db,
        GuildService(app.db, no_ids, AuditTrail(no_ids)),
        audit=AuditTrail(no_ids),
        new_id=no_ids,
        clock=clock,
    )
    # Its clock is years ahead.
    assert await automod.sweep(100) == 1
    assert await automod.act() is False
    assert await hits_of(app) == []


async def test_a_hit_that_can_not_be_acted_upon_holds_up_no_other(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    alert = {"type": 2, "metadata": {"channel_id": guild.channel_id}}
    rule = await make_rule(ada, guild, actions=[alert])
    app = town.app
    assert app is not None
    # From here on the test does what the server's own task does.
    await app.background.stop()
    factory = SnowflakeFactory(900, 0, 2**60)

    def new_id() -> Snowflake:
        return factory.make(int(time.time() * 1000))

    audit = AuditTrail(new_id)
    guilds = GuildService(app.db, new_id, audit)
    automod = AutomodService(app.db, guilds, audit=audit, new_id=new_id, clock=StandingClock())
    shown: list[str] = []

    async def post_alert(
        _tx: Transaction, _guild_id: Snowflake, _channel_id: Snowflake, _by: User, content: str, /
    ) -> Snowflake:
        if content == "cursed":
            raise ValueError("no such letter")
        shown.append(content)
        return new_id()

    automod.post_alert = post_alert
    hits = [
        Hit(
            id=new_id(),
            guild_id=Snowflake(guild.id),
            rule_id=Snowflake(rule["id"]),
            author_id=Snowflake(bob.id),
            channel_id=Snowflake(guild.channel_id),
            message_id=None,
            key=None,
            content=content,
            matched_keyword=None,
            matched_content=None,
        )
        for content in ("one", "cursed", "two")
    ]
    async with app.db.transaction() as tx:
        await automod.note(tx.conn, hits)

    assert [await automod.act() for _ in range(4)] == [True, True, True, False]
    assert shown == ["one", "two"]
    assert set(await hits_of(app)) == {("", None, True)}


async def hits_of(app: App) -> list[tuple[str, str | None, bool]]:
    async with app.db.read() as conn:
        rows = await conn.fetch("SELECT content, matched_keyword, is_done FROM automod_hits")
    return [tuple(row) for row in rows]


async def test_a_hundred_senders_hold_up_nobody(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    """Rules that are as costly as rules can be, and messages made for them."""
    guild, other = await town.guild(ada, bob), await town.guild(eve)
    patterns = [r"(\w+\s?)*[:;]", r"(?:a?){90}a{90}b", "(a|aa)+$ b"] * 3
    keywords = [f"*{'a' * (n % 50 + 1)}{n}*" for n in range(1000)]
    for _ in range(6):
        await make_rule(
            ada,
            guild,
            trigger_metadata={"keyword_filter": keywords, "regex_patterns": patterns},
        )

    async def say(content: str) -> None:
        while True:
            try:
                await bob.say(guild.channel_id, content)
            except Refused as refusal:
                # There was no time to look at it yet.
                if refusal.status != 503:
                    raise
            else:
                return

    busy = asyncio.gather(*(say("a" * 1990 + f" {n}") for n in range(50)))
    async with asyncio.timeout(15):
        await eve.say(other.channel_id, "I am in no hurry, but still")
        await busy
