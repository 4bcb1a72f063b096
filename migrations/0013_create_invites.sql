-- Invites to guilds, and when members who came by a temporary one were there last.

CREATE TABLE invites (
    code       text        NOT NULL,
    guild_id   bigint      NOT NULL,
    channel_id bigint      NOT NULL,
    inviter_id bigint      NOT NULL,
    -- Seconds; 0 for ever.
    max_age    integer     NOT NULL,
    -- 0 for any number.
    max_uses   integer     NOT NULL,
    uses       integer     NOT NULL DEFAULT 0,
    temporary  boolean     NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    CONSTRAINT invites_pkey PRIMARY KEY (code),
    CONSTRAINT invites_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT invites_channel_fkey
        FOREIGN KEY (channel_id) REFERENCES channels (id) ON DELETE CASCADE,
    CONSTRAINT invites_inviter_fkey
        FOREIGN KEY (inviter_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT invites_uses_counted CHECK (max_uses = 0 OR uses <= max_uses)
);
CREATE INDEX invites_guild_idx ON invites (guild_id, code);
CREATE INDEX invites_channel_idx ON invites (channel_id, code);
CREATE INDEX invites_inviter_idx ON invites (inviter_id);
CREATE INDEX invites_expiry_idx ON invites (expires_at) WHERE expires_at IS NOT NULL;

ALTER TABLE members
    -- Of temporary members alone: when a node saw them with a connection last.
    ADD COLUMN there_at timestamptz;
CREATE INDEX members_temporary_idx ON members (guild_id, user_id) WHERE is_temporary;
