"""The rules of messages: sending them once, reading, changing and deleting them."""

import hmac
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from internal.channel.model import MAX_SLOWMODE_S, ChannelAccess
from internal.channel.service import ChannelService, check_access
from internal.chat.message import repository
from internal.chat.message.model import (
    MAX_BULK_DELETE,
    SUPPRESS_EMBEDS,
    SUPPRESS_NOTIFICATIONS,
    BulkDelete,
    GoneMessage,
    GoneMessages,
    Message,
    MessageDeleted,
    MessageEdited,
    MessagePage,
    MessagesDeleted,
    MessageSent,
    SendMessage,
    StoredNonce,
    UpdateMessage,
)
from internal.db.group_commit import GroupCommit, Postponed
from internal.db.postgres import Conn, Database, Transaction
from internal.errors import (
    AppError,
    BadBulkDelete,
    EmptyMessage,
    MissingPermissions,
    NonceMismatch,
    NotTheAuthor,
    SlowMode,
    Unavailable,
    UnknownMessage,
)
from internal.permission.model import Permission, allows
from internal.utils.clock import Clock
from internal.utils.json import Timestamp, encode
from internal.utils.snowflake import EPOCH_MS, MAX_SNOWFLAKE, NewId, Snowflake
from internal.utils.validator import field_error

_LANES: Final = 4
_MAX_BATCH: Final = 128
_MAX_WAITING: Final = 5000
_SEND_TIMEOUT_S: Final = 15.0

_READ: Final = Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY
_SEND: Final = Permission.VIEW_CHANNEL | Permission.SEND_MESSAGES
_MANAGE_MESSAGES: Final = int(Permission.MANAGE_MESSAGES)
# Slow mode slows down members, not those who keep order.
_UNSLOWED: Final = int(
    Permission.MANAGE_MESSAGES | Permission.MANAGE_CHANNELS | Permission.BYPASS_SLOWMODE
)

# An hour more than the day that is promised.
_NONCES_KEPT: Final = timedelta(hours=25)

_SENT_FLAGS: Final = SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS
# Something to see: not a space, not a control character, not one of zero width.
_VISIBLE: Final = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\u00ad]"
)
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


class _Send(msgspec.Struct, frozen=True, kw_only=True):
    """A send on its way into a batch."""

    actor: Snowflake
    channel_id: Snowflake
    content: str
    flags: int
    nonce: str | int | None
    # What makes a repetition of this send one with it; None if nothing does.
    key: str | None
    # Under each key, the newest first: a key may be changed between a send and its retry.
    body_hashes: tuple[bytes, ...]


_Outcome: TypeAlias = Message | AppError | Postponed


class MessageService:
    def __init__(
        self,
        db: Database,
        channels: ChannelService,
        new_id: NewId,
        clock: Clock,
        *,
        body_keys: Sequence[bytes],
    ) -> None:
        """`body_keys` key the hashes of bodies, which outlive messages; the first makes them."""
        self._body_keys = body_keys
        self._db = db
        self._channels = channels
        self._new_id = new_id
        self._clock = clock
        # How many messages were acknowledged, repetitions included; for the metrics.
        self.sent = 0
        self._sends: GroupCommit[_Send, Message] = GroupCommit(
            self._commit,
            commit_late=self._commit_late,
            lanes=_LANES,
            max_batch=_MAX_BATCH,
            max_waiting=_MAX_WAITING,
            timeout_s=_SEND_TIMEOUT_S,
        )

    async def run(self) -> None:
        """Commit the sends, until cancelled. Without it they wait."""
        await self._sends.run()

    def waiting(self) -> int:
        """How many sends are queued, for the metrics."""
        return self._sends.waiting()

    async def send(
        self,
        actor: Snowflake,
        wish: SendMessage,
        *,
        idempotency_key: str | None = None,
        enforce: bool = False,
    ) -> Message:
        """Send a message; it is on disk when this returns.

        A repetition, known by its key, gets the first answer. The key is `idempotency_key`, or
        the nonce if that is to be enforced.
        """
        if wish.channel_id is msgspec.UNSET:
            raise field_error("channel_id", "This field is required", "BASE_TYPE_REQUIRED")
        content = wish.content or ""
        if _VISIBLE.search(content) is None:
            raise EmptyMessage
        flags = (wish.flags or 0) & _SENT_FLAGS
        key = _key(wish, idempotency_key, enforce=enforce)
        send = _Send(
            actor=actor,
            channel_id=wish.channel_id,
            content=content,
            flags=flags,
            nonce=wish.nonce,
            key=key,
            body_hashes=()
            if key is None
            else tuple(_hash(secret, content, flags, wish.nonce) for secret in self._body_keys),
        )
        # Channels are told apart by the time that is in their ids; the lowest bits are mostly 0.
        message = await self._sends.submit(wish.channel_id >> 22, send)
        self.sent += 1
        return message

    async def page(
        self, actor: Snowflake, channel_id: Snowflake, page: MessagePage
    ) -> list[Message]:
        """List messages of a channel, newest first."""
        anchors = [a for a in (page.before, page.after, page.around) if a is not None]
        if len(anchors) > 1:
            raise field_error("around", "Only one of before, after and around may be given")
        async with self._db.read() as conn:
            await self._channels.access(conn, actor, channel_id, _READ)
            if page.around is not None:
                return await _page_around(conn, channel_id, page.around, page.limit)
            if page.after is not None:
                return await repository.page_after(conn, channel_id, page.after, page.limit)
            return await repository.page_before(conn, channel_id, page.before, page.limit)

    async def get(self, actor: Snowflake, channel_id: Snowflake, message_id: Snowflake) -> Message:
        async with self._db.read() as conn:
            await self._channels.access(conn, actor, channel_id, _READ)
            message = await repository.find(conn, channel_id, message_id)
        if message is None:
            raise UnknownMessage
        return message

    async def edit(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        message_id: Snowflake,
        wish: UpdateMessage,
    ) -> Message:
        """Change one's own message. What is not given stays; no change tells nobody."""
        async with self._channels.hold(actor, channel_id, Permission.VIEW_CHANNEL) as (tx, access):
            author_id = await repository.lock(tx.conn, channel_id, message_id)
            message = await repository.find(tx.conn, channel_id, message_id)
            if author_id is None or message is None:
                raise UnknownMessage
            if author_id != actor:
                raise NotTheAuthor
            edited = _edited(message, wish)
            if edited == message:
                return message
            now = self._clock.now()
            edited = msgspec.structs.replace(edited, edited_timestamp=Timestamp.at(now))
            await repository.update(tx.conn, edited, now)
            # In a replay the edit stands for the creation, too, whose nonce the sender waits for.
            nonce = await repository.find_nonce(tx.conn, channel_id, message_id)
            told = _told(msgspec.structs.replace(edited, nonce=nonce), access)
            tx.emit(MessageEdited(message=told, to=access.audience()))
            return edited

    async def delete(self, actor: Snowflake, channel_id: Snowflake, message_id: Snowflake) -> None:
        async with self._channels.hold(actor, channel_id, Permission.VIEW_CHANNEL) as (tx, access):
            author_id = await repository.lock(tx.conn, channel_id, message_id)
            if author_id is None:
                raise UnknownMessage
            if author_id != actor and not allows(access.permissions, _MANAGE_MESSAGES):
                raise MissingPermissions
            await repository.delete(tx.conn, channel_id, [message_id])
            gone = GoneMessage(
                id=message_id, channel_id=channel_id, guild_id=access.guild_id or msgspec.UNSET
            )
            tx.emit(MessageDeleted(gone=gone, to=access.audience()))

    async def bulk_delete(self, actor: Snowflake, channel_id: Snowflake, wish: BulkDelete) -> None:
        """Delete many messages. Those that are not in this channel are passed over."""
        message_ids = sorted(set(wish.messages))
        if not 1 <= len(message_ids) <= MAX_BULK_DELETE:
            raise BadBulkDelete
        async with self._channels.hold(actor, channel_id, Permission.MANAGE_MESSAGES) as (
            tx,
            access,
        ):
            deleted = await repository.delete(tx.conn, channel_id, message_ids)
            if deleted:
                gone = GoneMessages(
                    ids=tuple(deleted),
                    channel_id=channel_id,
                    guild_id=access.guild_id or msgspec.UNSET,
                )
                tx.emit(MessagesDeleted(gone=gone, to=access.audience()))

    async def sweep_nonces(self, limit: int) -> int:
        """Forget nonces that nobody may rely on any more; how many it were."""
        async with self._db.read() as conn:
            return await repository.sweep_nonces(conn, self._clock.now() - _NONCES_KEPT, limit)

    async def sweep_marks(self, limit: int) -> int:
        """Forget what slow mode need not remember any more; how many it were."""
        floor = self._clock.now() - timedelta(seconds=MAX_SLOWMODE_S)
        async with self._db.read() as conn:
            return await repository.sweep_marks(conn, _first_id(floor), limit)

    async def purge(self, limit: int) -> int:
        """Delete up to `limit` messages of one channel that is gone; 0 once nothing is left.

        To be called again until then. What is to be purged is on disk since the channel's end.
        """
        async with self._db.transaction() as tx:
            channel_id = await repository.lock_purge(tx.conn)
            if channel_id is None:
                return 0
            count = await repository.purge(tx.conn, channel_id, limit)
            if count < limit:
                await repository.end_purge(tx.conn, channel_id)
            return max(count, 1)

    # A batch of sends.

    async def _commit(self, sends: Sequence[_Send]) -> list[_Outcome]:
        """Commit sends in one transaction, with a number of statements that is always the same.

        Those to guilds that are being changed are put aside.
        """
        async with self._db.transaction() as tx:
            held, found = await self._channels.hold_free(tx.conn, _pairs(sends))
            # Not past those of the same guild that were put aside before.
            free = {guild_id for guild_id in held if not self._sends.is_late(guild_id)}
            return await self._commit_held(tx, sends, found, free)

    async def _commit_late(self, guild_id: int, sends: Sequence[_Send]) -> list[Message | AppError]:
        """Commit sends to one guild that was being changed, as soon as it is free."""
        guild = Snowflake(guild_id)
        async with self._channels.hold_late(guild, _pairs(sends)) as (tx, found):
            outcomes = await self._commit_held(tx, sends, found, {guild})
        return [
            # A channel does not move to another guild.
            Unavailable(retry_after=1) if isinstance(outcome, Postponed) else outcome
            for outcome in outcomes
        ]

    async def _commit_held(
        self,
        tx: Transaction,
        sends: Sequence[_Send],
        found: dict[repository.Pair, ChannelAccess],
        held: set[Snowflake],
    ) -> list[_Outcome]:
        """Commit sends; `found` stays true until the end of `tx` for the guilds that are held."""
        outcomes: list[_Outcome] = []
        for send in sends:
            try:
                access = check_access(found.get((send.actor, send.channel_id)), _SEND)
            except AppError as fault:
                outcomes.append(fault)
                continue
            if access.guild_id is None or access.guild_id in held:
                outcomes.append(_message(send, self._new_id(), access))
            else:
                outcomes.append(Postponed(access.guild_id))
        new = await self._settle_nonces(tx.conn, sends, outcomes)
        new = await self._slow_down(tx.conn, sends, outcomes, new, found)
        messages = [message for i in new if isinstance(message := outcomes[i], Message)]
        if messages:
            await repository.insert_all(tx.conn, messages)
        for message in messages:
            access = found[message.author.id, message.channel_id]
            tx.emit(MessageSent(message=_told(message, access), to=access.audience()))
        return outcomes

    async def _settle_nonces(
        self, conn: Conn, sends: Sequence[_Send], outcomes: list[_Outcome]
    ) -> list[int]:
        """Turn repetitions into what was sent first; the places of the sends that are new."""
        new: list[int] = []
        keyed: list[tuple[int, repository.NonceKey, StoredNonce]] = []
        wishes: dict[repository.NonceKey, StoredNonce] = {}
        for i, (send, message) in enumerate(zip(sends, outcomes, strict=True)):
            if not isinstance(message, Message):
                continue
            if send.key is None:
                new.append(i)
                continue
            wish = StoredNonce(
                channel_id=send.channel_id,
                message_id=message.id,
                body_hash=send.body_hashes[0],
                author=message.author,
            )
            keyed.append((i, (send.actor, send.key), wish))
            wishes.setdefault((send.actor, send.key), wish)
        if not keyed:
            return new
        firsts = await _claim(conn, wishes)
        for i, key, wish in keyed:
            outcomes[i] = _settle(outcomes[i], sends[i], wish, firsts.get(key))
            if firsts.get(key) is wish:
                new.append(i)
        return sorted(new)

    async def _slow_down(
        self,
        conn: Conn,
        sends: Sequence[_Send],
        outcomes: list[_Outcome],
        new: list[int],
        found: dict[repository.Pair, ChannelAccess],
    ) -> list[int]:
        """Refuse what comes too soon in channels with slow mode; the places that remain new."""
        slowed = {
            pair: access.slowmode_s
            for pair, access in found.items()
            if access.slowmode_s and not access.permissions & _UNSLOWED
        }
        if not slowed:
            return new
        firsts: dict[repository.Pair, int] = {}
        for i in new:
            if (pair := (sends[i].actor, sends[i].channel_id)) in slowed:
                firsts.setdefault(pair, i)
        if not firsts:
            return new
        marks = [(pair, _id_of(outcomes[i])) for pair, i in firsts.items()]
        too_soon = await repository.mark_sends(conn, marks)
        # Of two in the same batch the second is too soon, too.
        last = dict(marks)
        if too_soon:
            last.update(await repository.last_marked(conn, list(too_soon)))
        remaining: list[int] = []
        refused: list[repository.NonceKey] = []
        for i in new:
            send = sends[i]
            pair = (send.actor, send.channel_id)
            if pair not in slowed or (firsts[pair] == i and pair not in too_soon):
                remaining.append(i)
                continue
            wait_s = slowed[pair] - _seconds_between(last[pair], _id_of(outcomes[i]))
            outcomes[i] = SlowMode(retry_after=max(wait_s, 0))
            if send.key is not None:
                refused.append((send.actor, send.key))
        if refused:
            # Nothing was sent under these: sending again later must not find them taken.
            await repository.release_nonces(conn, refused)
            _refuse_twins(sends, outcomes, refused)
        return remaining


def _pairs(sends: Sequence[_Send]) -> list[repository.Pair]:
    return list({(send.actor, send.channel_id): None for send in sends})


def _hash(key: bytes, content: str, flags: int, nonce: str | int | None) -> bytes:
    """What tells one body from another, and tells nothing to who reads the table and guesses."""
    return hmac.digest(key, encode((content, flags, nonce)), "sha256")


def _key(wish: SendMessage, idempotency_key: str | None, *, enforce: bool) -> str | None:
    """What a repetition of the send is known by."""
    if idempotency_key is not None:
        if _IDEMPOTENCY_KEY.fullmatch(idempotency_key) is None:
            raise field_error("Idempotency-Key", "Must be 1 to 128 visible ASCII characters")
        return idempotency_key
    if wish.nonce in {None, ""} or not (enforce or wish.enforce_nonce):
        return None
    return str(wish.nonce)


def _message(send: _Send, message_id: Snowflake, access: ChannelAccess) -> Message:
    return Message(
        id=message_id,
        channel_id=send.channel_id,
        author=access.user,
        content=send.content,
        timestamp=Timestamp.at(message_id.created_at),
        flags=send.flags,
        nonce=msgspec.UNSET if send.nonce is None else send.nonce,
    )


def _told(message: Message, access: ChannelAccess) -> Message:
    """Add what the event carries in a guild; in a direct message it is absent, not null."""
    if access.guild_id is None or access.member is None:
        return message
    return msgspec.structs.replace(message, guild_id=access.guild_id, member=access.member)


async def _claim(
    conn: Conn, wishes: dict[repository.NonceKey, StoredNonce]
) -> dict[repository.NonceKey, StoredNonce]:
    """Take the nonces that are free; the first send for each, which may be the own one."""
    # In one order, so that two batches do not wait for each other.
    claimed = await repository.claim_nonces(conn, sorted(wishes.items(), key=lambda w: w[0]))
    taken = [key for key in wishes if key not in claimed]
    firsts = await repository.find_nonces(conn, taken) if taken else {}
    return firsts | {key: wishes[key] for key in claimed}


def _settle(
    outcome: _Outcome, send: _Send, wish: StoredNonce, first: StoredNonce | None
) -> _Outcome:
    """Make a send one with the first of its nonce.

    The body is the same, so with the author of then the answer is, too.
    """
    if first is None:  # it was swept away between the two statements
        return Unavailable(retry_after=0)
    if not isinstance(outcome, Message) or first is wish:
        return outcome
    if first.channel_id != send.channel_id or first.body_hash not in send.body_hashes:
        return NonceMismatch()
    return msgspec.structs.replace(
        outcome,
        id=first.message_id,
        timestamp=Timestamp.at(first.message_id.created_at),
        author=first.author,
    )


def _id_of(outcome: _Outcome) -> Snowflake:
    if not isinstance(outcome, Message):
        raise TypeError("only a message has an id")
    return outcome.id


def _first_id(when: datetime) -> Snowflake:
    """Below every id that is made then or later."""
    return Snowflake(max(int(when.timestamp() * 1000) - EPOCH_MS, 0) << 22)


def _seconds_between(earlier: Snowflake, later: Snowflake) -> float:
    return ((later >> 22) - (earlier >> 22)) / 1000


def _refuse_twins(
    sends: Sequence[_Send],
    outcomes: list[_Outcome],
    refused: Sequence[repository.NonceKey],
) -> None:
    """Refuse the repetitions, in the same batch, of sends that came too soon."""
    keys = set(refused)
    for i, send in enumerate(sends):
        is_twin = send.key is not None and (send.actor, send.key) in keys
        if is_twin and isinstance(outcomes[i], Message):
            outcomes[i] = SlowMode(retry_after=1)


async def _page_around(
    conn: Conn, channel_id: Snowflake, around: Snowflake, limit: int
) -> list[Message]:
    """List half of the page newer than `around`, then it and older ones."""
    newer = await repository.page_after(conn, channel_id, around, (limit - 1) // 2)
    upto = Snowflake(min(around + 1, MAX_SNOWFLAKE))
    return newer + await repository.page_before(conn, channel_id, upto, limit - (limit - 1) // 2)


def _edited(message: Message, wish: UpdateMessage) -> Message:
    """Apply what was given. A content of null is an empty one, which is refused."""
    if wish.content is not msgspec.UNSET:
        content = wish.content or ""
        if _VISIBLE.search(content) is None:
            raise EmptyMessage
        message = msgspec.structs.replace(message, content=content)
    if wish.flags is not msgspec.UNSET:
        # Only this one can be changed later.
        kept = message.flags & ~SUPPRESS_EMBEDS
        message = msgspec.structs.replace(
            message, flags=kept | ((wish.flags or 0) & SUPPRESS_EMBEDS)
        )
    return message
