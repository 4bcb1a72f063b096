"""Members of a guild by the thousand, put into the database directly."""

from internal.app import App
from tests.support.people import Guild

# Below every id that the server makes.
FIRST = 1000


async def crowd(app: App, guild: Guild, count: int, *, prefix: str = "walkon") -> list[str]:
    """So many more members, who are never there; their ids, ascending."""
    async with app.db.read() as conn:
        await conn.execute(
            """
            INSERT INTO users (id, username, email, password_hash)
            SELECT $1 + n, $2 || n, $2 || n || '@example.org', '-'
              FROM generate_series(0, $3::bigint - 1) AS n
            """,
            FIRST,
            prefix,
            count,
        )
        await conn.execute(
            """
            INSERT INTO members (guild_id, user_id)
            SELECT $1, $2 + n FROM generate_series(0, $3::bigint - 1) AS n
            """,
            int(guild.id),
            FIRST,
            count,
        )
        await conn.execute(
            "UPDATE guilds SET member_count = member_count + $2 WHERE id = $1",
            int(guild.id),
            count,
        )
    return [str(FIRST + n) for n in range(count)]
