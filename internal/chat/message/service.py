"""The rules of messages: sending them once, reading, changing and deleting them."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from internal.channel.model import MAX_SLOWMODE_S, ChannelAccess
from internal.channel.service import ChannelService, check_access, check_takes_messages
from internal.channel.thread.member.service import (
    ThreadMembership,
    is_ready,
    note_deletes,
    note_sends,
    refuse_locked,
    threads_of_messages,
)
from internal.channel.thread.model import FirstMessage
from internal.chat.mention.model import (
    NOBODY,
    AllowedMentions,
    Mention,
    MentionPage,
    Mentions,
    Named,
)
from internal.chat.mention.service import MentionService, named
from internal.chat.message import repository
from internal.chat.message.model import (
    AUTO_MODERATION_ACTION,
    HAS_THREAD,
    MAX_BULK_DELETE,
    SUPPRESS_EMBEDS,
    SUPPRESS_NOTIFICATIONS,
    AuthorPurge,
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
    BlockedByAutomod,
    EmptyMessage,
    MissingPermissions,
    NonceMismatch,
    NotTheAuthor,
    NotVerified,
    SlowMode,
    ThreadArchived,
    ThreadNotReady,
    Unavailable,
    UnknownMessage,
    WrongChannelType,
)
from internal.guild.audit.model import Act, Action
from internal.guild.audit.service import AuditTrail
from internal.guild.automod.model import Finding, Hit, Said
from internal.guild.automod.service import AutomodService
from internal.guild.model import Thread
from internal.permission.model import Permission, allows
from internal.user.model import User
from internal.utils.clock import Clock
from internal.utils.json import Timestamp, encode
from internal.utils.snowflake import EPOCH_MS, MAX_SNOWFLAKE, NewId, Snowflake
from internal.utils.validator import field_error

_LANES: Final = 4
_MAX_BATCH: Final = 128
_MAX_WAITING: Final = 5000
_SEND_TIMEOUT_S: Final = 15.0
# With a guild locked, so many messages of somebody are looked at in one transaction.
_PURGED_AT_ONCE: Final = 1000

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
    mentions: Named
    nonce: str | int | None
    # What makes a repetition of this send one with it; None if nothing does.
    key: str | None
    # Under each key, the newest first: a key may be changed between a send and its retry.
    body_hashes: tuple[bytes, ...]
    # That of the first message of a forum's post is given; others get one.
    message_id: Snowflake | None = None


_Outcome: TypeAlias = Message | AppError | Postponed


class MessageService:
    def __init__(  # noqa: PLR0913  # what a send has to do with
        self,
        db: Database,
        channels: ChannelService,
        new_id: NewId,
        clock: Clock,
        *,
        audit: AuditTrail,
        mentions: MentionService,
        automod: AutomodService,
        membership: ThreadMembership,
        body_keys: Sequence[bytes],
    ) -> None:
        """`body_keys` key the hashes of bodies, which outlive messages; the first makes them."""
        self._audit = audit
        self._body_keys = body_keys
        self._db = db
        self._channels = channels
        self._mentions = mentions
        self._automod = automod
        self._membership = membership
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
        send = self._send_of(actor, wish, idempotency_key, enforce=enforce)
        # Channels are told apart by the time that is in their ids; the lowest bits are mostly 0.
        lane = send.channel_id >> 22
        try:
            message = await self._sends.submit(lane, send)
        except ThreadNotReady:
            # That changes the guild, for which no batch waits.
            await self._membership.make_ready(actor, send.channel_id)
            message = await self._sends.submit(lane, send)
        self.sent += 1
        return message

    def _send_of(
        self, actor: Snowflake, wish: SendMessage, idempotency_key: str | None, *, enforce: bool
    ) -> _Send:
        """What is to be sent, or the error in it."""
        if wish.channel_id is msgspec.UNSET:
            raise field_error("channel_id", "This field is required", "BASE_TYPE_REQUIRED")
        content = wish.content or ""
        if _VISIBLE.search(content) is None:
            raise EmptyMessage
        flags = (wish.flags or 0) & _SENT_FLAGS
        key = _key(wish, idempotency_key, enforce=enforce)
        return _Send(
            actor=actor,
            channel_id=wish.channel_id,
            content=content,
            flags=flags,
            mentions=named(content, wish.allowed_mentions),
            nonce=wish.nonce,
            key=key,
            body_hashes=()
            if key is None
            else tuple(
                _hash(secret, content, flags, wish.nonce, wish.allowed_mentions)
                for secret in self._body_keys
            ),
        )

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
                found = await _page_around(conn, channel_id, page.around, page.limit)
            elif page.after is not None:
                found = await repository.page_after(conn, channel_id, page.after, page.limit)
            else:
                found = await repository.page_before(conn, channel_id, page.before, page.limit)
            return await _with_threads(conn, actor, channel_id, found)

    async def get(self, actor: Snowflake, channel_id: Snowflake, message_id: Snowflake) -> Message:
        async with self._db.read() as conn:
            await self._channels.access(conn, actor, channel_id, _READ)
            message = await repository.find(conn, channel_id, message_id)
            if message is None:
                raise UnknownMessage
            return (await _with_threads(conn, actor, channel_id, [message]))[0]

    async def known(self, conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> Message:
        """A message of a channel that the caller has access to, for who reads it."""
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
            if access.thread is not None and access.thread.archived:
                raise ThreadArchived
            edited, mentions = await self._mention(
                tx.conn, access, message, _edited(message, wish), wish
            )
            if edited == message:
                return message
            if edited.content != message.content:
                await self._moderate_edit(tx.conn, access, edited)
            now = self._clock.now()
            edited = msgspec.structs.replace(edited, edited_timestamp=Timestamp.at(now))
            await repository.update(tx.conn, edited, now)
            if _mentions_of(edited) != _mentions_of(message):
                await self._mentions.change(tx.conn, _mention(edited, access, mentions))
            # In a replay the edit stands for the creation, too, whose nonce the sender waits for.
            nonce = await repository.find_nonce(tx.conn, channel_id, message_id)
            told = _told(msgspec.structs.replace(edited, nonce=nonce), access, mentions)
            tx.emit(MessageEdited(message=told, to=access.audience()))
            return (await _with_threads(tx.conn, actor, channel_id, [edited]))[0]

    async def delete(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        message_id: Snowflake,
        *,
        reason: str | None = None,
    ) -> None:
        async with self._channels.hold(actor, channel_id, Permission.VIEW_CHANNEL) as (tx, access):
            author_id = await repository.lock(tx.conn, channel_id, message_id)
            if author_id is None:
                raise UnknownMessage
            if author_id != actor and not allows(access.permissions, _MANAGE_MESSAGES):
                raise MissingPermissions
            await repository.delete(tx.conn, channel_id, [message_id])
            if access.is_thread:
                await note_deletes(tx.conn, {channel_id: [message_id]})
            gone = GoneMessage(
                id=message_id, channel_id=channel_id, guild_id=access.guild_id or msgspec.UNSET
            )
            tx.emit(MessageDeleted(gone=gone, to=access.audience()))
            if author_id != actor:
                await self._record(tx, access, Action.MESSAGE_DELETE, author_id, 1, reason)

    async def bulk_delete(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        wish: BulkDelete,
        *,
        reason: str | None = None,
    ) -> None:
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
                if access.is_thread:
                    await note_deletes(tx.conn, {channel_id: deleted})
                gone = GoneMessages(
                    ids=tuple(deleted),
                    channel_id=channel_id,
                    guild_id=access.guild_id or msgspec.UNSET,
                )
                tx.emit(MessagesDeleted(gone=gone, to=access.audience()))
                await self._record(
                    tx, access, Action.MESSAGE_BULK_DELETE, channel_id, len(deleted), reason
                )

    async def delete_recent(
        self,
        tx: Transaction,
        guild_id: Snowflake,
        author_ids: Sequence[Snowflake],
        period: timedelta,
    ) -> None:
        """Delete what accounts said in a guild lately. Needs the guild's exclusive lock.

        A few of the messages now, and the others soon: that is on disk with the commit.
        """
        since = _first_id(self._clock.now() - period)
        await repository.queue_author_purge(tx.conn, guild_id, author_ids, since)
        left = _PURGED_AT_ONCE
        while left and (purge := await repository.lock_author_purge(tx.conn, guild_id)):
            left -= await self._purge_author(tx, purge, left)

    async def purge_authors(self, limit: int) -> int:
        """Go on with what `delete_recent` left, in one guild; 0 once nothing is left to take."""
        async with self._db.read() as conn:
            guild_id = await repository.next_author_purge(conn)
        if guild_id is None:
            return 0
        async with self._channels.hold_late(guild_id, []) as (tx, _):
            purge = await repository.lock_author_purge(tx.conn, guild_id)
            if purge is None:
                return 0
            await self._purge_author(tx, purge, min(limit, _PURGED_AT_ONCE))
        return 1

    async def _purge_author(self, tx: Transaction, purge: AuthorPurge, limit: int) -> int:
        """Delete some of somebody's messages and tell it; how many were looked at."""
        count, deleted = await repository.purge_author(tx.conn, purge, limit)
        if deleted:
            await note_deletes(tx.conn, deleted)
        audiences = await self._channels.audiences(tx.conn, list(deleted)) if deleted else {}
        for channel_id, ids in deleted.items():
            for start in range(0, len(ids), MAX_BULK_DELETE):
                gone = GoneMessages(
                    ids=tuple(ids[start : start + MAX_BULK_DELETE]),
                    channel_id=channel_id,
                    guild_id=purge.guild_id,
                )
                tx.emit(MessagesDeleted(gone=gone, to=audiences[channel_id]))
        return count

    async def _record(
        self,
        tx: Transaction,
        access: ChannelAccess,
        action: Action,
        target: Snowflake,
        count: int,
        reason: str | None,
    ) -> None:
        """Write down that somebody else's messages were deleted; never what stood in them."""
        if access.guild_id is None:
            return
        await self._audit.record(
            tx,
            Act(
                guild_id=access.guild_id,
                actor=access.user.id,
                action=action,
                target=target,
                options={"channel_id": access.channel_id, "count": count},
                reason=reason,
            ),
        )

    # What threads need of messages.

    def check_post(self, first: FirstMessage) -> None:
        """Refuse what can't be sent."""
        if _VISIBLE.search(first.content or "") is None:
            raise EmptyMessage

    async def open_post(
        self, tx: Transaction, access: ChannelAccess, first: FirstMessage
    ) -> Message:
        """Send the message that a post of a forum begins with; it has the post's id.

        Needs the guild's lock.
        """
        if access.guild_id is None:
            raise WrongChannelType
        actor, post_id = access.user.id, access.channel_id
        wish = SendMessage(channel_id=post_id, content=first.content, flags=first.flags)
        send = self._send_of(actor, wish, None, enforce=False)
        send = msgspec.structs.replace(send, message_id=post_id)
        found = {(actor, post_id): access}
        (outcome,) = await self._commit_held(tx, [send], found, {access.guild_id})
        if isinstance(outcome, AppError):
            raise outcome
        if isinstance(outcome, Postponed):
            raise Unavailable(retry_after=1)
        return outcome

    async def mark_thread(
        self, tx: Transaction, access: ChannelAccess, message_id: Snowflake, thread: Thread | None
    ) -> bool:
        """Show that a message has a thread, or none any more; False if there is no such message."""
        channel_id = access.channel_id
        author_id = await repository.lock(tx.conn, channel_id, message_id)
        message = await repository.find(tx.conn, channel_id, message_id)
        if author_id is None or message is None:
            return False
        flags = message.flags & ~HAS_THREAD if thread is None else message.flags | HAS_THREAD
        await repository.set_flags(tx.conn, channel_id, message_id, flags)
        marked = msgspec.structs.replace(message, flags=flags)
        # As the author's own edit would tell it, if the author is still there.
        found = await self._channels.access_of(tx.conn, [(author_id, channel_id)])
        author = found.get((author_id, channel_id))
        _, mentions = await self._mention(
            tx.conn, author or access, marked, marked, UpdateMessage()
        )
        nonce = await repository.find_nonce(tx.conn, channel_id, message_id)
        told = _told(msgspec.structs.replace(marked, nonce=nonce), author or access, mentions)
        told = msgspec.structs.replace(
            told,
            member=msgspec.UNSET if author is None else told.member,
            thread=msgspec.UNSET if thread is None else thread,
        )
        tx.emit(MessageEdited(message=told, to=access.audience()))
        return True

    async def _mention(
        self,
        conn: Conn,
        access: ChannelAccess,
        message: Message,
        edited: Message,
        wish: UpdateMessage,
    ) -> tuple[Message, Mentions]:
        """Work out anew whom an edited message mentions; who was mentioned before, otherwise."""
        if edited.content == message.content and wish.allowed_mentions is None:
            known = Named(tuple(user.id for user in message.mentions))
            (mentions,) = await self._mentions.resolve(conn, [(known, access)])
            return edited, msgspec.structs.replace(
                mentions, roles=message.mention_roles, everyone=message.mention_everyone
            )
        wished = named(edited.content, wish.allowed_mentions)
        (mentions,) = await self._mentions.resolve(conn, [(wished, access)])
        return _mentioning(edited, mentions.bare()), mentions

    async def mentions(self, actor: Snowflake, page: MentionPage) -> list[Message]:
        """List messages that mention the actor and that the actor may read, newest first."""
        async with self._db.read() as conn:
            reached = await self._mentions.reaching(conn, actor, page)
            found = await repository.find_all(conn, [place for place, _ in reached])
        return [
            msgspec.structs.replace(found[place], guild_id=access.guild_id or msgspec.UNSET)
            for place, access in reached
            if place in found
        ]

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

        Those to guilds and groups that are being changed are put aside.
        """
        async with self._db.transaction() as tx:
            held, found = await self._channels.hold_free(tx.conn, _pairs(sends))
            # Not past those of the same one that were put aside before.
            free = {key for key in held if not self._sends.is_late(key)}
            outcomes = await self._commit_held(tx, sends, found, free)
        self._automod.wake()
        return outcomes

    async def _commit_late(self, lock_key: int, sends: Sequence[_Send]) -> list[Message | AppError]:
        """Commit sends to one guild or group that was being changed, as soon as it is free."""
        key = Snowflake(lock_key)
        async with self._channels.hold_late(key, _pairs(sends)) as (tx, found):
            outcomes = await self._commit_held(tx, sends, found, {key})
        self._automod.wake()
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
        """Commit sends; `found` stays true until the end of `tx` for what is held."""
        outcomes: list[_Outcome] = []
        now = self._clock.now()
        for send in sends:
            try:
                access = check_access(found.get((send.actor, send.channel_id)), _SEND)
                if not access.is_verified(now):
                    raise NotVerified
                check_takes_messages(access)
                refuse_locked(access)
            except AppError as fault:
                outcomes.append(fault)
                continue
            key = access.lock_key
            if key is None or key in held:
                outcomes.append(_message(send, send.message_id or self._new_id(), access))
            else:
                outcomes.append(Postponed(key))
        mentions = await self._look_up_mentions(tx.conn, sends, outcomes, found)
        new = await self._settle_nonces(tx.conn, sends, outcomes)
        new = await _put_off_unready(tx.conn, sends, outcomes, new, found)
        # What slow mode refuses is not said, and repeats nothing.
        new = await self._slow_down(tx.conn, sends, outcomes, new, found)
        findings = await self._moderate(tx.conn, sends, outcomes, new, found)
        new = [i for i in new if isinstance(outcomes[i], Message)]
        messages = [message for i in new if isinstance(message := outcomes[i], Message)]
        if messages:
            await repository.insert_all(tx.conn, messages)
        in_threads = [
            (access, message.id)
            for message in messages
            if (access := found[message.author.id, message.channel_id]).is_thread
        ]
        if in_threads:
            await note_sends(tx, in_threads, now)
        notes: list[Mention] = []
        for message in messages:
            access = found[message.author.id, message.channel_id]
            mentioned = mentions.get(message.id, NOBODY)
            notes.append(_mention(message, access, mentioned))
            tx.emit(MessageSent(message=_told(message, access, mentioned), to=access.audience()))
        await self._mentions.note(tx.conn, notes)
        if findings:
            await self._automod.note(tx.conn, self._passed(sends, outcomes, new, findings))
        return outcomes

    async def _moderate(
        self,
        conn: Conn,
        sends: Sequence[_Send],
        outcomes: list[_Outcome],
        new: list[int],
        found: dict[repository.Pair, ChannelAccess],
    ) -> dict[int, tuple[Said, Finding]]:
        """Refuse what a guild's rules block; what they have to say to the others, by places."""
        said = {
            i: one
            for i in new
            if (one := _said(sends[i].content, found[sends[i].actor, sends[i].channel_id]))
        }
        findings = await self._automod.judge(conn, list(said.values()))
        passed: dict[int, tuple[Said, Finding]] = {}
        noted: list[Hit] = []
        for (i, one), finding in zip(said.items(), findings, strict=True):
            fault = _fault(finding)
            if fault is None:
                if finding.matches:
                    passed[i] = one, finding
                continue
            send = sends[i]
            outcomes[i] = fault
            hits = self._automod.hits(one, finding, message_id=None, key=_hit_key(send))
            if send.message_id is None:
                noted += hits
            else:
                # The post that it was to be in does not come about, either.
                self._automod.note_later(hits)
            if send.key is not None:
                # Nothing was sent under it: sending again must not find it taken.
                await repository.release_nonces(conn, [(send.actor, send.key)])
                _refuse_twins(sends, outcomes, [(send.actor, send.key)], fault)
        await self._automod.note(conn, noted)
        return passed

    def _passed(
        self,
        sends: Sequence[_Send],
        outcomes: Sequence[_Outcome],
        new: Sequence[int],
        findings: dict[int, tuple[Said, Finding]],
    ) -> list[Hit]:
        """What is to be acted upon of what was sent."""
        return [
            hit
            for i in new
            if i in findings
            for hit in self._automod.hits(
                *findings[i], message_id=_id_of(outcomes[i]), key=_hit_key(sends[i])
            )
        ]

    async def _moderate_edit(self, conn: Conn, access: ChannelAccess, edited: Message) -> None:
        """Refuse a new content that a guild's rules block."""
        said = _said(edited.content, access, is_edit=True)
        if said is None:
            return
        (finding,) = await self._automod.judge(conn, [said])
        digest = hashlib.sha256(edited.content.encode(errors="surrogatepass")).hexdigest()
        key = f"edit:{edited.id}:{digest}"
        fault = _fault(finding)
        if fault is not None:
            # This transaction is undone.
            hits = self._automod.hits(said, finding, message_id=None, key=key)
            self._automod.note_later(hits)
            raise fault
        hits = self._automod.hits(said, finding, message_id=edited.id, key=key)
        await self._automod.note(conn, hits)

    async def post_alert(
        self,
        tx: Transaction,
        guild_id: Snowflake,
        channel_id: Snowflake,
        author: User,
        content: str,
    ) -> Snowflake | None:
        """Show in a channel what somebody said, as nobody's message; None without such a channel.

        Needs the guild's lock.
        """
        audience = (await self._channels.audiences(tx.conn, [channel_id])).get(channel_id)
        if audience is None or audience.guild_id != guild_id:
            return None
        message_id = self._new_id()
        message = Message(
            id=message_id,
            channel_id=channel_id,
            author=author,
            content=content,
            timestamp=Timestamp.at(message_id.created_at),
            type=AUTO_MODERATION_ACTION,
        )
        await repository.insert_alert(tx.conn, message)
        found = await self._channels.access_of(tx.conn, [(author.id, channel_id)])
        access = found.get((author.id, channel_id))
        told = msgspec.structs.replace(message, guild_id=guild_id)
        if access is not None:
            told = _told(message, access, NOBODY)
        tx.emit(MessageSent(message=told, to=audience))
        return message_id

    async def _look_up_mentions(
        self,
        conn: Conn,
        sends: Sequence[_Send],
        outcomes: list[_Outcome],
        found: dict[repository.Pair, ChannelAccess],
    ) -> dict[Snowflake, Mentions]:
        """Put into messages whom they mention; by their ids, also with memberships."""
        some = [
            (i, message)
            for i, message in enumerate(outcomes)
            if isinstance(message, Message) and not sends[i].mentions.is_nobody
        ]
        wishes = [(sends[i].mentions, found[sends[i].actor, sends[i].channel_id]) for i, _ in some]
        resolved = await self._mentions.resolve(conn, wishes)
        for (i, message), mentions in zip(some, resolved, strict=True):
            outcomes[i] = _mentioning(message, mentions.bare())
        return {message.id: mentions for (_, message), mentions in zip(some, resolved, strict=True)}

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
                mentions=_mentions_of(message),
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
            _refuse_twins(sends, outcomes, refused, SlowMode(retry_after=1))
        return remaining


def _pairs(sends: Sequence[_Send]) -> list[repository.Pair]:
    return list({(send.actor, send.channel_id): None for send in sends})


def _said(content: str, access: ChannelAccess, *, is_edit: bool = False) -> Said | None:
    """What a guild's rules look at; there are none in a direct message."""
    if access.guild_id is None or access.standing is None:
        return None
    return Said(
        guild_id=access.guild_id,
        channel_id=access.channel_id,
        parent_id=access.parent_id,
        standing=access.standing,
        content=content,
        is_edit=is_edit,
    )


def _fault(finding: Finding) -> AppError | None:
    """Why something can't be said; None if it can."""
    if finding.is_overdue:
        return Unavailable(retry_after=1)
    return BlockedByAutomod(finding.custom_message) if finding.is_blocked else None


def _hit_key(send: _Send) -> str | None:
    """What rules know a repetition of a send by, so that they act upon it once."""
    if send.key is None:
        return None
    return f"send:{send.channel_id}:{send.key}:{send.body_hashes[0].hex()}"


def _hash(
    key: bytes,
    content: str,
    flags: int,
    nonce: str | int | None,
    allowed: AllowedMentions | None,
) -> bytes:
    """What tells one body from another, and tells nothing to who reads the table and guesses."""
    body = (content, flags, nonce) if allowed is None else (content, flags, nonce, allowed)
    return hmac.digest(key, encode(body), "sha256")


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


def _told(message: Message, access: ChannelAccess, mentions: Mentions) -> Message:
    """Add what the event carries in a guild; in a direct message it is absent, not null."""
    if access.guild_id is None or access.member is None:
        return message
    return msgspec.structs.replace(
        message, guild_id=access.guild_id, member=access.member, mentions=mentions.users
    )


def _mentioning(message: Message, mentions: Mentions) -> Message:
    return msgspec.structs.replace(
        message,
        mentions=mentions.users,
        mention_roles=mentions.roles,
        mention_everyone=mentions.everyone,
    )


def _mentions_of(message: Message) -> Mentions:
    return Mentions(message.mentions, message.mention_roles, message.mention_everyone)


def _mention(message: Message, access: ChannelAccess, mentions: Mentions) -> Mention:
    return Mention(
        channel_id=message.channel_id,
        message_id=message.id,
        author_id=message.author.id,
        guild_id=access.guild_id,
        mentions=mentions,
    )


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
        mentions=first.mentions.users,
        mention_roles=first.mentions.roles,
        mention_everyone=first.mentions.everyone,
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
    fault: AppError,
) -> None:
    """Refuse the repetitions, in the same batch, of sends that were refused."""
    keys = set(refused)
    for i, send in enumerate(sends):
        is_twin = send.key is not None and (send.actor, send.key) in keys
        if is_twin and isinstance(outcomes[i], Message):
            outcomes[i] = fault


async def _put_off_unready(
    conn: Conn,
    sends: Sequence[_Send],
    outcomes: list[_Outcome],
    new: list[int],
    found: dict[repository.Pair, ChannelAccess],
) -> list[int]:
    """Refuse for now what has to wait for a change of its thread; the places that remain new."""
    unready = {i for i in new if not is_ready(found[sends[i].actor, sends[i].channel_id])}
    if not unready:
        return new
    for i in unready:
        outcomes[i] = ThreadNotReady()
    keys = [(send.actor, send.key) for i in unready if (send := sends[i]).key is not None]
    if keys:
        # Nothing was sent under these yet.
        await repository.release_nonces(conn, keys)
        _refuse_twins(sends, outcomes, keys, ThreadNotReady())
    return [i for i in new if i not in unready]


async def _with_threads(
    conn: Conn, actor: Snowflake, channel_id: Snowflake, messages: list[Message]
) -> list[Message]:
    """Add to messages the threads that were started from them."""
    marked = [message.id for message in messages if message.flags & HAS_THREAD]
    if not marked:
        return messages
    threads = await threads_of_messages(conn, actor, channel_id, marked)
    return [
        msgspec.structs.replace(message, thread=threads.get(message.id, msgspec.UNSET))
        for message in messages
    ]


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
