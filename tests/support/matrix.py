"""The matrix: who may do what to what, worked out from a few words about each route, and tried.

An expectation says which permission a route needs and what kind of thing it takes. From it follows
what everyone must be answered for every kind of object; the world below is where it is tried.
"""

import itertools
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal

import msgspec
from typing_extensions import override

from internal.db.postgres import Conn, Database
from internal.errors import AppError, type_by_code
from internal.permission.model import ALL, EVERYONE_DEFAULT, NOTHING, Permission, allows
from internal.routes.route import Route
from internal.utils.snowflake import EPOCH_MS
from tests.support.people import Answer, Api, Person, Town

PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
NEVER: Final = "175928847299117063"

# Answers: a status, or a refusal as its status and code.
Outcome = int | tuple[int, int]

NOBODY: Final[Outcome] = (401, 40001)
NO_CHANNEL: Final[Outcome] = (404, 10003)
NO_GUILD: Final[Outcome] = (404, 10004)
NO_INVITE: Final[Outcome] = (404, 10006)
FORBIDDEN: Final[Outcome] = (403, 50013)

MODERATION: Final = (
    EVERYONE_DEFAULT
    | Permission.KICK_MEMBERS
    | Permission.BAN_MEMBERS
    | Permission.VIEW_AUDIT_LOG
    | Permission.MANAGE_MESSAGES
    | Permission.MENTION_EVERYONE
    | Permission.MANAGE_NICKNAMES
    | Permission.MANAGE_ROLES
    | Permission.MANAGE_THREADS
    | Permission.MODERATE_MEMBERS
    | Permission.PIN_MESSAGES
)


class Actor(StrEnum):
    """Who asks. Each but the last three is what it is in the guild at home."""

    ANONYMOUS = "anonymous"
    BANNED = "banned"
    EX_MEMBER = "ex-member"
    UNSEEING = "member without VIEW"
    MEMBER = "member"
    MODERATOR = "moderator"
    ADMINISTRATOR = "administrator"
    OWNER = "owner"
    FOREIGN_OWNER = "owner of another guild"
    BOT = "bot"


class Kind(StrEnum):
    """What is asked for."""

    OWN = "own"
    FOREIGN = "foreign"
    DELETED = "deleted"
    NONEXISTENT = "nonexistent"
    OTHER_PARENT = "of another parent"


MISSING: Final = frozenset({Kind.DELETED, Kind.NONEXISTENT, Kind.OTHER_PARENT})
HELD: Final = {
    Actor.UNSEEING: EVERYONE_DEFAULT,
    Actor.MEMBER: EVERYONE_DEFAULT,
    Actor.MODERATOR: int(MODERATION),
    Actor.ADMINISTRATOR: ALL,
    Actor.OWNER: ALL,
}
# How high the roles of the guild at home stand.
POSITIONS: Final = {"administrator": 4, "moderator": 3, "insider": 2, "role": 1}

Scope = Literal["public", "account", "owned", "guild", "channel", "invite"]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a route needs, and what it answers to those who have it."""

    scope: Scope
    needs: int = NOTHING
    # At addresses that do not name the target: what one may do about oneself.
    needs_alone: int | None = None
    # What strangers are told of one that is there; as a rule that it is not.
    stranger: Outcome | None = None
    # Whether even administrators may not.
    for_owner: bool = False
    # The parameter whose object is own, foreign, deleted and so on; those before it are at home.
    target: str | None = None
    # What is said when that is missing, to those who may know.
    unknown: Outcome | None = None
    # By kind, where one kind of missing is told otherwise.
    unknown_as: Mapping[Kind, Outcome] = field(default_factory=dict)
    # Whether the thing is looked for before it is asked what the actor may.
    looks_first: bool = False
    # Members for whom the door is not there.
    hides_from: frozenset[Actor] = frozenset()
    # What is said of the own one to a member who can't see the channel that it is.
    unseen: Outcome | None = None
    # The answer to those who may, where it is not the route's own status.
    ok: Outcome | None = None
    # And to some of them, where theirs is another.
    but: Mapping[Actor, Outcome] = field(default_factory=dict)
    body: object = None
    query: Mapping[str, str] = field(default_factory=dict)
    # Which thing a parameter names, where it is not the usual one.
    things: Mapping[str, str] = field(default_factory=dict)

    def words(self, path: str) -> set[str]:
        """What the path, the body and the query name."""
        body = msgspec.json.encode(self.body).decode()
        return {
            word
            for text in (path, body, *self.query.values())
            for word in PLACEHOLDER.findall(text)
        }

    @property
    def outer(self) -> Outcome | None:
        """What those are told for whom the guild or the channel is not there."""
        return {"guild": NO_GUILD, "channel": NO_CHANNEL, "invite": NO_INVITE}.get(self.scope)

    @property
    def door(self) -> str:
        doors = {"guild": "guild_id", "channel": "channel_id", "invite": "code"}
        return doors.get(self.scope, "")


def outcome(rule: Expectation, row: Route, actor: Actor, kind: Kind) -> Outcome:
    """What this actor must be answered for an object of this kind."""
    done = row.status if rule.ok is None else rule.ok
    if rule.scope == "public":
        return done
    if actor in {Actor.ANONYMOUS, Actor.BOT}:
        return NOBODY
    unknown = rule.unknown_as.get(kind, rule.unknown)
    if rule.scope == "owned":
        owner = Actor.FOREIGN_OWNER if kind is Kind.FOREIGN else Actor.OWNER
        return done if actor is owner and kind not in MISSING else _known(unknown)
    if rule.scope == "account":
        if kind in MISSING:
            return _known(unknown)
        return rule.but.get(actor, done)
    return _in_guild(rule, done, actor, kind)


def _in_guild(rule: Expectation, done: Outcome, actor: Actor, kind: Kind) -> Outcome:
    seat = actor if actor in HELD else None
    if kind is Kind.FOREIGN:
        seat = Actor.OWNER if actor is Actor.FOREIGN_OWNER else None
    is_missing = kind in MISSING
    if seat in rule.hides_from or (is_missing and rule.target == rule.door):
        return _known(rule.outer)
    if seat is None:
        return _known(rule.outer if rule.stranger is None else rule.stranger)
    unknown = rule.unknown_as.get(kind, rule.unknown)
    if is_missing and rule.looks_first:
        return _known(unknown)
    if kind is Kind.OWN and seat is Actor.UNSEEING and rule.unseen is not None:
        return rule.unseen
    if not allows(HELD[seat], rule.needs) or (rule.for_owner and seat is not Actor.OWNER):
        return FORBIDDEN
    return _known(unknown) if is_missing else rule.but.get(seat, done)


def _known(outcome: Outcome | None) -> Outcome:
    assert outcome is not None, "the expectation does not say what a missing one is answered with"
    return outcome


# Things and their places.


@dataclass
class Place:
    """A guild: who rules it, whose things are in it, and the ids of what there is."""

    town: Town
    owner: Person
    target: Person
    guild_id: str
    # The channel that everything is about, and another one of the same guild.
    channel_id: str
    sibling_id: str
    roles: dict[str, str]
    members: dict[Actor, Person]
    ids: dict[str, str] = field(default_factory=dict)


Make = Callable[[Place, str], Awaitable[str]]
Delete = Callable[[Place, str], Awaitable[object]]
Gone = Callable[[Place], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """How one comes about in a place and a channel of it, and how it goes."""

    make: Make
    delete: Delete | None = None
    # One that is no more, where it is not a matter of deletion.
    gone: Gone | None = None
    # Whether it is a thing of a channel: then one of another parent is in the same guild.
    of_channel: bool = False


THINGS: Final[dict[str, Thing]] = {}


def thing(
    name: str,
    *,
    delete: Delete | None = None,
    gone: Gone | None = None,
    of_channel: bool = False,
) -> Callable[[Make], Make]:
    """Declare how a thing is made."""

    def declare(make: Make) -> Make:
        THINGS[name] = Thing(make=make, delete=delete, gone=gone, of_channel=of_channel)
        return make

    return declare


@dataclass(frozen=True)
class Cell:
    """One request of the matrix."""

    name: str
    row: Route
    path: str
    rule: Expectation
    actor: Actor
    kind: Kind

    @property
    def expected(self) -> Outcome:
        return outcome(self.rule, self.row, self.actor, self.kind)

    @property
    def changes_things(self) -> bool:
        return self.row.method != "GET" and isinstance(self.expected, int)

    @override
    def __str__(self) -> str:
        things = {**self.rule.things, **self.rule.query}
        about = f" with {things}" if things else ""
        body = f" {msgspec.json.encode(self.rule.body).decode()}" if self.rule.body else ""
        what = f"{self.kind} {self.rule.target or 'object'}"
        return f"{self.row.method} {self.path}{body}{about}, {what}, by {self.actor}"


def cells_of(name: str, row: Route, rules: Iterable[Expectation]) -> list[Cell]:
    """All cells of a route. One that is about nothing in particular has no kinds of object."""
    return [
        Cell(name, row, path, part, actor, kind)
        for path in row.paths
        for rule in rules
        for part, kinds in _parts(rule, path)
        for actor in Actor
        for kind in kinds
    ]


def _parts(rule: Expectation, path: str) -> Iterator[tuple[Expectation, Iterable[Kind]]]:
    """What is varied at a path: the target and, while that is at home, the door before it."""
    words = rule.words(path)
    by_door = replace(rule, target=rule.door)
    if rule.target in words:
        yield rule, Kind
        if rule.door in words - {rule.target}:
            yield by_door, sorted(MISSING)
    elif rule.door in words:
        needs = rule.needs if rule.needs_alone is None else rule.needs_alone
        yield replace(by_door, needs=needs), Kind
    else:
        yield rule, [Kind.OWN]


def sample(cells: list[Cell], count: int, seed: int) -> list[Cell]:
    """Some cells of each path: one that is let through, one that is not, and any others."""
    chosen: list[Cell] = []
    for path, of_path in itertools.groupby(cells, lambda cell: cell.path):
        rest = list(of_path)
        chance = random.Random(f"{seed} {rest[0].name} {path}")  # noqa: S311  # no secret
        chance.shuffle(rest)
        first = [
            *[cell for cell in rest if isinstance(cell.expected, int)][:1],
            *[cell for cell in rest if not isinstance(cell.expected, int)][:1],
        ]
        others = (cell for cell in rest if not any(cell is one for one in first))
        chosen += [*first, *others][:count]
    return chosen


class World:
    """A guild at home with everyone in it, and a foreign one; made anew when it was changed."""

    def __init__(self, town: Town) -> None:
        assert town.app is not None
        self.town = town
        self._db: Database = town.app.db
        self._home: Place | None = None
        self._foreign: Place | None = None
        start_ms = int(time.time() * 1000) - EPOCH_MS - 86_400_000
        self._numbers = itertools.count(start_ms << 22)

    async def home(self) -> Place:
        if self._home is None:
            names = {actor: actor.name.lower() for actor in Actor if actor in HELD}
            people = {actor: await self.town.person(name) for actor, name in names.items()}
            self._home = await self._settle(people[Actor.OWNER], "target", people)
        return self._home

    async def foreign(self) -> Place:
        if self._foreign is None:
            owner = await self.actor(Actor.FOREIGN_OWNER)
            assert isinstance(owner, Person)
            self._foreign = await self._settle(owner, "foreign_target", {})
        return self._foreign

    async def change(self) -> None:
        """Forget what was changed."""
        async with self._db.transaction() as tx:
            for place in (self._home, self._foreign):
                if place is not None:
                    await _demolish(tx.conn, place)
        self._home = self._foreign = None

    async def actor(self, actor: Actor) -> Api:
        """Who asks: a stranger, or somebody with an account."""
        if actor is Actor.ANONYMOUS:
            return self.town.stranger
        if actor is Actor.BOT:
            # What would let its owner in as `Bearer` is no bot's token.
            bot = self.town.stranger
            owner = await self.town.person(Actor.OWNER.name.lower())
            bot.headers["Authorization"] = f"Bot {owner.access_token}"
            return bot
        return await self.town.person(actor.name.lower())

    async def call(self, cell: Cell, names: Mapping[str, str]) -> Answer:
        """Ask for what the cell is about, whose ids are these."""

        def fill(template: str) -> str:
            return PLACEHOLDER.sub(lambda found: names[found[1]], template)

        content = None
        if cell.rule.body is not None:
            content = fill(msgspec.json.encode(cell.rule.body).decode()).encode()
        actor = await self.actor(cell.actor)
        query = {name: fill(value) for name, value in cell.rule.query.items()}
        headers = {"Content-Type": "application/json"} if content is not None else {}
        answer = await actor.call(
            cell.row.method, fill(cell.path), content=content, headers=headers, query=query
        )
        if cell.path == "/auth/logout" and isinstance(actor, Person):
            await actor.login()
        return answer

    async def told(self) -> int:
        """How many events have ever been written; a refusal writes none."""
        async with self._db.read() as conn:
            return int(
                await conn.fetchval(
                    "SELECT coalesce(pg_sequence_last_value(s.oid::regclass), 0)"
                    " FROM pg_class AS s WHERE s.relname = 'event_outbox_id_seq'"
                )
            )

    async def prepare(self, cell: Cell) -> dict[str, str]:
        """Make what the path, the body and the query of a cell name; gives the ids."""
        wanted = cell.rule.words(cell.path)
        place = await self.foreign() if cell.kind is Kind.FOREIGN else await self.home()
        names: dict[str, str] = {}
        for name in sorted(wanted):
            what = cell.rule.things.get(name, USUAL.get(name, name))
            if name == cell.rule.target:
                names[name] = await self._object(what, cell, place)
            else:
                names[name] = await self._standing(what, place)
        return names

    async def _standing(self, what: str, place: Place) -> str:
        """The one that a place has."""
        if what not in place.ids:
            place.ids[what] = await THINGS[what].make(place, place.channel_id)
        return place.ids[what]

    async def _object(self, what: str, cell: Cell, place: Place) -> str:
        if cell.kind in {Kind.OWN, Kind.FOREIGN}:
            return await self._standing(what, place)
        if cell.kind is Kind.NONEXISTENT:
            return NEVER
        if cell.kind is Kind.DELETED:
            return await self._deleted(what, place)
        if cell.rule.door in {"", cell.rule.target}:
            # It has no parent: the id is of another kind altogether.
            return place.channel_id if cell.rule.scope == "guild" else place.guild_id
        if THINGS[what].of_channel:
            return await THINGS[what].make(place, place.sibling_id)
        return await self._standing(what, await self.foreign())

    async def _deleted(self, what: str, place: Place) -> str:
        if what == "guild":
            gone = await self._settle(place.owner, "target", place.members)
            await place.owner.delete(f"/guilds/{gone.guild_id}")
            return gone.guild_id
        made = THINGS[what]
        if made.gone is not None:
            return await made.gone(place)
        if made.delete is None:
            # It can't be deleted: one that never was stands for one that is no more.
            return NEVER
        found = await made.make(place, place.channel_id)
        await made.delete(place, found)
        return found

    def _id(self) -> int:
        return next(self._numbers)

    async def _settle(self, owner: Person, target: str, people: dict[Actor, Person]) -> Place:
        """A guild as it is stored. Those who are banned or gone are still named in an overwrite."""
        one = await self.town.person(target)
        gone = {
            actor: await self.town.person(actor.name.lower())
            for actor in (Actor.BANNED, Actor.EX_MEMBER)
        }
        place = Place(
            town=self.town,
            owner=owner,
            target=one,
            guild_id=str(self._id()),
            channel_id=str(self._id()),
            sibling_id=str(self._id()),
            roles={name: str(self._id()) for name in POSITIONS},
            members=people,
        )
        place.ids.update(guild=place.guild_id, channel=place.channel_id, user=one.id)
        place.ids["role"] = place.roles["role"]
        async with self._db.transaction() as tx:
            await _build(tx.conn, place, gone)
        await gone[Actor.EX_MEMBER].post(f"/guilds/{place.guild_id}/leave")
        return place


# Which thing a parameter of a path names.
USUAL: Final = {
    "guild_id": "guild",
    "channel_id": "channel",
    "message_id": "message",
    "role_id": "role",
    "user_id": "member",
    "code": "invite",
}

_ROLES: Final = {
    "administrator": int(Permission.ADMINISTRATOR),
    "moderator": int(MODERATION),
    "insider": 0,
    "role": 0,
}
_ROLES_OF: Final = {
    Actor.UNSEEING: (),
    Actor.MEMBER: ("insider",),
    Actor.MODERATOR: ("insider", "moderator"),
    Actor.ADMINISTRATOR: ("administrator",),
    Actor.OWNER: (),
}


async def _build(conn: Conn, place: Place, gone: Mapping[Actor, Person]) -> None:
    guild_id, view = int(place.guild_id), int(Permission.VIEW_CHANNEL)
    people = {person.id: _ROLES_OF[actor] for actor, person in place.members.items()}
    leaver = gone[Actor.EX_MEMBER].id
    members = {place.owner.id: (), place.target.id: ("insider",), leaver: ("insider",), **people}
    await conn.execute(
        """
        INSERT INTO guilds (id, name, owner_id, discoverable, member_count)
        VALUES ($1, 'Home', $2, false, $3)
        """,
        guild_id,
        int(place.owner.id),
        len(members),
    )
    await conn.executemany(
        """
        INSERT INTO roles (id, guild_id, name, permissions, position)
        VALUES ($1, $2, $3, $4, $5)
        """,
        [
            (guild_id, guild_id, "@everyone", EVERYONE_DEFAULT, 0),
            *(
                (int(role_id), guild_id, name, _ROLES[name], POSITIONS[name])
                for name, role_id in place.roles.items()
            ),
        ],
    )
    await conn.executemany(
        "INSERT INTO members (guild_id, user_id, roles) VALUES ($1, $2, $3)",
        [
            (guild_id, int(user_id), sorted(int(place.roles[role]) for role in roles))
            for user_id, roles in members.items()
        ],
    )
    await conn.executemany(
        """
        INSERT INTO channels (id, guild_id, type, name, position)
        VALUES ($1, $2, 0, $3, $4)
        """,
        [
            (int(place.channel_id), guild_id, "room", 0),
            (int(place.sibling_id), guild_id, "sibling", 1),
        ],
    )
    await conn.executemany(
        """
        INSERT INTO channel_overwrites (channel_id, target_id, type, allow, deny)
        VALUES ($1, $2, $3, $4, $5)
        """,
        [
            (int(place.channel_id), guild_id, 0, 0, view),
            (int(place.channel_id), int(place.roles["insider"]), 0, view, 0),
            *((int(place.channel_id), int(who.id), 1, view, 0) for who in gone.values()),
        ],
    )
    await conn.execute(
        "INSERT INTO bans (guild_id, user_id) VALUES ($1, $2)", guild_id, int(gone[Actor.BANNED].id)
    )


async def _demolish(conn: Conn, place: Place) -> None:
    """Take a guild away, lest the people come to the end of how many they may have."""
    guild_id = int(place.guild_id)
    await conn.execute(
        "DELETE FROM messages WHERE channel_id IN (SELECT id FROM channels WHERE guild_id = $1)",
        guild_id,
    )
    await conn.execute("DELETE FROM guilds WHERE id = $1", guild_id)


# Trying cells.


async def faults(world: World, cells: Iterable[Cell]) -> list[str]:
    """Try cells, those last that change something; what was answered otherwise than expected."""
    found: list[str] = []
    for cell in sorted(cells, key=lambda cell: cell.changes_things):
        found.extend(await _faults_of(world, cell))
    return found


async def _faults_of(world: World, cell: Cell) -> Iterator[str]:
    names = await world.prepare(cell)
    before = await world.told()
    answer = await world.call(cell, names)
    got: Outcome = answer.status
    if answer.status >= 400:
        got = (answer.status, answer.json()["code"])
    wanted = cell.expected
    complaints = []
    if got != wanted:
        complaints.append(f"{cell}: {got}, not {wanted}: {answer.content[:300]!r}")
    elif isinstance(wanted, tuple):
        if wanted == cell.rule.outer:
            complaints.extend(f"{cell}: {one}" for one in _leaks(wanted, answer))
        if await world.told() != before:
            complaints.append(f"{cell}: was refused, and told somebody something")
    if cell.row.method != "GET" and answer.status < 400:
        await world.change()
    return iter(complaints)


def _leaks(wanted: tuple[int, int], answer: Answer) -> Iterator[str]:
    """For whom a place is not there hears no more than the catalogue says, wherever it is."""
    error: type[AppError] = type_by_code[wanted[1]]
    if answer.json() != {"code": error.code, "message": error.message}:
        yield f"says more than that there is none: {answer.content[:300]!r}"
