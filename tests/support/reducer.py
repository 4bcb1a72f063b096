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
            "guilds": self.guilds,
        }

    def channels(self, payload: Json) -> dict[str, Json]:
        """The channels among which the one of this payload is."""
        if "guild_id" in payload:
            return self.guilds[payload["guild_id"]]["channels"]  # type: ignore[no-any-return]  # JSON
        return self.private_channels


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
    view.guilds[d.pop("guild_id")]["members"][d["user"]["id"]].update(d)


def _member_remove(view: View, d: Json) -> None:
    guild = view.guilds[d["guild_id"]]
    del guild["members"][d["user"]["id"]]
    guild["member_count"] -= 1


def _channel_put(view: View, d: Json) -> None:
    channels = view.channels(d)
    channels[d["id"]] = {**channels.get(d["id"], {}), **d}


def _channel_delete(view: View, d: Json) -> None:
    del view.channels(d)[d["id"]]


def _message_create(view: View, d: Json) -> None:
    channel = view.channels(d)[d["channel_id"]]
    if channel["last_message_id"] is UNKNOWN:
        return
    last = int(channel["last_message_id"] or 0)
    channel["last_message_id"] = str(max(last, int(d["id"])))


def _message_delete(view: View, d: Json) -> None:
    channel = view.channels(d)[d["channel_id"]]
    gone = d.get("ids") or [d["id"]]
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
    "CHANNEL_CREATE": _channel_put,
    "CHANNEL_UPDATE": _channel_put,
    "CHANNEL_DELETE": _channel_delete,
    "MESSAGE_CREATE": _message_create,
    "MESSAGE_UPDATE": _nothing,
    "MESSAGE_DELETE": _message_delete,
    "MESSAGE_DELETE_BULK": _message_delete,
    "USER_UPDATE": _user_update,
    "TYPING_START": _nothing,
    "PRESENCE_UPDATE": _nothing,
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
