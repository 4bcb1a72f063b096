"""The things that requests of the matrix are about: how each comes about, and how it goes."""

from itertools import count
from typing import Final

from tests.support.matrix import NEVER, THINGS, Actor, Place, thing
from tests.support.people import Person

__all__ = ["THINGS"]


async def _end_login(place: Place, session_id: str) -> None:
    await place.owner.delete(f"/auth/sessions/{session_id}")


@thing("session", delete=_end_login)
async def _session(place: Place, _channel_id: str) -> str:
    """Another login of the one who rules the place."""
    other = Person(place.town, place.owner.username)
    await other.login()
    return other.session_id


@thing("user")
async def _user(place: Place, _channel_id: str) -> str:
    return place.target.id


async def _who_left(place: Place) -> str:
    return (await place.town.person(Actor.EX_MEMBER.name.lower())).id


@thing("member", gone=_who_left)
async def _member(place: Place, _channel_id: str) -> str:
    return place.target.id


@thing("registration invite")
async def _registration_invite(_place: Place, _channel_id: str) -> str:
    return NEVER


async def _delete_channel(place: Place, channel_id: str) -> None:
    await place.owner.delete(f"/channels/{channel_id}")


@thing("channel", delete=_delete_channel)
async def _channel(place: Place, _channel_id: str) -> str:
    made = await place.owner.post("/channels", {"guild_id": place.guild_id, "name": "another"})
    return str(made["id"])


async def _delete_message(place: Place, message_id: str) -> None:
    await place.owner.delete(f"/messages/{place.channel_id}/{message_id}")


@thing("message", delete=_delete_message, of_channel=True)
async def _message(place: Place, channel_id: str) -> str:
    """What somebody said who does nothing else."""
    return str((await place.target.say(channel_id, "hello"))["id"])


@thing("message of a member", delete=_delete_message, of_channel=True)
async def _message_of_a_member(place: Place, channel_id: str) -> str:
    author = place.members.get(Actor.MEMBER, place.target)
    return str((await author.say(channel_id, "hello"))["id"])


# Of guilds.


async def _delete_role(place: Place, role_id: str) -> None:
    await place.owner.delete(f"/guilds/{place.guild_id}/roles/{role_id}")


@thing("role", delete=_delete_role)
async def _role(place: Place, _channel_id: str) -> str:
    """One that nobody has, below all others."""
    made = await place.owner.post(f"/guilds/{place.guild_id}/roles", {"name": "another"})
    return str(made["id"])


@thing("ruler", gone=_who_left)
async def _ruler(place: Place, _channel_id: str) -> str:
    return place.owner.id


async def _pardoned(place: Place) -> str:
    pardoned = await place.town.person("pardoned")
    path = f"/guilds/{place.guild_id}/bans/{pardoned.id}"
    await place.owner.put(path, {})
    await place.owner.delete(path)
    return pardoned.id


@thing("ban", gone=_pardoned)
async def _ban(place: Place, _channel_id: str) -> str:
    """Somebody who is banned here, and only here."""
    convict = await place.town.person(f"convict_of_{place.owner.username}"[:32])
    await place.owner.put(f"/guilds/{place.guild_id}/bans/{convict.id}", {})
    return convict.id


@thing("icon")
async def _icon(_place: Place, _channel_id: str) -> str:
    return "0" * 32


@thing("category", delete=_delete_channel)
async def _category(place: Place, _channel_id: str) -> str:
    wish = {"guild_id": place.guild_id, "name": "category", "type": 4}
    return str((await place.owner.post("/channels", wish))["id"])


async def _take_invite_back(place: Place, code: str) -> None:
    await place.owner.delete(f"/invites/{code}")


@thing("invite", delete=_take_invite_back)
async def _invite(place: Place, channel_id: str) -> str:
    made = await place.owner.post(f"/channels/{channel_id}/invites", {"unique": True})
    return str(made["code"])


@thing("report")
async def _report(place: Place, channel_id: str) -> str:
    """That somebody said something who does nothing else."""
    said = await place.target.say(channel_id, "what is reported")
    path = f"/channels/{channel_id}/messages/{said['id']}/report"
    return str((await place.owner.post(path, {"reason": "rude"}))["id"])


async def _delete_rule(place: Place, rule_id: str) -> None:
    await place.owner.delete(f"/guilds/{place.guild_id}/auto-moderation/rules/{rule_id}")


@thing("rule", delete=_delete_rule)
async def _rule(place: Place, _channel_id: str) -> str:
    body = {
        "name": "no hares",
        "event_type": 1,
        "trigger_type": 1,
        "trigger_metadata": {"keyword_filter": ["hare"]},
        "actions": [{"type": 1}],
    }
    path = f"/guilds/{place.guild_id}/auto-moderation/rules"
    return str((await place.owner.post(path, body))["id"])


# Of channels.


async def _no_overwrite(place: Place) -> str:
    path = f"/channels/{place.channel_id}/permissions/{place.roles['administrator']}"
    await place.owner.put(path, {"type": 0, "allow": "0", "deny": "2048"})
    await place.owner.delete(path)
    return place.roles["administrator"]


@thing("overwrite", gone=_no_overwrite, of_channel=True)
async def _overwrite(place: Place, channel_id: str) -> str:
    """Of a role in the channel of the place; in another channel, of another role."""
    role_id = place.roles["role" if channel_id == place.channel_id else "moderator"]
    body = {"type": 0, "allow": "0", "deny": "2048"}
    await place.owner.put(f"/channels/{channel_id}/permissions/{role_id}", body)
    return role_id


_PUBLIC: Final = 11
_PRIVATE: Final = 12
_numbers = count()


async def _start(place: Place, channel_id: str, kind: int) -> str:
    """A thread of somebody who does nothing else."""
    wish = {"name": f"thread {next(_numbers)}", "type": kind}
    return str((await place.target.post(f"/channels/{channel_id}/threads", wish))["id"])


@thing("thread", delete=_delete_channel, of_channel=True)
async def _thread(place: Place, channel_id: str) -> str:
    return await _start(place, channel_id, _PUBLIC)


@thing("private thread", delete=_delete_channel, of_channel=True)
async def _private_thread(place: Place, channel_id: str) -> str:
    return await _start(place, channel_id, _PRIVATE)


# Of groups.


async def _ended_group(place: Place) -> str:
    """Everybody has left it."""
    other = await place.town.person("outsider")
    recipients = {"recipients": [place.target.id, other.id]}
    group = await place.owner.post("/users/@me/channels", recipients)
    for person in (other, place.target, place.owner):
        await person.delete(f"/channels/{group['id']}")
    return str(group["id"])


@thing("group", gone=_ended_group)
async def _group(place: Place, _channel_id: str) -> str:
    """One that rules it, and others of the place, but for who sees nothing."""
    others = [place.target, *(place.members[one] for one in _IN_GROUPS if one in place.members)]
    recipients = [one.id for one in others]
    if len(recipients) < 2:
        recipients.append((await place.town.person("leaver")).id)
    group = await place.owner.post("/users/@me/channels", {"recipients": recipients})
    return str(group["id"])


@thing("newcomer")
async def _newcomer(place: Place, _channel_id: str) -> str:
    return (await place.town.person("outsider")).id


_IN_GROUPS: Final = (Actor.MEMBER, Actor.MODERATOR, Actor.ADMINISTRATOR)
