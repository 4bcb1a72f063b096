"""The settings of a guild: its picture, its channels for special things, who may speak at once."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from internal.app import App
from internal.channel.model import ChannelAccess
from internal.guild.model import PartialMember
from internal.permission.model import Standing
from internal.user.model import User
from internal.utils.image import is_animated, media_type_of
from internal.utils.json import Timestamp
from internal.utils.snowflake import EPOCH_MS, Snowflake
from tests.support.moderation import give_role
from tests.support.people import Person, Refused, Town, refused

MANAGE_GUILD = 1 << 5
VIEW_CHANNEL = 1 << 10

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
JPEG = b"\xff\xd8\xff\xe0" + bytes(64)
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(64)
_SCREEN = b"GIF89a" + bytes([1, 0, 1, 0, 0x80, 0, 0]) + bytes(6)
_FRAME = b"\x2c" + bytes(9) + b"\x02\x02\x4c\x01\x00"
_COMMENT = b"\x21\xfe\x03abc\x00"
GIF = _SCREEN + _COMMENT + _FRAME + b";"
MOVING_GIF = _SCREEN + _FRAME + _COMMENT + _FRAME + b";"


def uri(picture: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64encode(picture).decode()}"


async def test_a_guild_is_made_with_its_settings(ada: Person) -> None:
    made = await ada.post(
        "/guilds",
        {
            "name": "Tea house",
            "icon": uri(PNG),
            "verification_level": 2,
            "default_message_notifications": 1,
            "explicit_content_filter": 2,
            "system_channel_flags": 5,
        },
    )
    assert made["verification_level"] == 2
    assert made["default_message_notifications"] == 1
    assert made["explicit_content_filter"] == 2
    assert made["system_channel_flags"] == 5
    assert len(made["icon"]) == 32
    (general,) = made["channels"]
    assert made["system_channel_id"] == general["id"]
    assert made["rules_channel_id"] is None
    shown = await ada.get(f"/guilds/{made['id']}")
    assert {key: made[key] for key in shown if key in made} == shown


async def test_settings_are_changed_and_told(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    rules = await ada.post("/channels", {"guild_id": guild.id, "name": "rules"})
    await bob.connect()
    wish = {
        "verification_level": 1,
        "default_message_notifications": 1,
        "explicit_content_filter": 1,
        "system_channel_id": None,
        "system_channel_flags": 3,
        "rules_channel_id": rules["id"],
        "preferred_locale": "de",
    }
    changed = await ada.patch(f"/guilds/{guild.id}", wish)

    told = await bob.gateway.expect("GUILD_UPDATE", id=guild.id)
    for answer in (changed, told, await bob.get(f"/guilds/{guild.id}")):
        assert {key: answer[key] for key in wish} == wish
    # Null brings back what a new guild has.
    reset = await ada.patch(
        f"/guilds/{guild.id}", {"verification_level": None, "preferred_locale": None}
    )
    assert (reset["verification_level"], reset["preferred_locale"]) == (0, "en-US")
    assert reset["default_message_notifications"] == 1


async def test_a_guild_becomes_public_and_private_by_its_features(ada: Person, bob: Person) -> None:
    made = await ada.post("/guilds", {"name": "Tea house"})
    path = f"/guilds/{made['id']}"
    assert (await ada.patch(path, {"features": ["DISCOVERABLE", "NEWS"]}))["features"] == [
        "DISCOVERABLE"
    ]
    assert [guild["id"] for guild in await bob.get("/guilds")] == [made["id"]]
    assert (await ada.patch(path, {"features": []}))["discoverable"] is False
    assert await bob.get("/guilds") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("verification_level", 5),
        ("verification_level", -1),
        ("verification_level", "high"),
        ("default_message_notifications", 2),
        ("explicit_content_filter", 3),
        ("system_channel_flags", 64),
        ("preferred_locale", "klingon"),
        ("rules_channel_id", "x"),
        ("features", "DISCOVERABLE"),
        ("icon", "x"),
        ("icon", "data:image/png;base64,***"),
        ("icon", "data:image/png," + "00" * 10),
        ("icon", uri(b"<svg onload='alert(1)'/>", "image/svg+xml")),
        ("icon", uri(b"<html>", "image/png")),
        ("icon", uri(PNG + bytes(256 << 10))),
        ("icon", "data:image/png;base64," + "A" * (512 << 10)),
        ("icon", 7),
    ],
)
async def test_a_bad_setting_is_refused_by_field(
    town: Town, ada: Person, field: str, value: Any
) -> None:
    guild = await town.guild(ada)
    before = await ada.get(f"/guilds/{guild.id}")
    with pytest.raises(Refused) as refusal:
        await ada.patch(f"/guilds/{guild.id}", {field: value})
    assert (refusal.value.status, refusal.value.code) == (400, 50035)
    assert field in refusal.value.body["errors"]
    assert await ada.get(f"/guilds/{guild.id}") == before


async def test_the_channels_that_a_guild_points_at_are_its_own(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild, other = await town.guild(ada, bob), await town.guild(ada, name="Elsewhere")
    secret = await ada.post("/channels", {"guild_id": guild.id, "name": "secret"})
    await give_role(app, guild, bob, MANAGE_GUILD, 3)
    direct = await ada.direct(bob)
    async with app.db.read() as conn:
        await conn.execute(
            "INSERT INTO channel_overwrites VALUES ($1, $2, 0, 0, $3)",
            int(secret["id"]),
            int(guild.id),
            VIEW_CHANNEL,
        )
    path = f"/guilds/{guild.id}"
    for field in ("system_channel_id", "rules_channel_id"):
        for channel_id in (other.channel_id, direct, "1", guild.id):
            with refused(404, 10003):
                await ada.patch(path, {field: channel_id})
        # Nor one that the actor can't see.
        with refused(404, 10003):
            await bob.patch(path, {field: secret["id"]})
        assert (await ada.patch(path, {field: secret["id"]}))[field] == secret["id"]
    async with app.db.read() as conn:
        await conn.execute("UPDATE channels SET type = 4 WHERE id = $1", int(guild.channel_id))
    with refused(400, 50024):
        await ada.patch(path, {"rules_channel_id": guild.channel_id})


async def test_a_deleted_channel_is_pointed_at_no_more(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    kitchen = await ada.post("/channels", {"guild_id": guild.id, "name": "kitchen"})
    await ada.patch(f"/guilds/{guild.id}", {"rules_channel_id": guild.channel_id})
    await bob.connect()
    await ada.delete(f"/channels/{kitchen['id']}")
    await bob.heard_nothing("GUILD_UPDATE")
    await ada.delete(f"/channels/{guild.channel_id}")

    told = await bob.gateway.expect("GUILD_UPDATE", id=guild.id)
    assert (told["system_channel_id"], told["rules_channel_id"]) == (None, None)
    shown = await bob.get(f"/guilds/{guild.id}")
    assert (shown["system_channel_id"], shown["rules_channel_id"]) == (None, None)


async def test_only_those_who_manage_the_guild_change_it(
    town: Town, app: App, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = f"/guilds/{guild.id}"
    with refused(403, 50013):
        await bob.patch(path, {"verification_level": 1})
    with refused(404, 10004):
        await eve.patch(path, {"verification_level": 1})
    await give_role(app, guild, bob, MANAGE_GUILD, 3)
    assert (await bob.patch(path, {"verification_level": 1}))["verification_level"] == 1
    # The hand-over is the owner's alone.
    with refused(403, 50013):
        await bob.patch(path, {"owner_id": bob.id})


# The picture.


@pytest.mark.parametrize(
    ("picture", "media_type", "mark"),
    [
        (PNG, "image/png", ""),
        (JPEG, "image/jpeg", ""),
        (WEBP, "image/webp", ""),
        (GIF, "image/gif", ""),
        (MOVING_GIF, "image/gif", "a_"),
    ],
)
async def test_a_picture_is_what_its_bytes_say(
    town: Town, ada: Person, picture: bytes, media_type: str, mark: str
) -> None:
    guild = await town.guild(ada)
    # Whatever its address claims.
    changed = await ada.patch(f"/guilds/{guild.id}", {"icon": uri(picture, "text/html")})
    name = changed["icon"]
    assert name.startswith("a_") == bool(mark)
    shown = await town.stranger.call("GET", f"/icons/{guild.id}/{name}.png")

    assert (shown.status, shown.content) == (200, picture)
    assert shown.headers["Content-Type"] == media_type
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    assert shown.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert shown.headers["ETag"] == f'"{name}"'
    again = await town.stranger.call(
        "GET", f"/icons/{guild.id}/{name}.webp", headers={"If-None-Match": shown.headers["ETag"]}
    )
    assert (again.status, again.content) == (304, b"")
    head = await town.stranger.call("HEAD", f"/icons/{guild.id}/{name}.gif")
    assert (head.status, head.content) == (200, b"")
    listed = (await ada.get("/guilds/my"))[0]
    assert listed["icon"] == name


async def test_a_picture_is_replaced_and_taken_away(town: Town, ada: Person, bob: Person) -> None:
    guild, other = await town.guild(ada, bob), await town.guild(ada, name="Elsewhere")
    path = f"/guilds/{guild.id}"
    first = (await ada.patch(path, {"icon": uri(PNG)}))["icon"]
    await bob.connect()
    # The same picture is no change.
    await ada.patch(path, {"icon": uri(PNG, "image/jpeg")})
    await bob.heard_nothing("GUILD_UPDATE")
    second = (await ada.patch(path, {"icon": uri(JPEG)}))["icon"]
    assert (await bob.gateway.expect("GUILD_UPDATE", id=guild.id))["icon"] == second

    async def status(guild_id: str, name: str) -> int:
        return (await town.stranger.call("GET", f"/icons/{guild_id}/{name}.png")).status

    assert await status(guild.id, second) == 200
    assert await status(guild.id, first) == 404
    assert await status(other.id, second) == 404
    assert await status(guild.id, "../secrets") == 404
    log = await ada.get(f"{path}/audit-logs", limit=1)
    assert log["audit_log_entries"][0]["changes"] == [
        {"key": "icon_hash", "old_value": first, "new_value": second}
    ]
    assert (await ada.patch(path, {"icon": None}))["icon"] is None
    assert await status(guild.id, second) == 404


@pytest.mark.parametrize("length", range(len(MOVING_GIF)))
def test_a_gif_that_breaks_off_stops_nobody(length: int) -> None:
    whole = MOVING_GIF[:length]
    assert is_animated(whole) is (length > MOVING_GIF.rindex(_FRAME))
    assert (media_type_of(whole) is None) == (length < 6)


# Counts and preview.


async def test_who_is_there_is_counted_on_request(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = f"/guilds/{guild.id}"
    assert "approximate_presence_count" not in await ada.get(path)
    counts = await ada.get(path, with_counts="true")
    assert counts["approximate_member_count"] == 2
    assert counts["approximate_presence_count"] == 0
    await ada.connect()
    await bob.connect()
    await ada.gateway.expect("PRESENCE_UPDATE", guild_id=guild.id, status="online")
    counts = await ada.get(path, with_counts="true")
    assert 1 <= counts["approximate_presence_count"] <= 2


async def test_a_preview_is_for_those_who_may_join(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada)
    path = f"/guilds/{guild.id}/preview"
    preview = await eve.get(f"/api/v10{path}")
    assert preview == {
        "id": guild.id,
        "name": "Tea house",
        "icon": None,
        "description": None,
        "home_header": None,
        "splash": None,
        "discovery_splash": None,
        "features": ["DISCOVERABLE"],
        "emojis": [],
        "stickers": [],
        "approximate_member_count": 1,
        "approximate_presence_count": 0,
    }
    await bob.post(f"/guilds/{guild.id}/join")
    await ada.patch(f"/guilds/{guild.id}", {"discoverable": False})
    with refused(404, 10004):
        await eve.get(path)
    assert (await bob.get(path))["approximate_member_count"] == 2
    with refused(401):
        await town.stranger.get(path)


# Verification.


async def test_newcomers_wait_before_they_speak(
    town: Town, app: App, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    await give_role(app, guild, eve, 0, 1)
    for level, may in ((0, True), (1, True), (2, False), (3, False), (4, False)):
        await ada.patch(f"/guilds/{guild.id}", {"verification_level": level})
        if may:
            await bob.say(guild.channel_id, f"at level {level}")
        else:
            with refused(403, 40002):
                await bob.say(guild.channel_id, f"at level {level}")
        # Who has a role is known to the guild, and so is its owner.
        await eve.say(guild.channel_id, "I am known")
        await ada.say(guild.channel_id, "I own it")
    # Elsewhere he may speak.
    await bob.say(await bob.direct(ada), "psst")


async def test_a_refused_send_does_not_use_up_its_key(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.patch(f"/guilds/{guild.id}", {"verification_level": 2})
    with refused(403, 40002):
        await bob.say(guild.channel_id, "hello", nonce="1", enforce_nonce=True)
    await ada.patch(f"/guilds/{guild.id}", {"verification_level": 0})
    sent = await bob.say(guild.channel_id, "hello", nonce="1", enforce_nonce=True)
    assert sent["content"] == "hello"


NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def newcomer(level: int, *, account: timedelta, member: timedelta) -> ChannelAccess:
    """Somebody with an account, and a member, for so long."""
    made_ms = int((NOW - account).timestamp() * 1000) - EPOCH_MS
    user_id, guild_id = Snowflake(made_ms << 22), Snowflake(1)
    return ChannelAccess(
        channel_id=Snowflake(2),
        type=0,
        user=User(id=user_id, username="bob"),
        permissions=0,
        verification_level=level,
        guild_id=guild_id,
        member=PartialMember(joined_at=Timestamp.at(NOW - member)),
        standing=Standing(user_id, guild_id, 0),
    )


@pytest.mark.parametrize(
    ("level", "account_s", "member_s", "is_verified"),
    [
        (0, 0, 0, True),
        (1, 0, 0, True),
        (2, 299, 299, False),
        (2, 300, 0, True),
        (3, 299, 600, False),
        (3, 900, 599, False),
        (3, 900, 600, True),
        (4, 900, 599, False),
        (4, 900, 600, True),
    ],
)
def test_time_makes_known(level: int, account_s: int, member_s: int, *, is_verified: bool) -> None:
    access = newcomer(
        level, account=timedelta(seconds=account_s), member=timedelta(seconds=member_s)
    )
    assert access.is_verified(NOW) is is_verified
