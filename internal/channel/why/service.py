"""The rules of explaining permissions: who may ask about whom, and what is answered."""

from collections.abc import Iterator, Sequence
from typing import Final

from internal.channel import repository as channels_repository
from internal.channel.model import ChannelAccess, decide
from internal.channel.service import ChannelService, check_access
from internal.channel.why import repository
from internal.channel.why.model import ExplainedStep, Explanation
from internal.db.postgres import Conn, Database
from internal.errors import UnknownMember
from internal.guild.model import GuildChannel
from internal.permission.model import Permission, Step
from internal.utils.snowflake import Snowflake

_OVERWRITES: Final = frozenset({"everyone_overwrite", "role_overwrite", "member_overwrite"})


class WhyService:
    def __init__(self, db: Database, channels: ChannelService) -> None:
        self._db = db
        self._channels = channels

    async def explain(
        self, actor: Snowflake, channel_id: Snowflake, user_id: Snowflake
    ) -> Explanation:
        """What somebody may do in a channel, and why: of oneself, or of others whom one governs.

        The steps are those of the decision itself, told while it is made once more.
        """
        async with self._db.read() as conn:
            access = await self._channels.access(conn, actor, channel_id, Permission.VIEW_CHANNEL)
            if user_id != actor:
                check_access(access, Permission.MANAGE_ROLES)
                pair = (user_id, channel_id)
                found = (await channels_repository.access_of(conn, [pair])).get(pair)
                if found is None:
                    raise UnknownMember
                access = found
            steps: list[Step] = []
            bits = decide(access.standing, access.overwrites, access.thread, steps.append)
            category = await _category(conn, access)
            told = list(_with_category(steps, category))
            ids = [step.id for step in told if step.id is not None]
            names = await repository.names_of(conn, access.guild_id, ids)
        return Explanation(
            user_id=user_id,
            channel_id=channel_id,
            permissions=str(bits),
            steps=tuple(_explained(step, names) for step in told),
            synced_with=None if category is None else category.id,
        )


async def _category(conn: Conn, access: ChannelAccess) -> GuildChannel | None:
    """The category whose overwrites a channel has; of a thread, its channel's."""
    if access.guild_id is None or access.parent_id is None:
        return None
    own_id = access.parent_id if access.is_thread else access.channel_id
    channel = await channels_repository.find(conn, own_id)
    if channel is None or channel.parent_id is None:
        return None
    category = await channels_repository.find(conn, channel.parent_id)
    if category is None or category.permission_overwrites != channel.permission_overwrites:
        return None
    return category


def _with_category(steps: Sequence[Step], category: GuildChannel | None) -> Iterator[Step]:
    """The steps; before the overwrites, the category that these are of."""
    source, before = category, 0
    for step in steps:
        if source is not None and step.kind in _OVERWRITES:
            yield Step("category", source.id, 0, 0, before)
            source = None
        before = step.permissions
        yield step


def _explained(step: Step, names: dict[Snowflake, str]) -> ExplainedStep:
    of = None if step.id is None else Snowflake(step.id)
    return ExplainedStep(
        kind=step.kind,
        id=of,
        name=None if of is None else names.get(of),
        allow=str(step.allow),
        deny=str(step.deny),
        permissions=str(step.permissions),
    )
