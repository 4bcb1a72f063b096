"""The rules of login sessions: opened by a login, kept alive by refreshes, ended for good."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, NamedTuple

from internal.auth.session import repository
from internal.auth.session.model import (
    MAX_SESSIONS,
    Client,
    LivingSession,
    LoginSession,
    Pair,
    SessionEnded,
    StoredSession,
)
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import Unauthorized, UnknownSession
from internal.eventlog.freshness import TRUST_S, FreshCache
from internal.utils.actor import Actor
from internal.utils.address import network_of
from internal.utils.bucket import Limiter, Rate, take_or_refuse
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.jwt import AccessTokens
from internal.utils.snowflake import Snowflake
from internal.utils.token import RefreshToken, RefreshTokens, hash_of

# How long a client that lost the answer to a refresh may ask again.
_GRACE: Final = timedelta(seconds=10)
_MOST_CACHED: Final = 100_000
# For how long a network where an account signed in stays known as its owner's.
_NETWORK_AGE: Final = timedelta(days=90)
# All strangers together have so many attempts at one account, from however many addresses. A
# network where the account signed in lately has as many of its own: strangers who use up theirs
# don't lock the owner out. One rate for both, as another one would tell that there is an account.
_ATTEMPTS: Final = Rate(10, 1 / 60, guards_secrets=True)
_NOBODY: Final = Snowflake(0)


class Tokens(NamedTuple):
    """What makes and reads the two tokens of a pair."""

    access: AccessTokens
    refresh: RefreshTokens


class SessionCache:
    """Which sessions were found alive lately, and which have ended."""

    def __init__(self, clock: Clock, *, most: int = _MOST_CACHED) -> None:
        self._clock = clock
        self._most = most
        self._living: OrderedDict[Actor, tuple[float, datetime]] = OrderedDict()
        self._owners: dict[Snowflake, Actor] = {}
        # An id never comes back, so that it has ended stays true: neither a look-up that was under
        # way when the session ended nor a token that is shown again makes it living.
        self._ended: OrderedDict[Snowflake, None] = OrderedDict()

    def has(self, actor: Actor) -> bool:
        """Whether the session is known to live."""
        known = self._living.get(actor)
        if known is None:
            return False
        trusted_until, expires_at = known
        return self._clock.monotonic() < trusted_until and self._clock.now() < expires_at

    def has_ended(self, session_id: Snowflake) -> bool:
        return session_id in self._ended

    def keep(self, actor: Actor, expires_at: datetime) -> None:
        """Remember what a look-up found."""
        self._living[actor] = (self._clock.monotonic() + TRUST_S, expires_at)
        self._living.move_to_end(actor)
        self._owners[actor.session_id] = actor
        if len(self._living) > self._most:
            oldest, _ = self._living.popitem(last=False)
            self._owners.pop(oldest.session_id, None)

    def forget(self, session_ids: Iterable[Snowflake]) -> None:
        """Take sessions for ended, now and for as long as there is room to remember it."""
        for session_id in session_ids:
            self._ended[session_id] = None
            actor = self._owners.pop(session_id, None)
            if actor is not None:
                self._living.pop(actor, None)
        while len(self._ended) > self._most:
            self._ended.popitem(last=False)


class SessionService:
    """Opens, renews, lists and ends login sessions, and tells who a token is."""

    def __init__(
        self,
        db: Database,
        *,
        tokens: Tokens,
        limiter: Limiter,
        clock: Clock,
        new_id: Callable[[], Snowflake],
        shared: FreshCache[LivingSession],
    ) -> None:
        self.cache = SessionCache(clock)
        self._shared = shared
        self._db = db
        self._access, self._refresh = tokens
        self._limiter = limiter
        self._clock = clock
        self._new_id = new_id

    async def authenticate(self, token: str) -> Actor:
        """Tell who shows a token, whose session lives."""
        actor = self.recognise(token)
        await self.require(actor)
        return actor

    def recognise(self, token: str) -> Actor:
        """Tell who shows a token. Whether the session lives is for the caller to find out."""
        scheme, _, rest = token.partition(" ")
        claims = self._access.verify(rest if scheme.lower() == "bearer" else token)
        return Actor(claims.sub, claims.sid)

    async def require(self, actor: Actor) -> None:
        """Unauthorized unless the session lives."""
        if self.cache.has(actor):
            return
        if self.cache.has_ended(actor.session_id):
            raise Unauthorized
        if not await self._was_seen(actor) and not await self._lives(actor):
            raise Unauthorized

    async def open(self, tx: Transaction, user_id: Snowflake, client: Client) -> Pair:
        """Open a session. The user's row must be locked; the oldest session ends past the limit."""
        now = self._clock.now()
        session_id = self._new_id()
        token = self._refresh.make(RefreshToken(session_id, 1))
        session = StoredSession(
            id=session_id,
            user_id=user_id,
            refresh_hash=hash_of(token),
            generation=1,
            rotated_at=now,
            expires_at=now + self._refresh.lifetime,
        )
        await repository.insert(tx.conn, session, client)
        # Lock order: user → sessions → networks. A refresh, too, has its session's row before it
        # waits for the network's.
        surplus = await repository.delete_beyond(tx.conn, user_id, MAX_SESSIONS)
        await repository.remember_network(tx.conn, user_id, network_of(client.address), now)
        self._tell(tx, user_id, surplus)
        return self._pair(session, token)

    async def refresh(self, text: str, client: Client) -> Pair:
        """Give the next pair for a refresh token.

        A token that was used before ends its session: one of the two who showed it has stolen it.
        Only right after the rotation it is taken for a retry and gets the same answer again.
        """
        token = self._refresh.read(text)
        if token is None:
            raise Unauthorized
        async with self._db.transaction() as tx:
            session = await repository.lock(tx.conn, token.session_id)
            pair = await self._renew(tx, session, (token, text), client) if session else None
        self.settle(tx)
        if pair is None:
            raise Unauthorized
        return pair

    async def of_user(self, actor: Actor) -> list[LoginSession]:
        """List the sessions in which the actor is signed in."""
        async with self._db.read() as conn:
            rows = await repository.of_user(conn, actor.user_id, MAX_SESSIONS)
        return [
            LoginSession(
                id=Snowflake(row["id"]),
                created_at=Timestamp.at(row["created_at"]),
                last_used_at=Timestamp.at(row["last_used_at"]),
                expires_at=Timestamp.at(row["expires_at"]),
                address=row["address"],
                user_agent=row["user_agent"],
                current=row["id"] == actor.session_id,
            )
            for row in rows
        ]

    async def attempt(
        self, conn: Conn, user_id: Snowflake | None, name: str, client: Client
    ) -> None:
        """Count an attempt to sign in as `name`, whose account is `user_id`; SlowDown past many.

        All count by the name that was given, so that an account that doesn't exist answers like
        one that does, and a name does not give away the address that belongs to it.
        """
        network = network_of(client.address)
        is_own = await repository.network_exists(conn, user_id or _NOBODY, network)
        # The name stands last: whatever is in it, it never becomes the key of another bucket.
        key = f"login:own:{network}:{name}" if is_own else f"login:strangers:{name}"
        await take_or_refuse(self._limiter, key, _ATTEMPTS)

    async def end(self, actor: Actor, session_id: Snowflake) -> None:
        """End one of the actor's sessions, the one that asks included."""
        async with self._db.transaction() as tx:
            if not await repository.delete(tx.conn, session_id, actor.user_id):
                raise UnknownSession
            self._tell(tx, actor.user_id, [session_id])
        self.settle(tx)

    async def end_all(self, tx: Transaction, actor: Actor) -> None:
        """End every session of the one who asks. Call `settle` after the commit."""
        ended = await repository.delete_of_user(tx.conn, actor.user_id)
        if actor.session_id not in ended:  # somebody else has ended it meanwhile
            raise Unauthorized
        self._tell(tx, actor.user_id, ended)

    async def end_in(self, tx: Transaction, actor: Actor) -> None:
        """End the session that asks. Call `settle` after the commit."""
        if not await repository.delete(tx.conn, actor.session_id, actor.user_id):
            raise Unauthorized
        self._tell(tx, actor.user_id, [actor.session_id])

    def settle(self, tx: Transaction) -> None:
        """Refuse at once what a committed transaction has ended; other nodes hear by the log."""
        for event in tx.events:
            if isinstance(event, SessionEnded):
                self.cache.forget(event.session_ids)

    async def sweep(self, limit: int) -> int:
        """Remove up to `limit` expired sessions, and of old networks; how many rows those were."""
        now = self._clock.now()
        async with self._db.transaction() as tx:
            expired = await repository.delete_expired(tx.conn, now, limit)
            for user_id, sessions in groupby(sorted(expired), key=lambda row: row[0]):
                self._tell(tx, user_id, [session_id for _, session_id in sessions])
            networks = await repository.delete_networks(tx.conn, now - _NETWORK_AGE, limit)
        self.settle(tx)
        return len(expired) + networks

    async def is_alive(self, conn: Conn, actor: Actor) -> bool:
        """Whether the session is still there, as this snapshot sees it."""
        expires_at = await repository.find_expiry(conn, actor.session_id, actor.user_id)
        return expires_at is not None and expires_at > self._clock.now()

    async def _was_seen(self, actor: Actor) -> bool:
        """Whether another node has found the session alive, and nothing has happened since."""
        seen = await self._shared.find(actor.session_id, actor.user_id)
        if seen is None or seen.user_id != actor.user_id:
            return False
        return self._keep(actor, seen.expires_at)

    async def _lives(self, actor: Actor) -> bool:
        async with self._db.read() as conn:
            expires_at, as_of = await repository.find_expiry_as_of(
                conn, actor.session_id, actor.user_id
            )
        if expires_at is None:
            self.cache.forget([actor.session_id])
            return False
        if not self._keep(actor, expires_at):
            return False
        living = LivingSession(user_id=actor.user_id, expires_at=expires_at)
        await self._shared.keep(actor.session_id, as_of, living)
        return True

    def _keep(self, actor: Actor, expires_at: datetime) -> bool:
        """Remember what was found, unless the session has ended while it was looked for."""
        if self.cache.has_ended(actor.session_id) or expires_at <= self._clock.now():
            return False
        self.cache.keep(actor, expires_at)
        return True

    async def _renew(
        self,
        tx: Transaction,
        session: StoredSession,
        shown: tuple[RefreshToken, str],
        client: Client,
    ) -> Pair | None:
        """Rotate, repeat or end a session; None when there is no next pair."""
        token, text = shown
        now = self._clock.now()
        if session.expires_at <= now:
            return None
        newest = RefreshToken(session.id, session.generation)
        if token == newest and hash_of(text) == session.refresh_hash:
            return await self._rotate(tx.conn, session, client)
        if token.generation == session.generation - 1 and now - session.rotated_at <= _GRACE:
            # None when a node with a newer key made it: that node can repeat the answer.
            successor = self._refresh.find(newest, session.refresh_hash)
            return self._pair(session, successor) if successor else None
        await repository.delete(tx.conn, session.id, session.user_id)
        self._tell(tx, session.user_id, [session.id])
        return None

    async def _rotate(self, conn: Conn, session: StoredSession, client: Client) -> Pair:
        now = self._clock.now()
        generation = session.generation + 1
        token = self._refresh.make(RefreshToken(session.id, generation))
        rotated = StoredSession(
            id=session.id,
            user_id=session.user_id,
            refresh_hash=hash_of(token),
            generation=generation,
            rotated_at=now,
            expires_at=now + self._refresh.lifetime,
        )
        await repository.rotate(conn, rotated, client)
        network = network_of(client.address)
        await repository.remember_network(conn, session.user_id, network, now)
        return self._pair(rotated, token)

    def _pair(self, session: StoredSession, refresh_token: str) -> Pair:
        return Pair(
            user_id=session.user_id,
            session_id=session.id,
            access_token=self._access.issue(Actor(session.user_id, session.id)),
            refresh_token=refresh_token,
            expires_in=int(self._access.lifetime.total_seconds()),
        )

    def _tell(self, tx: Transaction, user_id: Snowflake, session_ids: Sequence[Snowflake]) -> None:
        if session_ids:
            tx.emit(SessionEnded(user_id=user_id, session_ids=session_ids))
