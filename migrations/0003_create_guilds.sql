-- Guilds, their members, roles and channels, and direct messages.

CREATE TABLE guilds (
    id           bigint      NOT NULL,
    name         text        NOT NULL,
    description  text,
    owner_id     bigint      NOT NULL,
    discoverable boolean     NOT NULL DEFAULT false,
    -- Kept in step under the guild's lock, so that lists need not count.
    member_count integer     NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT guilds_pkey PRIMARY KEY (id),
    CONSTRAINT guilds_owner_fkey FOREIGN KEY (owner_id) REFERENCES users (id)
);
CREATE INDEX guilds_owner_idx ON guilds (owner_id);
CREATE INDEX guilds_discoverable_idx ON guilds (id DESC) WHERE discoverable;

CREATE TABLE roles (
    id          bigint   NOT NULL,
    guild_id    bigint   NOT NULL,
    name        text     NOT NULL,
    permissions bigint   NOT NULL,
    position    smallint NOT NULL DEFAULT 0,
    color       integer  NOT NULL DEFAULT 0,
    hoist       boolean  NOT NULL DEFAULT false,
    mentionable boolean  NOT NULL DEFAULT false,
    managed     boolean  NOT NULL DEFAULT false,
    CONSTRAINT roles_pkey PRIMARY KEY (id),
    CONSTRAINT roles_guild_fkey FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE
);
CREATE INDEX roles_guild_idx ON roles (guild_id, position);

CREATE TABLE members (
    guild_id  bigint      NOT NULL,
    user_id   bigint      NOT NULL,
    nick      text,
    joined_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT members_pkey PRIMARY KEY (guild_id, user_id),
    CONSTRAINT members_guild_fkey FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT members_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX members_user_idx ON members (user_id, guild_id);

CREATE TABLE channels (
    id                  bigint      NOT NULL,
    guild_id            bigint,
    -- The documented numbers: 0 text, 1 direct message.
    type                smallint    NOT NULL,
    name                text,
    topic               text,
    position            integer     NOT NULL DEFAULT 0,
    nsfw                boolean     NOT NULL DEFAULT false,
    rate_limit_per_user integer     NOT NULL DEFAULT 0,
    -- The two people of a direct message, the smaller id first: a pair has one channel.
    dm_low_id           bigint,
    dm_high_id          bigint,
    created_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT channels_pkey PRIMARY KEY (id),
    CONSTRAINT channels_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT channels_dm_low_fkey
        FOREIGN KEY (dm_low_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT channels_dm_high_fkey
        FOREIGN KEY (dm_high_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT channels_dm_key UNIQUE (dm_low_id, dm_high_id),
    CONSTRAINT channels_guild_or_dm CHECK (
        (guild_id IS NOT NULL AND name IS NOT NULL AND dm_low_id IS NULL AND dm_high_id IS NULL)
        OR (guild_id IS NULL AND type = 1 AND dm_low_id < dm_high_id)
    )
);
CREATE INDEX channels_guild_idx ON channels (guild_id, position, id) WHERE guild_id IS NOT NULL;
CREATE INDEX channels_dm_high_idx ON channels (dm_high_id) WHERE dm_high_id IS NOT NULL;
