"""Who asks: an account, in one of its login sessions."""

import msgspec

from internal.utils.snowflake import Snowflake


class Actor(msgspec.Struct, frozen=True):
    """Who asks: an account, in one of its login sessions."""

    user_id: Snowflake
    session_id: Snowflake
