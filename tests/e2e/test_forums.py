"""Forums: channels whose threads are posts with tags."""

from typing import Any

import pytest

from tests.support.people import Guild, Person, Town, refused

REQUIRE_TAG, PINNED = 1 << 4, 1 << 1
FIRST = {"message": {"content": "How do I bake?"}}


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    return await town.guild(ada, bob)


@pytest.fixture
async def forum(ada: Person, guild: Guild) -> Any:
    return await ada.post(
        "/channels",
        {
            "guild_id": guild.id,
            "name": "questions",
            "type": 15,
            "available_tags": [
                {"name": "bread"},
                {"name": "solved", "moderated": True},
                *({"name": f"tag{number}"} for number in range(4)),
            ],
        },
    )


def tags(forum: Any, *places: int) -> list[str]:
    return [forum["available_tags"][place]["id"] for place in places]


async def post(person: Person, forum: Any, **more: Any) -> Any:
    return await person.post(f"/channels/{forum['id']}/threads", {"name": "Bread", **FIRST, **more})


async def test_a_post_begins_with_a_message_of_its_own_id(
    ada: Person, bob: Person, forum: Any
) -> None:
    await ada.connect()
    made = await post(bob, forum, applied_tags=tags(forum, 0))
    assert (made["type"], made["parent_id"], made["owner_id"]) == (11, forum["id"], bob.id)
    assert made["applied_tags"] == tags(forum, 0)
    assert made["message"]["id"] == made["id"] == made["message"]["channel_id"]
    assert made["message"]["content"] == "How do I bake?"
    assert (made["message_count"], made["last_message_id"]) == (0, made["id"])
    told = await ada.gateway.expect("THREAD_CREATE", id=made["id"])
    assert told["newly_created"]
    first = await ada.gateway.expect("MESSAGE_CREATE", id=made["id"])
    assert first["member"]["joined_at"]
    answer = await ada.say(made["id"], "With flour")
    thread = await ada.get(f"/channels/{made['id']}")
    assert (thread["message_count"], thread["last_message_id"]) == (1, answer["id"])

    await bob.delete(f"/messages/{made['id']}/{made['id']}")
    assert (await ada.get(f"/channels/{made['id']}"))["message_count"] == 1


async def test_a_post_needs_something_to_read(bob: Person, forum: Any) -> None:
    path = f"/channels/{forum['id']}/threads"
    with refused(400, 50035):
        await bob.post(path, {"name": "Bread"})
    with refused(400, 50006):
        await bob.post(path, {"name": "Bread", "message": {"content": "  "}})
    with refused(400, 50035):
        await bob.post(path, {"name": "Bread", "message": {"content": "x" * 2001}})
    with refused(400, 50008):
        await bob.say(forum["id"], "not in a post")
    assert (await bob.get(f"/guilds/{forum['guild_id']}/threads/active"))["threads"] == []


async def test_tags_are_those_of_the_forum_and_some_are_for_moderators(
    ada: Person, bob: Person, forum: Any
) -> None:
    with refused(404, 10087):
        await post(bob, forum, applied_tags=["1"])
    with refused(403, 50013):
        await post(bob, forum, applied_tags=tags(forum, 1))
    with refused(400, 50035):
        await post(bob, forum, applied_tags=tags(forum, 0, 1, 2, 3, 4, 5))
    made = await post(bob, forum, applied_tags=tags(forum, 0, 0))
    assert made["applied_tags"] == tags(forum, 0)
    path = f"/channels/{made['id']}"
    with refused(403, 50013):
        await bob.patch(path, {"applied_tags": tags(forum, 0, 1)})
    await ada.patch(path, {"applied_tags": tags(forum, 0, 1)})
    with refused(403, 50013):
        await bob.patch(path, {"applied_tags": tags(forum, 0)})
    changed = await bob.patch(path, {"applied_tags": tags(forum, 1, 2)})
    assert changed["applied_tags"] == tags(forum, 1, 2)


async def test_a_forum_may_insist_on_a_tag(ada: Person, bob: Person, forum: Any) -> None:
    await ada.patch(f"/channels/{forum['id']}", {"flags": REQUIRE_TAG})
    with refused(400, 40067):
        await post(bob, forum)
    made = await post(bob, forum, applied_tags=tags(forum, 0))
    with refused(400, 40067):
        await bob.patch(f"/channels/{made['id']}", {"applied_tags": []})


async def test_one_post_is_pinned_by_a_moderator(ada: Person, bob: Person, forum: Any) -> None:
    one, other = [await post(bob, forum) for _ in range(2)]
    with refused(403, 50013):
        await bob.patch(f"/channels/{one['id']}", {"flags": PINNED})
    assert (await ada.patch(f"/channels/{one['id']}", {"flags": PINNED}))["flags"] == PINNED
    with refused(400, 30047):
        await ada.patch(f"/channels/{other['id']}", {"flags": PINNED})
    await ada.patch(f"/channels/{one['id']}", {"flags": 0})
    await ada.patch(f"/channels/{other['id']}", {"flags": PINNED})
