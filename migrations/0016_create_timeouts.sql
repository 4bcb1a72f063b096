-- Timeouts of those who left: they count again for who comes back before they are over.

CREATE TABLE timeouts (
    guild_id bigint      NOT NULL,
    user_id  bigint      NOT NULL,
    until    timestamptz NOT NULL,
    CONSTRAINT timeouts_pkey PRIMARY KEY (guild_id, user_id),
    CONSTRAINT timeouts_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT timeouts_user_fkey
        FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX timeouts_user_idx ON timeouts (user_id);
