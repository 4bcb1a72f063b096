-- Messages, and the keys that make a repeated send one send.

-- Always looked up together with the channel: a message of another channel can't be reached.
-- The time of a message is in its id.
CREATE TABLE messages (
    channel_id bigint   NOT NULL,
    id         bigint   NOT NULL,
    author_id  bigint   NOT NULL,
    type       smallint NOT NULL DEFAULT 0,
    flags      integer  NOT NULL DEFAULT 0,
    content    text     NOT NULL,
    edited_at  timestamptz,
    -- What the sender called it, as JSON (a string or a number), to be told again by an edit.
    nonce      text,
    CONSTRAINT messages_pkey PRIMARY KEY (channel_id, id),
    -- No reference to channels: deleting one with millions of messages would take minutes, with
    -- its guild locked. Its messages are purged afterwards.
    CONSTRAINT messages_author_fkey FOREIGN KEY (author_id) REFERENCES users (id)
);
CREATE INDEX messages_author_idx ON messages (author_id, id);

-- Channels that are gone, whose messages are still to be deleted. Written by the transaction that
-- deletes the channel.
CREATE TABLE purges (
    channel_id bigint NOT NULL,
    CONSTRAINT purges_pkey PRIMARY KEY (channel_id)
);

-- The last send of each member where slow mode is on. Deleting the message does not undo it.
CREATE TABLE slowmode_marks (
    channel_id bigint NOT NULL,
    author_id  bigint NOT NULL,
    -- The time of the send is in it.
    message_id bigint NOT NULL,
    CONSTRAINT slowmode_marks_pkey PRIMARY KEY (channel_id, author_id)
);

-- No reference to messages: the key outlives a deleted message, so that a late retry of its send
-- does not send it again.
CREATE TABLE message_nonces (
    author_id   bigint      NOT NULL,
    nonce       text        NOT NULL,
    channel_id  bigint      NOT NULL,
    message_id  bigint      NOT NULL,
    -- Keyed SHA-256 of the body: the same nonce with another body is refused.
    body_hash   bytea       NOT NULL,
    -- How the author looked then: the first answer is given again. Content is not kept.
    username    text        NOT NULL,
    global_name text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT message_nonces_pkey PRIMARY KEY (author_id, nonce),
    CONSTRAINT message_nonces_author_fkey
        FOREIGN KEY (author_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX message_nonces_age_idx ON message_nonces USING brin (created_at);
