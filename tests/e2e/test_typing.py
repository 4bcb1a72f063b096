"""Typing: told to who is there, and to nobody later."""

from tests.support.people import Person, Town


async def test_typing_in_a_guild_says_who_it_is(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    await eve.connect()
    await bob.fence()
    assert await ada.post(f"/channels/{guild.channel_id}/typing") is None

    told = await bob.gateway.expect("TYPING_START", channel_id=guild.channel_id)
    assert told["user_id"] == ada.id
    assert told["guild_id"] == guild.id
    assert told["member"]["user"]["username"] == "ada"
    assert isinstance(told["timestamp"], int)
    await eve.heard_nothing()


async def test_typing_in_a_direct_message_has_no_guild(ada: Person, bob: Person) -> None:
    channel_id = await ada.direct(bob)
    await bob.connect()
    # Who has just arrived is told events from READY on, but what is not logged only once level.
    await bob.fence()
    await ada.post(f"/api/v10/channels/{channel_id}/typing")

    told = await bob.gateway.expect("TYPING_START", channel_id=channel_id)
    assert set(told) == {"channel_id", "user_id", "timestamp"}


async def test_typing_is_not_told_later(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    await bob.fence()
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    await bob.gateway.close()
    await ada.post(f"/channels/{guild.channel_id}/typing")
    sent = await ada.say(guild.channel_id, "done typing")

    gateway = await bob.resume(session_id, seq)
    await bob.fence(gateway)
    assert [frame.d["id"] for frame in gateway.of_type("MESSAGE_CREATE")][:1] == [sent["id"]]
    assert not gateway.of_type("TYPING_START")
