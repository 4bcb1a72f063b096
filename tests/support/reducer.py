"""What a client knows: READY and the guilds, carried on by events. And the law that it stays true.

The sync law: READY, and the events after it, give what a fresh READY gives.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

from tests.support.gateway import Frame, Gateway
from tests.support.people import Person

Json = Any

# Once the last message of a channel was deleted, a client can't know which one is the last: the
# field then stands for anything.
UNKNOWN = object()

# These name one connection, not the state.
_OF_THE_CONNECTION = {"session_id", "resume_gateway_url", "_trace"}
_PRIVATE_THREAD = 12
# A guild with more members is large: a client knows some of them, and how many there are.
_LARGE = 250
_LISTS = ("channels", "members", "roles", "threads", "emojis", "stickers")


class View:
    """The state of a client, by ids where the wire has lists."""

    def __init__(self) -> None:
        self.ready: dict[str, Json] = {}
        self.private_channels: dict[str, Json] = {}
        self.guilds: dict[str, Json] = {}

    def apply(self, frame: Frame) -> None:
        """Take an event. One that this client has never heard of is a fault of the test suite."""
        assert frame.t in EFFECTS, f"{frame.t} is not known to the reducer"
        EFFECTS[frame.t](self, deepcopy(frame.d))

    def state(self) -> dict[str, Json]:
        return {
            "ready": self.ready,
            "private_channels": self.private_channels,
            "guilds": {key: _of_whom_all_are_known(guild) for key, guild in self.guilds.items()},
        }

    def channels(self, payload: Json) -> dict[str, Json]:
        """The channels among which the one of this payload is."""
        if "guild_id" in payload:
            return self.guilds[payload["guild_id"]]["channels"]  # type: ignore[no-any-return]  # JSON
        return self.private_channels

    def place(self, payload: Json) -> Json:
        """The channel or the active thread that the message of this payload is in, if known."""
        channel_id = payload["channel_id"]
        threads = self.guilds[payload["guild_id"]]["threads"] if "guild_id" in payload else {}
        return self.channels(payload).get(channel_id) or threads.get(channel_id)


def _of_whom_all_are_known(guild: Json) -> Json:
    """A guild, whose members can be compared only if no client had to ask for them."""
    if not guild["large"] and guild["member_count"] <= _LARGE:
        return guild
    return {**guild, "large": UNKNOWN, "members": UNKNOWN}


def _ready(view: View, d: Json) -> None:
    view.private_channels = _by_id(d.pop("private_channels", []))
    view.guilds = {}
    d["guilds"] = sorted(guild["id"] for guild in d["guilds"])
    view.ready = {key: value for key, value in d.items() if key not in _OF_THE_CONNECTION}


def _guild_create(view: View, d: Json) -> None:
    for name in _LISTS:
        d[name] = _by_id(d.get(name, []))
    # Who is there is promised to nobody: it is not in the log.
    d.pop("presences", None)
    view.guilds[d["id"]] = d
    _know(view)


def _guild_update(view: View, d: Json) -> None:
    guild = view.guilds[d["id"]]
    for name in _LISTS:
        if name in d:
            d[name] = _by_id(d[name])
    guild.update(d)


def _guild_delete(view: View, d: Json) -> None:
    del view.guilds[d["id"]]
    _know(view)


def _know(view: View) -> None:
    """READY lists the guilds; it is kept in step, so that it can be compared as a whole."""
    view.ready["guilds"] = sorted(view.guilds)


def _member_add(view: View, d: Json) -> None:
    guild = view.guilds[d.pop("guild_id")]
    assert d["user"]["id"] not in guild["members"], "added twice"
    guild["members"][d["user"]["id"]] = d
    guild["member_count"] += 1


def _member_update(view: View, d: Json) -> None:
    guild = view.guilds[d.pop("guild_id")]
    members, user_id = guild["members"], d["user"]["id"]
    if guild["large"]:
        # It need not be known, and then it is from now on.
        members.setdefault(user_id, {})
    members[user_id].update(d)


def _member_remove(view: View, d: Json) -> None:
    guild = view.guilds[d["guild_id"]]
    known = guild["members"].pop(d["user"]["id"], None)
    assert known is not None or guild["large"], "removed and not there"
    guild["member_count"] -= 1


def _members_chunk(view: View, d: Json) -> None:
    """What is known already may be told again; it says nothing that the events did not."""
    guild = view.guilds[d["guild_id"]]
    for member in d["members"]:
        member.pop("guild_id", None)
        known = guild["members"].setdefault(member["user"]["id"], member)
        assert known == member, f"a chunk says {member!r} of {known!r}"


def _role_put(view: View, d: Json) -> None:
    view.guilds[d["guild_id"]]["roles"][d["role"]["id"]] = d["role"]


def _role_delete(view: View, d: Json) -> None:
    """Members lose it with this event alone. What channels said of it is told by each of them."""
    guild = view.guilds[d["guild_id"]]
    del guild["roles"][d["role_id"]]
    for member in guild["members"].values():
        member["roles"] = [role for role in member["roles"] if role != d["role_id"]]


def _channel_put(view: View, d: Json) -> None:
    channels = view.channels(d)
    channels[d["id"]] = {**channels.get(d["id"], {}), **d}


def _channel_delete(view: View, d: Json) -> None:
    """With a channel go its threads."""
    del view.channels(d)[d["id"]]
    if "guild_id" in d:
        guild = view.guilds[d["guild_id"]]
        guild["threads"] = {
            thread_id: thread
            for thread_id, thread in guild["threads"].items()
            if thread["parent_id"] != d["id"]
        }


def _thread_put(view: View, d: Json) -> None:
    """Of threads, a client keeps the active ones. Who is told of one knows nobody's membership."""
    threads = view.guilds[d["guild_id"]]["threads"]
    d.pop("newly_created", None)
    if d["thread_metadata"]["archived"]:
        threads.pop(d["id"], None)
    else:
        threads[d["id"]] = {**threads.get(d["id"], {}), **d}


def _thread_delete(view: View, d: Json) -> None:
    view.guilds[d["guild_id"]]["threads"].pop(d["id"], None)


def _thread_members(view: View, d: Json) -> None:
    """Others are counted; whoever is taken out of a private thread does not see it any more."""
    threads = view.guilds[d["guild_id"]]["threads"]
    thread, own_id = threads[d["id"]], view.ready["user"]["id"]
    thread["member_count"] = d["member_count"]
    for member in d.get("added_members", []):
        if member["user_id"] == own_id:
            assert member["member"]["user"]["id"] == own_id
            thread["member"] = {
                key: member[key] for key in ("id", "user_id", "join_timestamp", "flags")
            }
    if own_id in d.get("removed_member_ids", []):
        thread.pop("member", None)
        if thread["type"] == _PRIVATE_THREAD:
            del threads[d["id"]]


def _own_thread_member(view: View, d: Json) -> None:
    view.guilds[d.pop("guild_id")]["threads"][d["id"]]["member"] = d


def _recipient_add(view: View, d: Json) -> None:
    channel = view.private_channels[d["channel_id"]]
    assert d["user"]["id"] not in {user["id"] for user in channel["recipients"]}, "added twice"
    channel["recipients"] = sorted([*channel["recipients"], d["user"]], key=lambda u: int(u["id"]))


def _recipient_remove(view: View, d: Json) -> None:
    channel = view.private_channels[d["channel_id"]]
    remaining = [user for user in channel["recipients"] if user["id"] != d["user"]["id"]]
    assert len(remaining) == len(channel["recipients"]) - 1, "was not there"
    channel["recipients"] = remaining


def _thread_list_sync(view: View, d: Json) -> None:
    """These are all the active threads of these channels that one may see."""
    guild = view.guilds[d["guild_id"]]
    kept = [one for one in guild["threads"].values() if one["parent_id"] not in d["channel_ids"]]
    guild["threads"] = _by_id([*kept, *d["threads"]])
    for member in d["members"]:
        guild["threads"][member["id"]]["member"] = member


def _message_create(view: View, d: Json) -> None:
    channel = view.place(d)
    if "message_count" in channel and d["id"] != d["channel_id"]:
        channel["message_count"] += 1
        channel["total_message_sent"] += 1
    if channel["last_message_id"] is UNKNOWN:
        return
    last = int(channel["last_message_id"] or 0)
    channel["last_message_id"] = str(max(last, int(d["id"])))


def _message_delete(view: View, d: Json) -> None:
    channel = view.place(d)
    if channel is None:
        # In a thread that is archived.
        return
    gone = d.get("ids") or [d["id"]]
    if "message_count" in channel:
        channel["message_count"] -= sum(one != d["channel_id"] for one in gone)
    if channel["last_message_id"] in gone:
        channel["last_message_id"] = UNKNOWN


def _user_update(view: View, d: Json) -> None:
    view.ready["user"].update(d)


def _nothing(_view: View, _d: Json) -> None:
    """Nothing of the state that READY tells."""


EFFECTS: dict[str, Callable[[View, Json], None]] = {
    "READY": _ready,
    "RESUMED": _nothing,
    "GUILD_CREATE": _guild_create,
    "GUILD_UPDATE": _guild_update,
    "GUILD_DELETE": _guild_delete,
    "GUILD_MEMBER_ADD": _member_add,
    "GUILD_MEMBER_UPDATE": _member_update,
    "GUILD_MEMBER_REMOVE": _member_remove,
    "GUILD_ROLE_CREATE": _role_put,
    "GUILD_ROLE_UPDATE": _role_put,
    "GUILD_ROLE_DELETE": _role_delete,
    "GUILD_BAN_ADD": _nothing,
    "GUILD_BAN_REMOVE": _nothing,
    "GUILD_AUDIT_LOG_ENTRY_CREATE": _nothing,
    "INVITE_CREATE": _nothing,
    "INVITE_DELETE": _nothing,
    "MESSAGE_REPORT_CREATE": _nothing,
    "MESSAGE_REPORT_UPDATE": _nothing,
    "AUTO_MODERATION_RULE_CREATE": _nothing,
    "AUTO_MODERATION_RULE_UPDATE": _nothing,
    "AUTO_MODERATION_RULE_DELETE": _nothing,
    "AUTO_MODERATION_ACTION_EXECUTION": _nothing,
    "CHANNEL_CREATE": _channel_put,
    "CHANNEL_UPDATE": _channel_put,
    "CHANNEL_DELETE": _channel_delete,
    "CHANNEL_RECIPIENT_ADD": _recipient_add,
    "CHANNEL_RECIPIENT_REMOVE": _recipient_remove,
    "THREAD_CREATE": _thread_put,
    "THREAD_UPDATE": _thread_put,
    "THREAD_DELETE": _thread_delete,
    "THREAD_MEMBERS_UPDATE": _thread_members,
    "THREAD_MEMBER_UPDATE": _own_thread_member,
    "THREAD_LIST_SYNC": _thread_list_sync,
    "MESSAGE_CREATE": _message_create,
    "MESSAGE_UPDATE": _nothing,
    "MESSAGE_DELETE": _message_delete,
    "MESSAGE_DELETE_BULK": _message_delete,
    "USER_UPDATE": _user_update,
    "TYPING_START": _nothing,
    "PRESENCE_UPDATE": _nothing,
    # Answers to one connection.
    "GUILD_MEMBERS_CHUNK": _members_chunk,
    "GUILD_MEMBER_LIST_UPDATE": _nothing,
    "RATE_LIMITED": _nothing,
}


def view_of(*connections: Gateway) -> View:
    """What a connection has told so far, and those that resumed it after it."""
    view = View()
    for gateway in connections:
        for frame in gateway.dispatches:
            view.apply(frame)
    return view


@asynccontextmanager
async def unchanged_view(*people: Person) -> AsyncIterator[list[Gateway]]:
    """What is done inside may change these people's state only by telling them how.

    Yields a connection of each, in their order.
    """
    watching = [await person.watch() for person in people]
    yield watching
    for person, gateway in zip(people, watching, strict=True):
        await person.fence(gateway)
        fresh = await person.watch()
        told, true = view_of(gateway).state(), view_of(fresh).state()
        different = list(differences(told, true))
        assert not different, f"{person.username} was told otherwise: {different}"


def differences(told: Json, true: Json, path: str = "") -> Iterator[str]:
    """Where two states differ, as sentences."""
    if told is UNKNOWN or true is UNKNOWN:
        return
    if isinstance(told, dict) and isinstance(true, dict):
        for key in sorted({*told, *true}):
            if key not in told:
                yield f"{path}.{key} is {true[key]!r} and was not told"
            elif key not in true:
                yield f"{path}.{key} was told as {told[key]!r} and is not there"
            else:
                yield from differences(told[key], true[key], f"{path}.{key}")
    elif told != true:
        yield f"{path} was told as {told!r} and is {true!r}"


def _by_id(things: Json) -> dict[str, Json]:
    """A list as a table. Members are known by their users."""
    table = {(thing["user"]["id"] if "user" in thing else thing["id"]): thing for thing in things}
    assert len(table) == len(things), "the same thing twice"
    return table
