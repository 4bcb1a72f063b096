"""Where the nodes tell each other who is there: in the process, or in Redis.

Every node writes what it knows of its own users, and reads what the others wrote. What a node
wrote ends with it: it says again and again that it lives, once for all of its users.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog

from internal.db.redis import Redis, RedisAway
from internal.presence.model import Change, SessionPresence, UserPresence
from internal.utils.clock import Clock

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")

# How long a node lives without a word, and how long those who miss it wait for its return: an
# emptied Redis is filled anew within a second, and nobody was away meanwhile.
TTL_S: Final = 15.0
PATIENCE_S: Final = 5.0

_BATCH: Final = 250
# So many changes of a node can be read one by one, as the scripts know too; who missed more reads
# everything.
_LOG: Final = 4096
_VERSIONS_A_MS: Final = 1000
# Nodes that are read at the same time.
_AT_ONCE: Final = 8
# What a session showed last is kept for so long, in so many slots of a cluster; in the process, of
# so many sessions.
_KEPT_MS: Final = 86_400_000
_SLOTS: Final = 8
_MAX_KEPT: Final = 20_000
# The moment stands before what is kept, for a script to compare.
_AT_DIGITS: Final = 15

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(UserPresence).decode
_decode_session = msgspec.msgpack.Decoder(SessionPresence).decode

_BEAT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
return 1
"""
_PUT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for at = 2, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[at])
  else
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  end
  redis.call('LPUSH', KEYS[3], ARGV[at])
end
redis.call('LTRIM', KEYS[3], 0, 4095)
redis.call('INCRBY', KEYS[1], (#ARGV - 1) / 2)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
return 1
"""
_NEWS: Final = """
local version = redis.call('GET', KEYS[1])
if not version then return false end
local missed = tonumber(version) - tonumber(ARGV[2])
if missed <= 0 or missed > 4096 then return {version, missed} end
return {version, missed, unpack(redis.call('LRANGE', KEYS[3], 0, missed - 1))}
"""
# By the clock of Redis: those of the nodes differ.
_ENROL: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
return 1
"""
_ALIVE: Final = """
return redis.call('ZRANGEBYSCORE', KEYS[1], redis.call('TIME')[1] * 1000 - ARGV[1], '+inf')
"""
_KEEP: Final = """
for at, key in ipairs(KEYS) do
  local old, new = redis.call('GET', key), ARGV[at + 1]
  if not old or string.sub(old, 1, 15) <= string.sub(new, 1, 15) then
    redis.call('SET', key, new, 'PX', ARGV[1])
  end
end
return 1
"""
_LOAD: Final = """
for at = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""


class Presences(Protocol):
    """What one node writes and reads. Calls raise RedisAway when there is nobody to ask."""

    async def put(self, parts: Mapping[int, UserPresence | None]) -> bool:
        """Write what changed; None takes a user away. False: this node was forgotten."""
        ...

    async def replace(self, parts: Mapping[int, UserPresence]) -> None:
        """Write everything anew. Nobody sees it half done."""
        ...

    async def beat(self) -> bool:
        """Live on, with all that was written. False: this node was forgotten."""
        ...

    async def changes(self) -> Sequence[Change]:
        """What other nodes wrote since the last call; of a node that died, that all are gone."""
        ...

    async def keep(self, sessions: Iterable[SessionPresence]) -> None:
        """Remember what sessions show, beyond their node: of two words the later one."""
        ...

    async def kept(self, keys: Sequence[int]) -> Sequence[SessionPresence]:
        """What is remembered of these sessions."""
        ...


class Board:
    """What LocalPresences share: the nodes of one process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.nodes: dict[str, dict[int, UserPresence]] = {}
        self.heard_at: dict[str, float] = {}
        # What each node has not read yet.
        self.news: dict[str, dict[tuple[str, int], UserPresence | None]] = {}
        self.kept: OrderedDict[int, SessionPresence] = OrderedDict()

    def post(self, node: str, parts: Mapping[int, UserPresence | None]) -> None:
        self.heard_at[node] = self.clock.monotonic()
        own = self.nodes.setdefault(node, {})
        for user_id, part in parts.items():
            if part is None:
                own.pop(user_id, None)
            else:
                own[user_id] = part
        for reader, unread in self.news.items():
            if reader != node:
                unread.update({(node, user_id): part for user_id, part in parts.items()})

    def bury(self) -> None:
        """Forget the nodes that have been silent for too long."""
        oldest = self.clock.monotonic() - TTL_S - PATIENCE_S
        for node in [node for node, at in self.heard_at.items() if at < oldest]:
            self.post(node, dict.fromkeys(self.nodes[node]))
            del self.nodes[node], self.heard_at[node]


class LocalPresences:
    """Presence in the process: for one node, or several on one board."""

    def __init__(self, board: Board, node: str) -> None:
        self._board = board
        self._node = node
        board.news[node] = {
            (other, user_id): part
            for other, parts in board.nodes.items()
            for user_id, part in parts.items()
        }

    async def put(self, parts: Mapping[int, UserPresence | None]) -> bool:
        if not await self.beat():
            return False
        self._board.post(self._node, parts)
        return True

    async def replace(self, parts: Mapping[int, UserPresence]) -> None:
        gone = self._board.nodes.get(self._node, {}).keys() - parts.keys()
        self._board.post(self._node, {**dict.fromkeys(gone), **parts})

    async def beat(self) -> bool:
        self._board.bury()
        if self._node not in self._board.nodes:
            return False
        self._board.post(self._node, {})
        return True

    async def changes(self) -> Sequence[Change]:
        self._board.bury()
        unread = self._board.news[self._node]
        self._board.news[self._node] = {}
        return [Change(node, user_id, part) for (node, user_id), part in unread.items()]

    async def keep(self, sessions: Iterable[SessionPresence]) -> None:
        kept = self._board.kept
        for session in sessions:
            known = kept.pop(session.key, session)
            kept[session.key] = session if session.at >= known.at else known
        while len(kept) > _MAX_KEPT:
            kept.popitem(last=False)

    async def kept(self, keys: Sequence[int]) -> Sequence[SessionPresence]:
        return [self._board.kept[key] for key in keys if key in self._board.kept]


class _Peer:
    """How far another node has been read."""

    __slots__ = ("missing_since", "users", "version")

    def __init__(self) -> None:
        self.version = 0
        self.users: set[int] = set()
        self.missing_since: float | None = None


class RedisPresences:
    """Presence in Redis: of each node a table of its users, a version, and the last changes.

    All three end together when the node does not renew them, and lie in one slot of a cluster.
    """

    def __init__(self, redis: Redis, node: str, clock: Clock, *, ttl_s: float = TTL_S) -> None:
        self._redis = redis
        self._node = node
        self._clock = clock
        # Values that could not be read: of a newer release, or damaged.
        self.unreadable = 0
        self._ttl_ms = round(ttl_s * 1000)
        self._patience_s = min(PATIENCE_S, ttl_s)
        self._silent_ms = round((ttl_s + self._patience_s) * 1000)
        self._peers: dict[str, _Peer] = {}

    async def put(self, parts: Mapping[int, UserPresence | None]) -> bool:
        for some in _batches(parts.items()):
            if not await self._run(_PUT, self._keys(self._node), *_pairs(some)):
                return False
        return True

    async def replace(self, parts: Mapping[int, UserPresence]) -> None:
        keys = version, users, _ = self._keys(self._node)
        # Without a version the node counts as away for a moment, and is not read.
        await self._call(lambda client: client.delete(*keys))
        for some in _batches(parts.items()):
            await self._run(_LOAD, (users,), *_pairs(some))
        # Beyond any version of before, so that others read everything.
        first = self._now_ms() * _VERSIONS_A_MS
        await self._call(lambda client: client.set(version, first, px=self._ttl_ms))
        await self._enrol()

    async def beat(self) -> bool:
        if not await self._run(_BEAT, self._keys(self._node)):
            return False
        await self._enrol()
        return True

    async def changes(self) -> Sequence[Change]:
        found, is_away = await self._read_all()
        if is_away:
            # Nodes that could not be seen were not missing.
            for peer in self._peers.values():
                peer.missing_since = None
            if not found:
                raise RedisAway
        return found

    async def _read_all(self) -> tuple[list[Change], bool]:
        """What was found, and whether some could not be asked."""
        try:
            names = await self._run(_ALIVE, (self._nodes,), ttl=self._silent_ms)
        except RedisAway:
            return [], True
        nodes = ({name.decode() for name in names} | self._peers.keys()) - {self._node}
        few = asyncio.Semaphore(_AT_ONCE)
        reads = [self._read_one(node, few) for node in nodes]
        # What one node was read to have written is handed on, whatever becomes of the others.
        answers = await asyncio.gather(*reads, return_exceptions=True)
        found: list[Change] = []
        is_away = False
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, RedisAway):
                is_away = True
            elif isinstance(answer, BaseException):
                _log.error("presence_node_not_read", node=node, exc_info=answer)
            else:
                found += answer
        return found, is_away

    async def keep(self, sessions: Iterable[SessionPresence]) -> None:
        slots: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        for session in sessions:
            value = b"%0*d%b" % (_AT_DIGITS, session.at, _encode(session))
            slots[self._together(session.key)][self._kept_key(session.key)] = value
        await asyncio.gather(
            *(
                self._run(_KEEP, list(values), *values.values(), ttl=_KEPT_MS)
                for values in slots.values()
            )
        )

    async def kept(self, keys: Sequence[int]) -> Sequence[SessionPresence]:
        slots: defaultdict[int, list[str]] = defaultdict(list)
        for key in keys:
            slots[self._together(key)].append(self._kept_key(key))
        answers = await asyncio.gather(
            *(self._call(partial(_read_keys, names)) for names in slots.values())
        )
        found = [self._decoded(_decode_kept, value) for some in answers for value in some]
        return [session for session in found if session is not None]

    async def _read_one(self, node: str, few: asyncio.Semaphore) -> list[Change]:
        async with few:
            return await self._read(node)

    async def _read(self, node: str) -> list[Change]:
        peer = self._peers.get(node)
        news = await self._run(_NEWS, self._keys(node), peer.version if peer else 0)
        if news is None:
            return self._missed(node)
        peer = peer or self._peers.setdefault(node, _Peer())
        peer.missing_since = None
        version, missed, *ids = news
        if not missed:
            return []
        if len(ids) == missed:
            found = await self._named(node, dict.fromkeys(ids))
        else:
            found = await self._everything(node, peer)
        peer.version = int(version)
        for change in found:
            (peer.users.discard if change.part is None else peer.users.add)(change.user_id)
        return found

    def _missed(self, node: str) -> list[Change]:
        """A node has no version: it is dead, or Redis was emptied and it is about to return."""
        peer = self._peers.get(node)
        if peer is None:
            return []
        now = self._clock.monotonic()
        if peer.missing_since is None:
            peer.missing_since = now
        if now - peer.missing_since < self._patience_s:
            return []
        del self._peers[node]
        return [Change(node, user_id, None) for user_id in peer.users]

    async def _named(self, node: str, ids: Iterable[bytes]) -> list[Change]:
        users = self._keys(node)[1]
        found: list[Change] = []
        for some in _batches(ids):
            parts = await self._call(partial(_read_fields, users, some))
            found += [
                # Who can't be read counts as away, rather than as what was known before.
                Change(node, int(user_id), self._decoded(_decode, part))
                for user_id, part in zip(some, parts, strict=True)
            ]
        return found

    async def _everything(self, node: str, peer: _Peer) -> list[Change]:
        users = self._keys(node)[1]
        # Whoever is not read again is gone.
        found: dict[int, UserPresence | None] = dict.fromkeys(peer.users)
        cursor = 0
        while True:
            cursor, some = await self._call(partial(_scan, users, cursor))
            found.update(
                {int(user_id): self._decoded(_decode, part) for user_id, part in some.items()}
            )
            if not cursor:
                return [Change(node, user_id, part) for user_id, part in found.items()]

    async def _enrol(self) -> None:
        """Stand in the list of nodes, and take out those that nobody waits for any more."""
        await self._run(_ENROL, (self._nodes,), self._node.encode(), ttl=self._silent_ms)

    async def _run(
        self, script: str, keys: Sequence[str], *arguments: bytes | int, ttl: int | None = None
    ) -> Any:
        """Run a script. Its first argument is how long things live, here those of a node."""
        lives = self._ttl_ms if ttl is None else ttl
        return await self._call(
            lambda client: client.eval(script, len(keys), *keys, lives, *arguments)
        )

    def _decoded(self, decode: Callable[[bytes], T], value: bytes | None) -> T | None:
        if value is None:
            return None
        try:
            return decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            if not self.unreadable:
                _log.warning("presence_unreadable")
            self.unreadable += 1
            return None

    async def _call(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        """Call a client of either kind. Its types don't know what a script answers."""
        return await self._redis.call(command)

    @property
    def _nodes(self) -> str:
        return self._redis.key("presence", "nodes")

    def _together(self, key: int) -> int:
        """Sessions with the same number go in one command: in a cluster, those of one slot."""
        return key % _SLOTS if self._redis.is_cluster else 0

    def _kept_key(self, key: int) -> str:
        return self._redis.key("presence", "kept", f"{{{key % _SLOTS}}}", key)

    def _keys(self, node: str) -> tuple[str, str, str]:
        """The version, the users and the last changes of a node."""
        return (
            self._redis.key("presence", f"{{{node}}}", "version"),
            self._redis.key("presence", f"{{{node}}}", "users"),
            self._redis.key("presence", f"{{{node}}}", "log"),
        )

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _read_fields(key: str, fields: Sequence[bytes], client: Any) -> Awaitable[Any]:
    found: Awaitable[Any] = client.hmget(key, fields)
    return found


def _read_keys(keys: Sequence[str], client: Any) -> Awaitable[Any]:
    found: Awaitable[Any] = client.mget(keys)
    return found


def _decode_kept(value: bytes) -> SessionPresence:
    return _decode_session(value[_AT_DIGITS:])


def _scan(key: str, cursor: int, client: Any) -> Awaitable[Any]:
    found: Awaitable[Any] = client.hscan(key, cursor, count=_BATCH)
    return found


def _batches(many: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(many)
    while some := list(islice(rest, _BATCH)):
        yield some


def _pairs(parts: Iterable[tuple[int, UserPresence | None]]) -> Iterator[bytes]:
    """The arguments of a script: each user and what to write of it, nothing to take it away."""
    for user_id, part in parts:
        yield b"%d" % user_id
        yield b"" if part is None else _encode(part)
