"""Which threads there are: the active ones, the archived ones, and how one becomes the other."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from internal.channel.model import ChannelType
from internal.channel.service import ChannelService
from internal.channel.thread import repository
from internal.channel.thread.member.service import audience_of, find_thread, parent_access
from internal.channel.thread.model import ArchivePage, OwnArchivePage, ThreadList, ThreadUpdated
from internal.db.locks import lock
from internal.db.postgres import Conn, Database
from internal.guild.model import Thread
from internal.guild.service import GuildService
from internal.permission.model import Permission, allows, in_channel
from internal.utils.clock import Clock
from internal.utils.snowflake import Snowflake
from internal.utils.validator import field_error

_READ: Final = Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY
_MANAGE: Final = int(Permission.MANAGE_THREADS)
# So many threads are archived at once, with the guild locked.
_ARCHIVED_AT_ONCE: Final = 100


class ThreadArchive:
    def __init__(
        self, db: Database, guilds: GuildService, channels: ChannelService, clock: Clock
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._channels = channels
        self._clock = clock

    async def is_thread(self, channel_id: Snowflake) -> bool:
        """Whether an id is that of a thread, whoever may see it."""
        async with self._db.read() as conn:
            return await repository.exists(conn, channel_id)

    async def get(self, actor: Snowflake, thread_id: Snowflake) -> Thread:
        """One thread, active or not."""
        async with self._db.read() as conn:
            await self._channels.access(conn, actor, thread_id, Permission.VIEW_CHANNEL)
            return await find_thread(conn, thread_id, actor)

    async def active(self, actor: Snowflake, guild_id: Snowflake) -> ThreadList:
        """The active threads of a guild that the actor may see."""
        async with self._db.read() as conn:
            standing = (await self._guilds.access(conn, actor, guild_id)).standing
            channels = await self._guilds.channels_of(conn, actor, guild_id)
            threads = await repository.active(conn, guild_id, actor)
        may_manage = {
            channel.id: allows(in_channel(standing, channel.rules(), is_thread=True), _MANAGE)
            for channel in channels
        }
        return _listed(
            [
                thread
                for thread in threads
                if thread.parent_id in may_manage
                and (
                    thread.type != ChannelType.PRIVATE_THREAD
                    or thread.member is not msgspec.UNSET
                    or may_manage[thread.parent_id]
                )
            ]
        )

    async def archived(
        self, actor: Snowflake, channel_id: Snowflake, page: ArchivePage, *, is_private: bool
    ) -> ThreadList:
        """Archived threads of a channel: the public ones, or for moderators the private ones."""
        before = _moment(page.before)
        async with self._db.read() as conn:
            await parent_access(self._channels, conn, actor, channel_id, _READ)
            if is_private:
                needs = _READ | Permission.MANAGE_THREADS
                await self._channels.access(conn, actor, channel_id, needs)
            threads = await repository.archived(
                conn,
                channel_id,
                actor,
                is_private=is_private,
                before=before,
                limit=page.limit + 1,
            )
        return _listed(threads, page.limit)

    async def own_archived(
        self, actor: Snowflake, channel_id: Snowflake, page: OwnArchivePage
    ) -> ThreadList:
        """Archived private threads that the actor is in."""
        async with self._db.read() as conn:
            await parent_access(self._channels, conn, actor, channel_id, _READ)
            threads = await repository.own_archived(
                conn, channel_id, actor, page.before, page.limit + 1
            )
        return _listed(threads, page.limit)

    async def archive_idle(self, limit: int) -> int:
        """Archive threads of one guild in which nobody has written for long; 0 if none is left.

        To be called again until then.
        """
        now = self._clock.now()
        async with self._db.read() as conn:
            guild_id = await repository.guild_to_look_at(conn, now)
        if guild_id is None:
            return 0

        async def attempt(conn: Conn, wait_for: int | None) -> None:
            await lock(conn, guild_id, wait_for=wait_for)

        async with self._guilds.locks.transaction(attempt) as (tx, _):
            await repository.look_again_later(tx.conn, guild_id, now)
            idle = await repository.idle(tx.conn, guild_id, now, min(limit, _ARCHIVED_AT_ONCE))
            if idle:
                await repository.archive_all(tx.conn, idle, now)
            for thread, members in await repository.with_members(tx.conn, idle):
                tx.emit(ThreadUpdated(thread=thread, to=audience_of(thread, members)))
        return 1


def _listed(threads: Sequence[Thread], limit: int | None = None) -> ThreadList:
    shown = tuple(threads[:limit])
    return ThreadList(
        threads=shown,
        members=tuple(one.member for one in shown if one.member is not msgspec.UNSET),
        has_more=len(threads) > len(shown),
    )


def _moment(text: str | None) -> datetime | None:
    """A time as clients write it, also with the plus sign of an offset left bare in a query."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise field_error("before", "Must be an ISO 8601 time") from None
