"""The gateway: opens sessions, resumes them, catches slow ones up, and ends them."""

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Final

import msgspec
import structlog

from internal.chat.ws import events
from internal.chat.ws.client import Client
from internal.chat.ws.cursor import Cursor, CursorSigner, new_key
from internal.chat.ws.events import CloseReason, Op
from internal.chat.ws.hub import Hub
from internal.chat.ws.members import MemberLists, MemberRequests
from internal.chat.ws.model import (
    Application,
    Doors,
    GuildTold,
    Limits,
    Ready,
    SentNonce,
    State,
    UnavailableGuild,
)
from internal.chat.ws.session import (
    Action,
    AskMembers,
    Identify,
    LookAt,
    Reply,
    Resume,
    Send,
    Show,
)
from internal.chat.ws.session import State as Stage
from internal.chat.ws.sight import Roles, Sight, is_about_sight, is_state, own_roles
from internal.chat.ws.view import JOINED, LEFT, Fate, Fresh, Groups, Span, View, is_move
from internal.db.postgres import Database
from internal.errors import AppError, SlowDown, Unauthorized, Unavailable, error_body
from internal.eventlog import repository
from internal.eventlog.model import Entry
from internal.eventlog.tailer import Tailer
from internal.guild.model import GuildSources, GuildState
from internal.monitoring.load import Load, Work
from internal.presence.model import Showing
from internal.presence.service import PresenceService, showing_of
from internal.utils.actor import Actor
from internal.utils.address import network_of
from internal.utils.gate import Crowded, Gate
from internal.utils.json import UnreadableJson, decoder, encode
from internal.utils.snowflake import Snowflake

_log = structlog.get_logger(__name__)

_MAX_SUPPRESSED: Final = 64
_SNAPSHOT_TRIES: Final = 50
_MISSED_TRIES: Final = 5
# A chunk of catching up: small enough that the buffer's bound means something.
_CHUNK_ENTRIES: Final = 512
_CHUNK_BYTES: Final = 256 * 1024
_LOG_SPAN: Final = 20_000
_TAILER_S: Final = 5.0
_SWEEP_S: Final = 1.0
_TAKE_TRIES: Final = 4
_MOST_TAKES: Final = 10_000
# Those who find no room are told so after a while, by chance. Libraries come back at once when they
# are told to; whoever waits here costs next to nothing.
_HOLD_S: Final = (1.0, 5.0)

# Who ends like this does not come back to the same session.
_FOR_GOOD: Final = {1000, 1001} | {
    reason.code
    for reason in CloseReason
    if not reason.resumable and reason is not CloseReason.REPLACED
}

_read_nonce = decoder(SentNonce)


class InvalidSession(Exception):
    """The cursor can't be honoured; the reason is for the metrics, never for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GatewayService:
    """Acts on what clients ask for. The hub tells those that are live."""

    def __init__(  # noqa: PLR0913  # the gateway is where the log, the hub and the features meet
        self,
        db: Database,
        tailer: Tailer,
        hub: Hub,
        signer: CursorSigner,
        doors: Doors,
        limits: Limits,
        *,
        presence: PresenceService,
        load: Load,
        resume_url: Callable[[], str],
        count_resume: Callable[[str], None],
        count_close: Callable[[int], None],
        count_lag: Callable[[], None],
    ) -> None:
        self.limits = limits
        self.hub = hub
        hub.when_logins_end(self._end_logins)
        hub.when_sessions_are_taken(lambda taken: self.taken(taken.key, taken.take))
        hub.when_guilds_are_unknown(self._catch_up)
        self.clients: set[Client] = set()
        self.is_draining = False
        self._db = db
        self._tailer = tailer
        self._signer = signer
        self._doors = doors
        self.presence = presence
        self._load = load
        self._resume_url = resume_url
        self._count_resume = count_resume
        self._count_close = count_close
        self._count_lag = count_lag
        # Sockets that have not said who they are, by address; those of each in their order.
        self._strangers: dict[str, dict[Client, None]] = {}
        self._by_key: dict[int, Client] = {}
        # The names of takes that the log told lately.
        self._takes: OrderedDict[int, None] = OrderedDict()
        # Every identified socket, also those that the hub does not know because they lag.
        self._by_login: dict[int, set[Client]] = {}
        self.openings = Gate(
            at_once=limits.openings,
            waiting=limits.openings_waiting,
            wait_s=limits.opening_wait_s,
        )
        # Everybody who can be connected may wait: a RESUME is refused last.
        self.replays = Gate(
            at_once=limits.replays, waiting=limits.sockets, wait_s=limits.replay_wait_s
        )
        self._sends: dict[Client, deque[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.requests = MemberRequests(
            db,
            tailer,
            hub,
            presence,
            doors.members,
            spawn=self._spawn,
            scale=limits.requests_scale,
            is_shed=lambda: load.sheds(Work.HISTORY),
        )
        self.lists = MemberLists(db, hub, presence, doors.members)

    # Sockets that come and go.

    def admit(self, address: str) -> bool:
        """Whether one more socket of this address may come in.

        Strangers, who have not said who they are, leave most of the places to others. A crowd of
        them keeps nobody out: it makes way for whoever comes from a place that has fewer.
        """
        number = len(self._strangers.get(network_of(address), ()))
        if self.is_draining or number >= self.limits.strangers_per_address:
            return False
        is_full = len(self.clients) >= self.limits.sockets or sum(
            map(len, self._strangers.values())
        ) >= max(1, self.limits.sockets // 4)
        return not is_full or self._make_way(number)

    def _make_way(self, number: int) -> bool:
        """Close a stranger for a newcomer whose network has so many; False if it is none's turn.

        It is the first of the largest crowd: who means to say something has had the longest time.
        """
        crowd = max(self._strangers.values(), key=len, default={})
        if len(crowd) <= number:
            return False
        client = next(iter(crowd))
        client.close(CloseReason.SESSION_TIMED_OUT)
        self._known(client)
        return True

    def welcome(self, client: Client, token: str | None) -> None:
        """Greet a new socket; one with a token in its URL is identified at once."""
        self.clients.add(client)
        self._strangers.setdefault(network_of(client.address), {})[client] = None
        client.push(client.session.hello())
        if token is not None:
            client.is_plain = True
            client.session.begin(self._loop.time())
            self.act(client, Identify(token))

    def gone(self, client: Client, code: int | None) -> None:
        """A socket is closing, with this code, or has been lost: no event reaches it any more."""
        self.hub.detach(client)
        self.requests.gone(client)
        self.lists.gone(client)
        if self._by_key.get(client.key) is client:
            del self._by_key[client.key]
            self.presence.gone(client.key, client.user_id, for_good=code in _FOR_GOOD)
        logins = self._by_login.get(client.login_id)
        if logins is not None:
            logins.discard(client)
            if not logins:
                del self._by_login[client.login_id]
        if client.transport is None and client in self.clients:
            self.clients.discard(client)
            self._known(client)

    def closing(self, code: int) -> None:
        self._count_close(code)

    def lagging(self, client: Client) -> None:
        """A socket's buffer is full: it leaves the index and is caught up as fast as it reads."""
        if client.is_live:
            self._count_lag()
            self._catch_up(client, self.hub.pos)

    def _catch_up(self, client: Client, pos: int) -> None:
        """Take a live socket out of the index, and tell it what is behind a position by itself."""
        sights = self.hub.sights_of(client)
        self.hub.detach(client)
        view = View(
            client.user_id,
            client.login_id,
            client.guilds,
            sights,
            find_sight=self.hub.sight_at,
        )
        self._spawn(client, self._follow(client, view, pos))

    def act(self, client: Client, action: Action) -> None:
        match action:
            case Reply(frame):
                client.push(frame)
            case Identify():
                if action.presence is not None:
                    # What it said before, behind a RESUME that failed, is older.
                    client.wish = None
                self._spawn(client, self._identify(client, action))
            case Resume():
                self._spawn(client, self._resume(client, action))
            case Show():
                client.wish = action
                self._show(client)
            case Send(body):
                self._queue_send(client, body)
            case AskMembers(wish):
                self.requests.ask(client, wish)
            case LookAt(wish):
                self.lists.look(client, wish)
            case _:
                client.close(action.reason)

    def _show(self, client: Client) -> None:
        """Show what a client wants to show, once it is known who it is."""
        wish = client.wish
        if client.key and wish is not None:
            client.wish = None
            self.presence.change(client.key, client.user_id, wish.presence)

    async def sweep(self) -> None:
        """Close what has been silent for too long, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._loop.time()
            for client in list(self.clients):
                session = client.session
                if now > session.deadline:
                    if session.state is Stage.CLOSED:
                        client.abort()
                    else:
                        client.close(CloseReason.SESSION_TIMED_OUT)
                elif client.is_plain and session.deadline - now < session.interval_s:
                    client.ping()

    def refuse_newcomers(self) -> None:
        """Let nobody in any more: whoever came now would be sent away in a moment."""
        self.is_draining = True

    async def drain(self) -> None:
        """Send everyone elsewhere with a resumable code, spread over the window."""
        self.refuse_newcomers()
        waiting = list(self.clients)
        random.shuffle(waiting)
        # Two milliseconds a socket is what a resume costs; few sockets need no spreading.
        window_s = min(self.limits.drain_window_s, len(waiting) * 0.002)
        started = self._loop.time()
        for number, client in enumerate(waiting):
            behind_s = started + window_s * number / len(waiting) - self._loop.time()
            if behind_s > 0:
                await asyncio.sleep(behind_s)
            client.push(events.RECONNECT)
            client.close(CloseReason.RESTARTING)
        self.hub.flush()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hang_up(waiting)

    async def _hang_up(self, clients: Sequence[Client]) -> None:
        """Let the last frames leave, for a moment; then cut."""
        until = self._loop.time() + 1.0
        while any(c.transport for c in clients) and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for client in clients:
            client.abort()

    # Opening.

    async def _identify(self, client: Client, wish: Identify) -> None:
        actor = self._recognise(client, wish.token)
        if self._load.sheds(Work.OPENING):
            await self._put_off(client)
            return
        try:
            async with self.openings.entered():
                # Counted inside: who is sent away has used up nothing.
                await self._doors.admit(actor)
                state, pos, epoch, undrained = await self._snapshot(actor, wish.large_threshold)
        except Crowded:
            self._load.refused(Work.OPENING)
            await self._put_off(client)
            return
        if client.session.state is not Stage.OPENING:
            return
        suppressed = [outbox_id for outbox_id, _ in undrained]
        unsettled = {guild_id for _, guild_id in undrained}
        view = View(
            actor.user_id,
            actor.session_id,
            {guild.id: own_roles(guild, actor.user_id) for guild, _ in state.guilds},
            {
                guild.id: self._sight(sources, None if guild.id in unsettled else pos)
                for guild, sources in state.guilds
            },
            suppressed=suppressed,
            find_sight=self.hub.sight_at,
        )
        self._take_place(client, actor, new_key())
        showing = showing_of(wish.presence, Showing(device=wish.device), int(time.time() * 1000))
        self.presence.opening(client.key, showing)
        self._show(client)
        cursor = Cursor(
            user_id=int(actor.user_id),
            login_id=int(actor.session_id),
            epoch=epoch,
            key=client.key,
            expires_at=int(time.time() + self.limits.cursor_s),
            suppressed=suppressed,
            status=showing.status,
            device=showing.device,
        )
        for frame in self._opening_frames(client, state, self._signer.sign(cursor), pos):
            client.push(frame)
        client.session.opened(self._loop.time())
        await self._follow(client, view, pos)

    async def _put_off(self, client: Client) -> None:
        """Tell a client that found no room to identify again, on this socket if it likes."""
        await asyncio.sleep(random.uniform(*_HOLD_S))  # noqa: S311
        if client.is_plain:
            # It knows no opcodes.
            raise Unavailable
        client.session.reopened(self._loop.time(), self.limits.identify_s)
        client.push(events.INVALID_SESSION)

    def _sight(self, sources: GuildSources, pos: int | None) -> Sight:
        """What there is to see of a guild: the sight that this node has of that position, or a new.

        Without a position the database is ahead of all of them.
        """
        known = None if pos is None else self.hub.sight_at(sources.guild_id, pos)
        return known or Sight.of(sources)

    async def _snapshot(
        self, actor: Actor, large: int
    ) -> tuple[State, int, int, list[tuple[int, int | None]]]:
        """The state of one moment, its position, and what it shows that has no position yet."""
        for _ in range(_SNAPSHOT_TRIES):
            async with self._db.snapshot() as conn:
                undrained = await repository.undrained(conn, _MAX_SUPPRESSED + 1)
                if len(undrained) <= _MAX_SUPPRESSED:
                    if not await self._doors.is_alive(conn, actor):
                        raise Unauthorized
                    pos, epoch = await repository.head(conn)
                    state = await self._doors.state_of(conn, actor.user_id, large)
                    return state, pos, epoch, undrained
            # Too much is on its way to the log: let it arrive, and look again.
            await self._tailer.reached(self._tailer.pos + _MAX_SUPPRESSED, 0.1)
        raise Unavailable

    def _opening_frames(
        self, client: Client, state: State, session_id: str, pos: int
    ) -> Iterable[bytes]:
        """READY and the guilds. Only the last carries the position: a cut before it is no hole."""
        ready = Ready(
            user=state.user,
            guilds=[UnavailableGuild(guild.id) for guild, _ in state.guilds],
            private_channels=state.private_channels,
            session_id=session_id,
            resume_gateway_url=self._resume_url(),
            application=Application(state.user.id),
        )
        yield events.dispatch("READY", 0 if state.guilds else pos, encode(ready))
        last = len(state.guilds) - 1
        for number, (guild, _) in enumerate(state.guilds):
            yield self._guild_frame(client, guild, pos if number == last else 0)

    def _guild_frame(self, client: Client, guild: GuildState, pos: int) -> bytes:
        there = self.presence.in_guild(client.key, client.user_id, guild.id)
        payload = encode(msgspec.structs.replace(guild, presences=there))
        return events.dispatch("GUILD_CREATE", pos, payload)

    async def _resume(self, client: Client, wish: Resume) -> None:
        try:
            actor = self._recognise(client, wish.token)
            async with self.replays.entered():
                view, upto, cursor = await self._missed(actor, wish)
        except InvalidSession as fault:
            self._count_resume(fault.reason)
            client.session.reopened(self._loop.time(), self.limits.identify_s)
            client.push(events.INVALID_SESSION)
            return
        except Crowded:
            self._count_resume("crowded")
            await asyncio.sleep(random.uniform(*_HOLD_S))  # noqa: S311
            raise Unavailable from None
        except (Unauthorized, Unavailable, TimeoutError) as fault:
            self._count_resume(type(fault).__name__.lower())
            raise
        if client.session.state is not Stage.OPENING:
            return
        key = cursor.key
        older = self._by_key.get(key)
        if older is not None:
            older.close(CloseReason.REPLACED)
        self._take_place(client, actor, key)
        self.presence.back(key, client.user_id, cursor.device)
        self._show(client)
        client.take = new_key()
        self._spawn(client, self._take_over(client))
        await self._follow(client, view, wish.seq, resume_upto=upto)

    async def _missed(self, actor: Actor, wish: Resume) -> tuple[View, int, Cursor]:
        """What was missed: the view that can tell it, where it ends, and the session's cursor."""
        cursor = self._signer.read(wish.session_id, time.time())
        if cursor is None:
            raise InvalidSession("bad_cursor")
        if (cursor.user_id, cursor.login_id) != (actor.user_id, actor.session_id):
            raise InvalidSession("other_session")
        for _ in range(_MISSED_TRIES):
            upto, shown, guilds, unsettled, cold = await self._now(actor, wish, cursor)
            if not await self._tailer.reached(upto, _TAILER_S):
                raise Unavailable
            sights = {
                g: found for g in guilds if (found := self.hub.sight_at(g, upto) or cold.get(g))
            }
            if len(sights) == len(guilds):
                break
            # Between the two looks somebody came to see other channels.
        else:
            raise Unavailable
        entries = await self._concerning(actor.user_id, set(guilds), wish.seq, upto)
        if len(entries) > self.limits.replay:
            raise InvalidSession("too_much")
        known = set(cursor.suppressed)
        shown += [entry.outbox_id for entry in entries if entry.outbox_id in known]
        new = [entry for entry in entries if entry.outbox_id not in known]
        moves = [entry for entry in new if is_move(entry, actor.user_id)]
        reshaped = {entry.guild_id for entry in new if is_about_sight(entry, actor.user_id)}
        reload = {g for g in guilds if g in reshaped or g in unsettled}
        # What was joined meanwhile is told where it was joined: the client does not know it yet.
        joined = {move.guild_id for move in moves if move.type == JOINED}
        view = View(
            actor.user_id,
            actor.session_id,
            guilds,
            sights,
            suppressed=shown,
            span=Span(
                upto,
                moves,
                guilds,
                sights=sights,
                user_id=actor.user_id,
                groups=Groups(new),
                reload=reload & joined,
            ),
            reload=reload - joined,
            find_sight=self.hub.sight_at,
        )
        return view, upto, cursor

    async def _now(
        self, actor: Actor, wish: Resume, cursor: Cursor
    ) -> tuple[int, list[int], dict[int, Roles], set[int], dict[int, Sight]]:
        """What holds now for one who resumes.

        The head of the log; what of the cursor's has no position yet; the guilds with the own
        roles; those where something about sight has no position yet; and the sights of those that
        this node knows nothing of.
        """
        async with self._db.snapshot() as conn:
            if not await self._doors.is_alive(conn, actor):
                raise Unauthorized
            upto, epoch = await repository.head(conn)
            if epoch != cursor.epoch:
                raise InvalidSession("other_epoch")
            if not 0 < wish.seq <= upto:
                raise InvalidSession("no_such_position")
            guilds = await self._doors.memberships(conn, actor.user_id)
            # A leave that has no position yet wins over the past; a join will be told live.
            for guild_id in await repository.undrained_moves(
                conn, actor.user_id, cursor.suppressed
            ):
                guilds.pop(guild_id, None)
            unsettled = await repository.undrained_reshapes(conn, actor.user_id, cursor.suppressed)
            shown = (
                await repository.still_undrained(conn, cursor.suppressed)
                if cursor.suppressed
                else []
            )
            unknown = [Snowflake(g) for g in guilds if not self.hub.knows(g)]
            sources = await self._doors.sources_of(conn, unknown) if unknown else {}
        cold = {int(g): Sight.of(source) for g, source in sources.items()}
        return upto, shown, guilds, unsettled, cold

    async def _concerning(
        self, user_id: Snowflake, guilds: set[int], seq: int, upto: int
    ) -> Sequence[Entry]:
        """The entries in (seq, upto] that concern a user, from memory or from the log."""
        if seq == upto:
            return []
        held = self._tailer.ring.after(seq, upto)
        if held is None:
            return await self._concerning_from_log(user_id, guilds, seq, upto)
        entries = [
            e for e in held if (e.guild_id in guilds if e.users is None else user_id in e.users)
        ]
        if entries and time.time() - entries[0].created_at.timestamp() > self.limits.retention_s:
            raise InvalidSession("too_old")
        return entries

    async def _concerning_from_log(
        self, user_id: Snowflake, guilds: set[int], seq: int, upto: int
    ) -> Sequence[Entry]:
        found: list[Entry] = []
        async with self._db.snapshot() as conn:
            oldest = await repository.oldest(conn)
            age_s = await repository.age_s(conn, seq + 1)
            if oldest is None or oldest > seq + 1 or (age_s or 0) > self.limits.retention_s:
                raise InvalidSession("too_old")
            for start in range(seq, upto, _LOG_SPAN):
                found += await repository.concerning(
                    conn, user_id, list(guilds), after=start, upto=min(upto, start + _LOG_SPAN)
                )
                if len(found) > self.limits.replay:
                    break
        return found

    def _recognise(self, client: Client, token: str) -> Actor:
        """Who shows this token. It is no stranger then, though it may have to wait."""
        actor = self._doors.recognise(token)
        self._known(client)
        return actor

    def _known(self, client: Client) -> None:
        if not client.is_stranger:
            return
        client.is_stranger = False
        network = network_of(client.address)
        crowd = self._strangers[network]
        del crowd[client]
        if not crowd:
            del self._strangers[network]

    def _take_place(self, client: Client, actor: Actor, key: int) -> None:
        client.user_id, client.login_id, client.key = actor.user_id, actor.session_id, key
        self._by_key[key] = client
        self._by_login.setdefault(client.login_id, set()).add(client)

    def follow(self, entries: Sequence[Entry]) -> None:
        """People who join and leave guilds are there or not there for others than before."""
        for entry in entries:
            if entry.users is not None and entry.guild_id and entry.type in {JOINED, LEFT}:
                self.presence.moved(entry.users, entry.guild_id, is_in=entry.type == JOINED)
        self.lists.follow(entries)

    async def _take_over(self, client: Client) -> None:
        """Have other nodes close the socket that had the session before."""
        take = client.take
        for attempt in range(_TAKE_TRIES):
            try:
                is_logged = await self._doors.take(Snowflake(client.user_id), client.key, take)
            except Unavailable:
                await asyncio.sleep(attempt + 1)
            else:
                if not is_logged:
                    client.take = 0
                return
        # Two sockets must not have one session: this one resumes once more.
        raise Unavailable

    def taken(self, key: int, take: int) -> None:
        """A session goes on at another socket, says the log.

        Every node sees the takes of a session in the same order, so the last one stays: whoever's
        own take is still on its way will be the last.
        """
        if take in self._takes:
            return  # Logged twice, by one who could not know that the first time had succeeded.
        self._takes[take] = None
        if len(self._takes) > _MOST_TAKES:
            self._takes.popitem(last=False)
        client = self._by_key.get(key)
        if client is None:
            return
        if client.take == take:
            client.take = 0
        elif not client.take:
            client.close(CloseReason.REPLACED)

    # Catching up.

    async def _follow(
        self, client: Client, view: View, pos: int, *, resume_upto: int | None = None
    ) -> None:
        """Tell everything behind `pos` as fast as the client reads, until it is live.

        With `resume_upto`, RESUMED is told once that position is reached. Never more is written
        ahead than the buffer's bound and a chunk: memory is bounded however much was missed.
        """
        last_resort = self._loop.time() + self.limits.catch_up_s
        while client.is_open:
            if view.reload:
                try:
                    async with self.replays.entered():
                        await self._reload(client, view, pos)
                except Crowded:
                    raise Unavailable from None
            # Written at once: the transport then shows whether the client keeps up.
            client.write_out()
            await asyncio.sleep(0)
            wait_s = min(self.limits.lag_s, last_resort - self._loop.time())
            if wait_s <= 0 or not await client.drained(wait_s):
                client.close(CloseReason.SLOW_READER)
                return
            if resume_upto is not None and pos >= resume_upto:
                client.push(events.dispatch("RESUMED", pos, b"{}"))
                client.session.opened(self._loop.time())
                self._count_resume("ok")
                resume_upto = None
                continue
            if pos == self.hub.pos and view.is_settled and not client.is_paused:
                client.guilds = view.guilds
                self.hub.attach(client, view.sights)
                missed = self.presence.live(client.key, client.user_id, client.guilds)
                self.hub.tell(client, missed)
                return
            if pos >= self.hub.pos:
                # Ahead of this node, or level with it while something is yet to be passed over.
                await self._tailer.reached(max(pos, self.hub.pos + 1), wait_s)
                continue
            pos = await self._tell_chunk(client, view, pos, resume_upto)

    async def _reload(self, client: Client, view: View, pos: int) -> None:
        """Tell guilds afresh, of which this node has no sight as of this session's position.

        What happened in them up to the moment of that is told no more, but for what GUILD_CREATE
        does not tell.
        """
        wanted = [Snowflake(guild_id) for guild_id in sorted(view.reload)]
        user_id = Snowflake(view.user_id)
        for _ in range(_SNAPSHOT_TRIES):
            async with self._db.snapshot() as conn:
                # What was said before such a change must not be judged by what holds behind it.
                if not await repository.undrained_reshapes(conn, user_id, ()) & set(wanted):
                    upto, _ = await repository.head(conn)
                    undrained = await repository.undrained_of(conn, wanted)
                    found = await self._doors.guilds_of(conn, user_id, wanted)
                    after = {
                        guild.id: await repository.last_reshape(conn, guild.id, user_id, pos, upto)
                        for guild, _ in found
                    }
                    break
            await self._tailer.reached(self._tailer.pos + 1, 0.1)
        else:
            raise Unavailable
        async with self._db.transaction() as tx:
            # On disk before anything is told: it lies behind all that the guilds are told with.
            for guild, _ in found:
                tx.emit(GuildTold(user_id=user_id, guild_id=guild.id))
        for guild, sources in found:
            known = [
                outbox_id
                for outbox_id, guild_id, kind in undrained
                if guild_id == guild.id and (is_state(kind) or kind in {JOINED, LEFT})
            ]
            view.told_afresh(
                guild.id,
                self._sight(sources, None if known else upto),
                own_roles(guild, user_id),
                Fresh(upto, after[guild.id]),
                known,
            )
            client.push(self._guild_frame(client, guild, pos))
        for guild_id in set(wanted) - {guild.id for guild, _ in found}:
            view.not_told(guild_id, was_known=view.knows(guild_id))

    async def _tell_chunk(
        self, client: Client, view: View, pos: int, resume_upto: int | None
    ) -> int:
        """Tell some of what is behind `pos`; where that ends."""
        held: Iterable[Entry] | None = self._tailer.ring.after(pos, resume_upto)
        end: int | None = None
        if held is None:
            held, end = await self._from_log(view, pos, resume_upto)
        size = 0
        for number, entry in enumerate(held):
            fate = view.take(entry)
            for kind, payload in view.news:
                client.push(events.dispatch(kind, entry.pos - 1, payload))
            pos = entry.pos
            if fate is Fate.END:
                client.close(CloseReason.AUTHENTICATION_FAILED)
                return pos
            if fate is Fate.RELOAD:
                return pos
            frame = events.frame_of(entry) if fate is Fate.TELL else None
            if frame is not None:
                client.push(frame)
                self.hub.deliveries += 1
                size += len(frame)
            if end is None and (size > _CHUNK_BYTES or number >= _CHUNK_ENTRIES):
                return pos
        return pos if end is None else end

    async def _from_log(
        self, view: View, pos: int, resume_upto: int | None
    ) -> tuple[Iterable[Entry], int]:
        """A chunk that memory no longer holds, and where it ends.

        Unavailable when the log no longer holds it either: the next resume will say so.
        """
        async with self._db.snapshot() as conn:
            oldest = await repository.oldest(conn)
            if oldest is None or oldest > pos + 1:
                raise Unavailable
            if resume_upto is None:
                entries = await repository.after(conn, pos, _CHUNK_ENTRIES)
                return entries, entries[-1].pos if entries else pos
            # Within what was missed the memberships are settled, so the database may choose.
            end = min(pos + _CHUNK_ENTRIES, resume_upto)
            entries = await repository.concerning(
                conn, view.user_id, list(view.guilds), after=pos, upto=end
            )
            return entries, end

    # Sending over the socket.

    def _queue_send(self, client: Client, body: bytes) -> None:
        """One after the other, so that a socket's messages keep their order.

        A client that sends faster than it is answered is not read any more until it was.
        """
        queue = self._sends.get(client)
        if queue is None:
            queue = self._sends[client] = deque([body])
            self._spawn(client, self._send_in_order(client, queue))
        else:
            queue.append(body)
            if len(queue) >= self.limits.sends_waiting:
                client.pause_reading()

    async def _send_in_order(self, client: Client, queue: deque[bytes]) -> None:
        actor = Actor(Snowflake(client.user_id), Snowflake(client.login_id))
        try:
            while queue and client.is_open:
                if not await client.drained(self.limits.lag_s):
                    client.close(CloseReason.SLOW_READER)
                    return
                body = queue.popleft()
                try:
                    client.push(_outcome(body, sent=await self._doors.send(actor, body)))
                except Unauthorized:
                    raise
                except AppError as fault:
                    client.push(_outcome(body, error=fault))
                if len(queue) <= self.limits.sends_waiting // 2:
                    client.resume_reading()
        finally:
            del self._sends[client]

    # Ending.

    def _end_logins(self, login_ids: Iterable[int]) -> None:
        """Close the sockets of login sessions that have ended, whether they keep up or not."""
        for login_id in login_ids:
            for client in list(self._by_login.get(login_id, ())):
                client.close(CloseReason.AUTHENTICATION_FAILED)
                if client.is_paused:
                    # What waits for it must not be read any more.
                    client.abort()

    def _spawn(self, client: Client, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(self._guard(client, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, client: Client, work: Coroutine[None, None, None]) -> None:
        """Whatever goes wrong ends this socket alone, in a way that its client understands."""
        try:
            await work
        except Unauthorized:
            client.close(CloseReason.AUTHENTICATION_FAILED)
        except SlowDown:
            client.close(CloseReason.RATE_LIMITED)
        except (Unavailable, TimeoutError):
            client.push(events.RECONNECT)
            client.close(CloseReason.UNKNOWN_ERROR)
        except Exception:  # noqa: BLE001  # a bug must not cost the other sockets anything
            _log.exception("gateway_task_failed")
            client.close(CloseReason.UNKNOWN_ERROR)


def _outcome(body: bytes, *, sent: object = None, error: AppError | None = None) -> bytes:
    """The answer to a send: the message or the error, with the nonce that it came with."""
    try:
        nonce = _read_nonce(body).nonce
    except UnreadableJson:
        nonce = None
    answer: dict[str, object] = {"nonce": nonce}
    if error is None:
        answer["message"] = sent
    else:
        answer["error"] = error_body(error)
    return events.message(Op.SENT, answer)
