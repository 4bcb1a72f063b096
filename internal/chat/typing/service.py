"""The rules of typing."""

from collections.abc import Callable

import msgspec

from internal.channel.model import ChannelAccess
from internal.channel.service import ChannelService
from internal.chat.typing.model import Typing, TypingStarted
from internal.db.postgres import Database
from internal.guild.model import Member
from internal.permission.model import Permission
from internal.utils.clock import Clock
from internal.utils.snowflake import Snowflake


class TypingService:
    def __init__(
        self,
        db: Database,
        channels: ChannelService,
        publish: Callable[[TypingStarted], None],
        clock: Clock,
    ) -> None:
        """`publish` tells those who are there now. It is no event of the log."""
        self._db = db
        self._channels = channels
        self._publish = publish
        self._clock = clock

    async def start(self, actor: Snowflake, channel_id: Snowflake) -> None:
        async with self._db.read() as conn:
            access = await self._channels.access(conn, actor, channel_id, Permission.SEND_MESSAGES)
        typing = Typing(
            channel_id=channel_id,
            user_id=actor,
            timestamp=int(self._clock.now().timestamp()),
            guild_id=access.guild_id or msgspec.UNSET,
            member=_member(access),
        )
        self._publish(TypingStarted(typing=typing, to=access.audience()))


def _member(access: ChannelAccess) -> Member | msgspec.UnsetType:
    if access.member is None:
        return msgspec.UNSET
    return Member(user=access.user, **msgspec.structs.asdict(access.member))
