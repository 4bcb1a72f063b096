"""Why somebody may do what in a channel: the steps of the decision."""

import msgspec

from internal.utils.snowflake import Snowflake


class ExplainedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step: whose rule it was, what that allows and denies, and what was left after it."""

    kind: str
    id: Snowflake | None
    # Of the role, the account or the category; None where the rule is of none.
    name: str | None
    allow: str
    deny: str
    permissions: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may do in a channel, and the steps that led there, in their order."""

    user_id: Snowflake
    channel_id: Snowflake
    permissions: str
    steps: tuple[ExplainedStep, ...]
    # The category whose overwrites the channel has.
    synced_with: Snowflake | None
