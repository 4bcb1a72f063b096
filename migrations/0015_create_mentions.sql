-- Whom messages mention.

ALTER TABLE messages
    -- As they were when it was sent or edited last: what makes a role mentionable may change.
    ADD COLUMN mention_users    bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN mention_roles    bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN mention_everyone boolean  NOT NULL DEFAULT false;

ALTER TABLE message_nonces
    -- Whom the first answer said to be mentioned, as JSON: it is given again. NULL for nobody.
    ADD COLUMN mentions text;

-- One row for each thing that a message mentions. Whom a mention of everyone or of a role reaches
-- is worked out when somebody asks: there is never a row for each member.
CREATE TABLE mentions (
    channel_id bigint   NOT NULL,
    message_id bigint   NOT NULL,
    -- 0 everyone in a guild, 1 a role, 2 an account.
    kind       smallint NOT NULL,
    -- The id of the guild, of the role or of the account.
    target_id  bigint   NOT NULL,
    -- Nobody is reached by their own mentions.
    author_id  bigint   NOT NULL,
    guild_id   bigint,
    CONSTRAINT mentions_pkey PRIMARY KEY (channel_id, message_id, kind, target_id),
    CONSTRAINT mentions_kind_known CHECK (kind BETWEEN 0 AND 2),
    -- Whoever deletes messages, for whatever reason, need not know of this table.
    CONSTRAINT mentions_message_fkey
        FOREIGN KEY (channel_id, message_id) REFERENCES messages (channel_id, id) ON DELETE CASCADE
);
CREATE INDEX mentions_target_idx
    ON mentions (kind, target_id, message_id DESC) INCLUDE (channel_id, author_id);
CREATE INDEX mentions_guild_idx
    ON mentions (target_id, guild_id, message_id DESC) INCLUDE (channel_id, author_id)
 WHERE kind = 2;
