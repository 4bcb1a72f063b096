-- Pictures of guilds, and what is left to delete of those who were banned.

CREATE TABLE guild_icons (
    guild_id   bigint NOT NULL,
    -- As guilds.icon and the address of the picture have it: one that is replaced has another.
    hash       text   NOT NULL,
    media_type text   NOT NULL,
    data       bytea  NOT NULL,
    CONSTRAINT guild_icons_pkey PRIMARY KEY (guild_id),
    CONSTRAINT guild_icons_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE
);
-- Pictures are compressed as they are.
ALTER TABLE guild_icons ALTER COLUMN data SET STORAGE EXTERNAL;

-- What somebody said in a guild and is still to be deleted. Written by the transaction that bans:
-- what is more than a few messages is deleted after it, so that nobody waits for thousands.
CREATE TABLE author_purges (
    id        bigint GENERATED ALWAYS AS IDENTITY,
    guild_id  bigint NOT NULL,
    author_id bigint NOT NULL,
    -- The messages from the one id up to the other, which moves down as they are deleted.
    from_id   bigint NOT NULL,
    below_id  bigint NOT NULL,
    CONSTRAINT author_purges_pkey PRIMARY KEY (id),
    CONSTRAINT author_purges_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT author_purges_author_fkey
        FOREIGN KEY (author_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX author_purges_guild_idx ON author_purges (guild_id);
CREATE INDEX author_purges_author_idx ON author_purges (author_id);
