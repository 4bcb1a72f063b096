-- Reports of messages, and rules that look at messages before people do.

CREATE TABLE reports (
    guild_id      bigint      NOT NULL,
    id            bigint      NOT NULL,
    channel_id    bigint      NOT NULL,
    -- The channel whose sight decides: that of a thread, or the channel itself.
    root_id       bigint      NOT NULL,
    -- Whether it was in a private thread.
    is_private    boolean     NOT NULL,
    message_id    bigint      NOT NULL,
    author_id     bigint      NOT NULL,
    reporter_id   bigint      NOT NULL,
    reason        text        NOT NULL,
    category      text        NOT NULL,
    -- The message as it was, as JSON: it may be edited and deleted since, and its channel, too.
    snapshot      text        NOT NULL,
    status        text        NOT NULL DEFAULT 'open',
    note          text,
    resolver_id   bigint,
    resolved_at   timestamptz,
    CONSTRAINT reports_pkey PRIMARY KEY (guild_id, id),
    CONSTRAINT reports_status_known CHECK (status IN ('open', 'resolved', 'dismissed')),
    CONSTRAINT reports_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE,
    CONSTRAINT reports_reporter_fkey
        FOREIGN KEY (reporter_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT reports_resolver_fkey
        FOREIGN KEY (resolver_id) REFERENCES users (id) ON DELETE SET NULL
);
CREATE INDEX reports_status_idx ON reports (guild_id, status, id);
CREATE INDEX reports_resolver_idx ON reports (resolver_id) WHERE resolver_id IS NOT NULL;
CREATE INDEX reports_reporter_idx ON reports (reporter_id);
-- Nobody reports a message twice before somebody has looked.
CREATE UNIQUE INDEX reports_open_idx ON reports (reporter_id, message_id) WHERE status = 'open';

CREATE TABLE automod_rules (
    id              bigint   NOT NULL,
    guild_id        bigint   NOT NULL,
    creator_id      bigint   NOT NULL,
    -- Changes with the rule, so that what was made of it can be kept as long as it is the same.
    version         bigint   NOT NULL,
    -- The documented number.
    trigger_type    smallint NOT NULL,
    enabled         boolean  NOT NULL,
    -- All that there is to the rule, as the wire has it.
    body            text     NOT NULL,
    CONSTRAINT automod_rules_pkey PRIMARY KEY (guild_id, id),
    CONSTRAINT automod_rules_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE
);

-- What rules found and is yet to be acted upon, written with the message or its refusal. Once that
-- is done the row stays for a day without the content, so that a repeated send does nothing twice.
CREATE TABLE automod_hits (
    id              bigint      NOT NULL,
    guild_id        bigint      NOT NULL,
    rule_id         bigint      NOT NULL,
    author_id       bigint      NOT NULL,
    channel_id      bigint      NOT NULL,
    -- NULL for a message that was blocked.
    message_id      bigint,
    -- What a repetition is known by; NULL if nothing does.
    key             text,
    content         text        NOT NULL,
    matched_keyword text,
    matched_content text,
    is_done         boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT automod_hits_pkey PRIMARY KEY (id),
    CONSTRAINT automod_hits_rule_fkey
        FOREIGN KEY (guild_id, rule_id) REFERENCES automod_rules (guild_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX automod_hits_key_idx ON automod_hits (guild_id, rule_id, author_id, key);
CREATE INDEX automod_hits_open_idx ON automod_hits (id) WHERE NOT is_done;
CREATE INDEX automod_hits_age_idx ON automod_hits (created_at);
