"""What moderation tests have in common: who is given power, and where bans are."""

from internal.app import App
from tests.support.people import Guild, Person


def ban_path(guild: Guild, person: Person) -> str:
    return f"/guilds/{guild.id}/bans/{person.id}"


async def give_role(app: App, guild: Guild, person: Person, permissions: int, position: int) -> int:
    """A role of its own for a member, without a trace in the audit log; its id."""
    async with app.db.read() as conn:
        role_id: int = await conn.fetchval(
            """
            INSERT INTO roles (id, guild_id, name, permissions, position)
            SELECT max(id) + 1, $1, 'of ' || $2::text, $3, $4 FROM roles
            RETURNING id
            """,
            int(guild.id),
            person.username,
            permissions,
            position,
        )
        await conn.execute(
            "UPDATE members SET roles = roles || $3::bigint WHERE guild_id = $1 AND user_id = $2",
            int(guild.id),
            int(person.id),
            role_id,
        )
    return role_id
