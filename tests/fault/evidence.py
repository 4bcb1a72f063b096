"""What a run left behind: the histories of all clients, and the database, made ready to be read."""

import base64
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import asyncpg
import msgspec
from typing_extensions import override

from tests.fault.calls import marker
from tests.fault.entitlement import Entitlement
from tests.fault.faults import Hit
from tests.fault.history import Heard, History, Op, ServerError, Turn

Json = Any

_ENDED = "session_ended"
JOINED, LEFT = "GUILD_CREATE", "GUILD_DELETE"
_MAC_BYTES = 16
_NOT_LOGGED = frozenset({"READY", "RESUMED", "TYPING_START", "PRESENCE_UPDATE"})
# What may also follow from another event, and then shares a position with one.
_DERIVED = frozenset({"CHANNEL_CREATE", "CHANNEL_DELETE", "THREAD_LIST_SYNC", JOINED})
# Of events that begin so GUILD_CREATE tells what they come to.
_STATE = ("GUILD_ROLE_", "GUILD_MEMBER_", "GUILD_UPDATE", "CHANNEL_", "THREAD_")


class Row(msgspec.Struct):
    """An entry of the log. Times are of this machine's monotonic clock."""

    pos: int
    outbox_id: int
    type: str
    users: frozenset[str] | None
    guild: str | None
    channel: str | None
    subject: str | None
    revises: str | None
    payload: Json
    at: float
    # The channel that the thread `channel` is in.
    parent: str | None = None
    # Whose sight of channels is another behind it: a user's, or with "0" anybody's.
    reshapes: str | None = None

    @property
    def is_state(self) -> bool:
        """Whether it tells of what GUILD_CREATE tells, too."""
        return self.type in {JOINED, LEFT} or self.type.startswith(_STATE)

    @override
    def __str__(self) -> str:
        return f"log row {self.pos} {self.type} guild={self.guild} subject={self.subject}"


class Stored(msgspec.Struct):
    """What the database holds after the run."""

    rows: dict[int, Row]
    head: int
    outbox: list[int]
    messages: dict[str, tuple[str, str, str]]
    nonces: dict[tuple[str, str], str]
    members: set[tuple[str, str]]
    channels: dict[str, str | None]
    guilds: set[str]
    names: dict[str, str | None]
    sessions: set[str]
    # The roles of (user, guild); what (channel, target) is allowed and denied; bits of roles.
    roles: dict[tuple[str, str], set[str]] = {}
    overwrites: dict[tuple[str, str], tuple[int, int]] = {}
    permissions: dict[str, int] = {}


class Block(msgspec.Struct):
    """A replay: what was resumed after, and up to where; None if it broke off before the end."""

    seq: int
    upto: int | None = None
    ended: float = float("inf")
    last: int = 0

    @property
    def end(self) -> int:
        return self.last if self.upto is None else self.upto


class Frame(msgspec.Struct):
    """An event as a reader got it."""

    at: float
    pos: int
    type: str
    d: Json
    block: Block | None
    # It follows from an event, and is none of the log.
    is_derived: bool = False
    # A guild as it was when it was asked for, which may be later than at the position.
    is_fresh: bool = False

    @property
    def id(self) -> str:
        """What it is about; the same for everybody who gets it."""
        d = self.d
        if "user" in d and "id" not in d:
            return f"{d.get('guild_id')}/{d['user']['id']}"
        role = d.get("role_id") or d.get("role", {}).get("id")
        return str(d.get("id") or d.get("ids") or role)

    @override
    def __str__(self) -> str:
        how = f" in the replay after {self.block.seq}" if self.block else ""
        what = "derived frame" if self.is_derived else "frame"
        return f"{what} s={self.pos} {self.type} {self.id} at {self.at:.3f}{how}"


def tells(row: Row, frame: Frame) -> bool:
    """Whether a frame tells what is in the log; what was taken back has no payload any more."""
    if row.type != frame.type:
        return False
    if row.payload is None:
        return row.subject in {None, frame.d.get("id")}
    return Frame(0, row.pos, row.type, row.payload, None).id == frame.id


def classify(frame: Frame, row: Row | None) -> None:
    """Say whether a frame is an event of the log; `row` is what is there at its position."""
    if frame.type not in _DERIVED:
        return
    is_logged = row is not None and tells(row, frame)
    if frame.type == JOINED and frame.block is not None and frame.pos <= frame.block.seq:
        # A replay begins behind the position that it is asked for.
        is_logged = False
    frame.is_derived = not is_logged
    if frame.type == JOINED:
        logged = row.payload or {} if row is not None and is_logged else None
        frame.is_fresh = logged is None or any(
            logged.get(key) != value for key, value in frame.d.items() if key != "presences"
        )


class Life(msgspec.Struct, dict=True):
    """A gateway session of a reader from READY on, over all connections that resumed it."""

    reader: str
    user: str
    start: int
    suppressed: frozenset[int]
    begun: float
    opened: float
    # The events of the log; all frames in their order; those that follow from events.
    frames: list[Frame]
    stream: list[Frame]
    derived: list[Frame]
    # The guilds that were told afresh, by their ids.
    fresh: dict[str, list[Frame]]
    blocks: list[Block]
    opening: list[tuple[str, int, Json]]
    last: int
    login: str

    @cached_property
    def heard(self) -> set[int]:
        return {frame.pos for frame in self.frames}


class Injection(msgspec.Struct):
    """One fault. It answers for all that goes wrong until the next one begins."""

    fault: str
    begun: float
    ended: float
    hit: Hit
    leaves_doubt: bool
    # How long the slowest of the probes took; None when one came too late to be waited for.
    recovered: float | None = None


class Probe(msgspec.Struct):
    """A message sent right after a fault was over, and how long a reader waited for it."""

    fault: str
    reader: str
    waited: float | None
    at: float = 0.0


class Repost(msgspec.Struct):
    """A send that was acknowledged, sent once more with its nonce after all was over."""

    op: Op
    status: int
    message_id: str


class Evidence:
    """All of it, with the indexes that the invariants share."""

    def __init__(
        self,
        histories: Sequence[History],
        stored: Stored,
        *,
        probes: Sequence[Probe] = (),
        reposts: Sequence[Repost] = (),
        fresh: Mapping[str, Sequence[tuple[str, int, Json]] | None] | None = None,
        fence: int = 0,
        residents: Mapping[str, frozenset[str]] | None = None,
        gaps: Mapping[str, float] | None = None,
        injections: Sequence[Injection] = (),
        deaths: Sequence[str] = (),
        answers: int = 0,
        errors: Sequence[ServerError] = (),
    ) -> None:
        """`fresh` has a READY of each reader after the end; `residents` who never left what.

        `gaps` has the holes that each node's tailer found in the log, `answers` counts all that
        were given, and `errors` has those that none may give, and what the nodes complained of.
        """
        self.stored = stored
        self.probes = probes
        self.reposts = reposts
        self.fresh = fresh or {}
        self.fence = fence
        self.residents = residents or {}
        self.gaps = gaps or {}
        self.injections = injections
        self.deaths = deaths
        self.answers = answers
        self.errors = errors
        self.ops = sorted((op for h in histories for op in h.ops), key=lambda op: op.begun)
        self.turns = {h.name: [r for r in h.records if isinstance(r, Turn)] for h in histories}
        known: dict[int, Json] = {}
        self.lives = [life for h in histories for life in lives_of(h, known, stored.rows)]
        self.resumed = {
            h.name: [r.at for r in h.records if isinstance(r, Heard) and r.t == "RESUMED"]
            for h in histories
        }
        self.live_sockets = {
            h.name: {r.socket for r in h.records if isinstance(r, Heard)} for h in histories
        }
        self.rows = [stored.rows[pos] for pos in sorted(stored.rows)]

    @cached_property
    def revocations(self) -> dict[str, Row]:
        """By which entry of the log each login session was ended."""
        return {
            str(login): row
            for row in self.rows
            if row.type == _ENDED and row.payload
            for login in row.payload["session_ids"]
        }

    def ops_of(self, *whats: str) -> Iterator[Op]:
        return (op for op in self.ops if op.what in whats)

    @cached_property
    def moves(self) -> dict[tuple[str, str], list[Row]]:
        """The joins and leaves of (user, guild), in the order of the log."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row.users is not None and row.guild and row.type in {JOINED, LEFT}:
                for user in row.users:
                    found.setdefault((user, row.guild), []).append(row)
        return found

    def last_move(self, user: str, guild: str, *, before: int) -> Row | None:
        moves = self.moves.get((user, guild), [])
        place = bisect_left(moves, before, key=lambda row: row.pos)
        return moves[place - 1] if place else None

    def next_move(self, user: str, guild: str, *, after: int) -> Row | None:
        moves = self.moves.get((user, guild), [])
        place = bisect_right(moves, after, key=lambda row: row.pos)
        return moves[place] if place < len(moves) else None

    def is_member(self, user: str, guild: str | None, pos: int) -> bool:
        """Whether somebody was in a guild when the entry at a position came about."""
        move = self.last_move(user, guild or "", before=pos)
        return move is not None and move.type == JOINED

    def may_hear(self, user: str, row: Row) -> bool:
        if row.type.islower():
            return False
        if row.users is not None:
            return user in row.users
        return self.is_member(user, row.guild, row.pos) and self.entitlement.sees_row(user, row)

    @cached_property
    def entitlement(self) -> Entitlement:
        return Entitlement(self.rows)

    @cached_property
    def _reshapes(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.reshapes is not None and row.guild is not None:
                found.setdefault(row.guild, []).append(row)
        return found

    def reshapes(self, user: str, guild: str, *, after: int, before: float) -> Iterator[Row]:
        """What changed a member's sight of a guild behind a position, and before a moment.

        Also the server's own notes that a guild has to be told afresh: they change nothing.
        """
        return (
            row
            for row in self._reshapes.get(guild, ())
            if row.pos > after and row.at < before and row.reshapes in {"0", user}
        )

    @cached_property
    def created(self) -> dict[str, list[Row]]:
        """The creations of each message."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.type == "MESSAGE_CREATE" and row.subject:
                found.setdefault(row.subject, []).append(row)
        return found

    @cached_property
    def deletions(self) -> dict[str, Row]:
        """By what each message was taken back: its own end, that of its channel, or of its guild.

        By what was told, not by what the log says it blanks: that may be forgotten.
        """
        found: dict[str, Row] = {}
        channels: dict[str, Row] = {}
        guilds: dict[str, Row] = {}
        for row in self.rows:
            if row.type in {"MESSAGE_DELETE", "MESSAGE_DELETE_BULK"}:
                found.update((gone, row) for gone in row.payload.get("ids") or [row.payload["id"]])
            elif row.type == "CHANNEL_DELETE":
                channels[row.payload["id"]] = row
            elif row.type == LEFT and row.guild and row.guild not in self.stored.guilds:
                guilds[row.guild] = row
        for message_id, rows in self.created.items():
            ended = channels.get(rows[0].channel or "") or guilds.get(rows[0].guild or "")
            if ended is not None:
                found.setdefault(message_id, ended)
        return found

    @cached_property
    def ids_of(self) -> dict[tuple[str, str], set[str]]:
        """Under which ids the words (author, marker) were seen, anywhere."""
        found: dict[tuple[str, str], set[str]] = {}

        def note(author: str, content: str, message_id: str) -> None:
            base = marker(content).partition(".")[0]
            found.setdefault((author, base), set()).add(message_id)

        for row in self.rows:
            if row.type == "MESSAGE_CREATE" and row.payload:
                note(row.payload["author"]["id"], row.payload["content"], row.payload["id"])
        for life in self.lives:
            for frame in life.frames:
                if frame.type == "MESSAGE_CREATE":
                    note(frame.d["author"]["id"], frame.d["content"], frame.d["id"])
        for message_id, (_, author, content) in self.stored.messages.items():
            note(author, content, message_id)
        for op in self.ops_of("send"):
            if op.ok:
                note(op.user, op.about["words"], op.result["id"])
        return found


def lives_of(history: History, known: dict[int, Json], rows: Mapping[int, Row]) -> list[Life]:
    """Cut what a reader heard into gateway sessions, but for those that broke off while opening.

    `known` keeps what was read of messages for other readers, who were sent the same bytes. `rows`
    is the log, by position.
    """
    return list(_Cutter(history, known, rows).lives())


class _Cutter:
    """Walks through the records of one reader."""

    def __init__(self, history: History, known: dict[int, Json], rows: Mapping[int, Row]) -> None:
        self._history = history
        self._rows = rows
        # By the identity of what holds the bytes, which the histories keep alive.
        self._known = known
        self._lives: list[Life] = []
        self._life: Life | None = None
        self._block: Block | None = None
        # READY and how many guilds are still to come, while a session opens.
        self._opening: list[tuple[str, int, Json]] = []
        self._awaited = 0
        self._begun = 0.0
        self._login = ""

    def lives(self) -> Iterable[Life]:
        for record in self._history.records:
            if isinstance(record, Turn):
                self._turn(record)
            elif isinstance(record, Heard):
                self._hear(record, self._read(record))
        return self._lives

    def _read(self, heard: Heard) -> Json:
        if not heard.t.startswith("MESSAGE_"):
            # A view keeps and changes these.
            return msgspec.json.decode(heard.d)
        if id(heard.d) not in self._known:
            self._known[id(heard.d)] = msgspec.json.decode(heard.d)
        return self._known[id(heard.d)]

    def _turn(self, turn: Turn) -> None:
        match turn.what:
            case "identify":
                self._life, self._block = None, None
                self._opening, self._awaited, self._begun = [], 0, turn.at
                self._login = turn.login
            case "resume":
                self._block = Block(turn.seq, last=turn.seq)
                if self._life is not None:
                    self._life.blocks.append(self._block)
            case "closed":
                if self._block is not None:
                    self._block.ended = turn.at
                self._block = None
            case _:
                return

    def _hear(self, heard: Heard, d: Json) -> None:
        if self._life is None:
            self._open(heard, d)
            return
        life, block = self._life, self._block
        life.last = max(life.last, heard.s)
        if heard.t == "RESUMED" and block is not None:
            block.upto, block.ended, self._block = heard.s, heard.at, None
        elif heard.t not in _NOT_LOGGED:
            if block is not None:
                block.last = heard.s
            self._keep(life, Frame(heard.at, heard.s, heard.t, d, block))

    def _keep(self, life: Life, frame: Frame) -> None:
        classify(frame, self._rows.get(frame.pos))
        life.stream.append(frame)
        (life.derived if frame.is_derived else life.frames).append(frame)
        if frame.is_fresh:
            life.fresh.setdefault(frame.id, []).append(frame)

    def _open(self, heard: Heard, d: Json) -> None:
        self._opening.append((heard.t, heard.s, d))
        self._awaited = len(d["guilds"]) if heard.t == "READY" else self._awaited - 1
        if self._awaited:
            return
        ready = self._opening[0][2]
        self._life = Life(
            reader=self._history.name,
            user=self._history.user,
            start=heard.s,
            suppressed=suppressed(ready["session_id"]),
            begun=self._begun,
            opened=heard.at,
            frames=[],
            stream=[],
            derived=[],
            fresh={},
            blocks=[],
            opening=self._opening,
            last=heard.s,
            login=self._login,
        )
        self._lives.append(self._life)


def suppressed(session_id: str) -> frozenset[int]:
    """The outbox ids that a cursor says READY has shown already. It is signed, not secret."""
    raw = base64.urlsafe_b64decode(session_id + "=" * (-len(session_id) % 4))
    cursor = msgspec.msgpack.decode(raw[:-_MAC_BYTES])
    return frozenset(cursor[5]) if len(cursor) > 5 else frozenset()


async def read_database(dsn: str, *, wall_to_monotonic: float) -> Stored:
    """Everything that the invariants look at, in one snapshot."""
    conn = await asyncpg.connect(dsn, timeout=10)
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            return await _read(conn, wall_to_monotonic)
    finally:
        await conn.close()


async def _read(conn: "asyncpg.Connection[asyncpg.Record]", offset: float) -> Stored:
    log = await conn.fetch(
        """
        SELECT pos, outbox_id, type, users, guild_id, channel_id, subject, revises, payload,
               parent_id, reshapes, extract(epoch FROM created_at)::float8 AS at
          FROM event_log
         ORDER BY pos
        """
    )
    messages = await conn.fetch("SELECT id, channel_id, author_id, content FROM messages")
    nonces = await conn.fetch("SELECT author_id, nonce, message_id FROM message_nonces")
    members = await conn.fetch("SELECT user_id, guild_id, roles FROM members")
    overwrites = await conn.fetch(
        "SELECT channel_id, target_id, allow, deny FROM channel_overwrites"
    )
    channels = await conn.fetch("SELECT id, name FROM channels")
    return Stored(
        rows={row["pos"]: _row(row, offset) for row in log},
        head=await conn.fetchval("SELECT pos FROM log_head"),
        outbox=[row["id"] for row in await conn.fetch("SELECT id FROM event_outbox ORDER BY id")],
        messages={
            str(m["id"]): (str(m["channel_id"]), str(m["author_id"]), m["content"])
            for m in messages
        },
        nonces={(str(n["author_id"]), n["nonce"]): str(n["message_id"]) for n in nonces},
        members={(str(m["user_id"]), str(m["guild_id"])) for m in members},
        channels={str(c["id"]): c["name"] for c in channels},
        guilds={str(g["id"]) for g in await conn.fetch("SELECT id FROM guilds")},
        names={
            str(u["id"]): u["global_name"]
            for u in await conn.fetch("SELECT id, global_name FROM users")
        },
        sessions={str(s["id"]) for s in await conn.fetch("SELECT id FROM login_sessions")},
        roles={(str(m["user_id"]), str(m["guild_id"])): set(map(str, m["roles"])) for m in members},
        overwrites={
            (str(o["channel_id"]), str(o["target_id"])): (o["allow"], o["deny"]) for o in overwrites
        },
        permissions={
            str(r["id"]): r["permissions"]
            for r in await conn.fetch("SELECT id, permissions FROM roles")
        },
    )


def _row(row: asyncpg.Record, offset: float) -> Row:
    payload = row["payload"]
    return Row(
        pos=row["pos"],
        outbox_id=row["outbox_id"],
        type=row["type"],
        users=None if row["users"] is None else frozenset(map(str, row["users"])),
        guild=_text(row["guild_id"]),
        channel=_text(row["channel_id"]),
        subject=_text(row["subject"]),
        revises=_text(row["revises"]),
        payload=None if payload is None else msgspec.json.decode(payload),
        at=row["at"] + offset,
        parent=_text(row["parent_id"]),
        reshapes=_text(row["reshapes"]),
    )


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
