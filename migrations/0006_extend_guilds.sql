-- Roles of members, overwrites and categories of channels, group messages and threads.

ALTER TABLE guilds
    ADD COLUMN icon                          text,
    ADD COLUMN verification_level            smallint NOT NULL DEFAULT 0,
    ADD COLUMN default_message_notifications smallint NOT NULL DEFAULT 0,
    ADD COLUMN explicit_content_filter       smallint NOT NULL DEFAULT 0,
    ADD COLUMN system_channel_id             bigint,
    ADD COLUMN system_channel_flags          integer  NOT NULL DEFAULT 0,
    ADD COLUMN rules_channel_id              bigint,
    ADD COLUMN preferred_locale              text     NOT NULL DEFAULT 'en-US';

ALTER TABLE roles
    ADD COLUMN unicode_emoji text,
    ADD COLUMN flags         integer NOT NULL DEFAULT 0,
    -- Who made a managed role exist, as JSON; client libraries call it tags.
    ADD COLUMN tags          jsonb;

ALTER TABLE members
    -- Roles beside @everyone. One that was deleted may still stand in it, and means nothing: ids
    -- are never used again, and to take it out of a hundred thousand rows would take minutes.
    ADD COLUMN roles           bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN timed_out_until timestamptz,
    -- Came by an invite that ends with the last connection, unless a role was given.
    ADD COLUMN is_temporary    boolean  NOT NULL DEFAULT false,
    ADD COLUMN flags           integer  NOT NULL DEFAULT 0;
CREATE INDEX members_roles_idx ON members USING gin (roles);

ALTER TABLE channels
    -- The category of a channel, or the channel of a thread.
    ADD COLUMN parent_id bigint,
    -- Who made a thread, or rules a group.
    ADD COLUMN owner_id  bigint,
    ADD COLUMN flags     integer NOT NULL DEFAULT 0,
    -- Of channels that have threads.
    ADD COLUMN default_auto_archive_duration      integer,
    ADD COLUMN default_thread_rate_limit_per_user integer,
    -- Of forums: what the wire calls available_tags and so on, as JSON.
    ADD COLUMN forum jsonb,
    DROP CONSTRAINT channels_guild_or_dm,
    ADD CONSTRAINT channels_guild_or_dm CHECK (
        (guild_id IS NOT NULL AND name IS NOT NULL AND dm_low_id IS NULL AND dm_high_id IS NULL)
        OR (guild_id IS NULL AND type = 1 AND dm_low_id < dm_high_id)
        OR (guild_id IS NULL AND type = 3 AND dm_low_id IS NULL AND dm_high_id IS NULL)
    ),
    -- A thread goes with its channel; what is in a category is moved out of it before.
    ADD CONSTRAINT channels_parent_fkey
        FOREIGN KEY (parent_id) REFERENCES channels (id) ON DELETE CASCADE;
CREATE INDEX channels_parent_idx ON channels (parent_id, id) WHERE parent_id IS NOT NULL;

CREATE TABLE channel_overwrites (
    channel_id bigint   NOT NULL,
    -- A role or an account. That it is still there is not asked for: rows of members who left
    -- count again when they come back.
    target_id  bigint   NOT NULL,
    -- The documented numbers: 0 role, 1 member.
    type       smallint NOT NULL,
    allow      bigint   NOT NULL,
    deny       bigint   NOT NULL,
    CONSTRAINT channel_overwrites_pkey PRIMARY KEY (channel_id, target_id),
    CONSTRAINT channel_overwrites_channel_fkey
        FOREIGN KEY (channel_id) REFERENCES channels (id) ON DELETE CASCADE
);
CREATE INDEX channel_overwrites_target_idx ON channel_overwrites (target_id);

-- The people of a group message.
CREATE TABLE channel_recipients (
    channel_id bigint NOT NULL,
    user_id    bigint NOT NULL,
    CONSTRAINT channel_recipients_pkey PRIMARY KEY (channel_id, user_id),
    CONSTRAINT channel_recipients_channel_fkey
        FOREIGN KEY (channel_id) REFERENCES channels (id) ON DELETE CASCADE,
    CONSTRAINT channel_recipients_user_fkey
        FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX channel_recipients_user_idx ON channel_recipients (user_id, channel_id);

-- What threads have beside what every channel has.
CREATE TABLE threads (
    channel_id            bigint      NOT NULL,
    guild_id              bigint      NOT NULL,
    parent_id             bigint      NOT NULL,
    archived              boolean     NOT NULL DEFAULT false,
    locked                boolean     NOT NULL DEFAULT false,
    invitable             boolean     NOT NULL DEFAULT true,
    -- Minutes without a message after which it is archived.
    auto_archive_duration integer     NOT NULL,
    archive_timestamp     timestamptz NOT NULL DEFAULT now(),
    last_active_at        timestamptz NOT NULL DEFAULT now(),
    message_count         integer     NOT NULL DEFAULT 0,
    total_message_sent    integer     NOT NULL DEFAULT 0,
    member_count          integer     NOT NULL DEFAULT 0,
    applied_tags          bigint[]    NOT NULL DEFAULT '{}',
    created_at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT threads_pkey PRIMARY KEY (channel_id),
    CONSTRAINT threads_channel_fkey
        FOREIGN KEY (channel_id) REFERENCES channels (id) ON DELETE CASCADE,
    CONSTRAINT threads_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE
);
CREATE INDEX threads_active_idx ON threads (guild_id, channel_id) WHERE NOT archived;
CREATE INDEX threads_archived_idx
    ON threads (parent_id, archive_timestamp DESC, channel_id DESC) WHERE archived;

CREATE TABLE thread_members (
    thread_id bigint      NOT NULL,
    user_id   bigint      NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT now(),
    flags     integer     NOT NULL DEFAULT 0,
    CONSTRAINT thread_members_pkey PRIMARY KEY (thread_id, user_id),
    CONSTRAINT thread_members_thread_fkey
        FOREIGN KEY (thread_id) REFERENCES channels (id) ON DELETE CASCADE,
    CONSTRAINT thread_members_user_fkey
        FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX thread_members_user_idx ON thread_members (user_id, thread_id);

-- Members as others see them, with those of their roles that there still are.
CREATE VIEW member_profiles AS
SELECT m.guild_id, m.user_id, m.nick, m.joined_at, m.timed_out_until, m.is_temporary, m.flags,
       u.username, u.global_name,
       ARRAY(SELECT r.id FROM roles AS r WHERE r.id = ANY (m.roles) ORDER BY r.id) AS roles
  FROM members AS m
  JOIN users AS u ON u.id = m.user_id;

CREATE TABLE bans (
    guild_id   bigint      NOT NULL,
    user_id    bigint      NOT NULL,
    reason     text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bans_pkey PRIMARY KEY (guild_id, user_id),
    CONSTRAINT bans_guild_fkey FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT bans_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX bans_user_idx ON bans (user_id);
