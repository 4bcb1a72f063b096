-- What decides who sees an event: the channel of a thread, and whom an event makes see other things.

ALTER TABLE event_outbox
    -- Of what happens in a thread: the channel it is in, whose permissions decide.
    ADD COLUMN parent_id bigint,
    -- Whose sight of the guild's channels changes: an account's, or with 0 anybody's.
    ADD COLUMN reshapes  bigint;
ALTER TABLE event_log
    ADD COLUMN parent_id bigint,
    ADD COLUMN reshapes  bigint;

-- Moves up to `lim` committed rows from the outbox to the log and returns them with their
-- positions; nothing when another node is at it. Call it as one autocommit statement: the rows may
-- be told to clients once the statement has completed, for then its commit is on disk.
-- The plans are made once, when the outbox is empty, and kept: without the setting they would read
-- the whole table, which holds what was deleted since the last vacuum.
CREATE OR REPLACE FUNCTION drain(lim integer) RETURNS SETOF event_log
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    base bigint;
    n bigint;
    has_retracts boolean;
    has_channels boolean;
    has_revises boolean;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'drain needs READ COMMITTED';
    END IF;
    -- Released at commit, and never held by a client that is paused.
    IF NOT pg_try_advisory_xact_lock(4242) THEN
        RETURN;
    END IF;
    -- A snapshot of its own, taken after the lock.
    SELECT h.pos INTO base FROM log_head AS h;
    WITH moved AS (
        DELETE FROM event_outbox
         WHERE id = ANY (ARRAY(SELECT o.id FROM event_outbox AS o ORDER BY o.id LIMIT lim))
        RETURNING *
    ), logged AS (
        INSERT INTO event_log AS l (
            pos, outbox_id, type, users, guild_id, channel_id,
            subject, retracts, retracts_channels, revises, payload, created_at,
            parent_id, reshapes
        )
        SELECT base + row_number() OVER (ORDER BY m.id), m.id, m.type, m.users, m.guild_id,
               m.channel_id, m.subject, m.retracts, m.retracts_channels, m.revises, m.payload,
               m.created_at, m.parent_id, m.reshapes
          FROM moved AS m
        RETURNING l.retracts, l.retracts_channels, l.revises
    )
    SELECT count(*), bool_or(g.retracts IS NOT NULL), bool_or(g.retracts_channels IS NOT NULL),
           bool_or(g.revises IS NOT NULL)
      INTO n, has_retracts, has_channels, has_revises
      FROM logged AS g;
    IF n = 0 THEN
        RETURN;
    END IF;
    UPDATE log_head SET pos = base + n;
    IF has_revises THEN
        UPDATE event_log AS l
           SET payload = d.payload
          FROM (
               SELECT DISTINCT ON (e.revises) e.revises, e.pos, e.payload
                 FROM event_log AS e
                WHERE e.pos > base AND e.revises IS NOT NULL
                ORDER BY e.revises, e.pos DESC
               ) AS d
         WHERE l.subject = d.revises AND l.pos < d.pos AND l.payload IS NOT NULL;
    END IF;
    IF has_retracts THEN
        UPDATE event_log AS l
           SET payload = NULL
          FROM (
               SELECT unnest(e.retracts) AS subject, e.pos
                 FROM event_log AS e
                WHERE e.pos > base AND e.retracts IS NOT NULL
               ) AS d
         WHERE l.subject = d.subject AND l.pos < d.pos AND l.payload IS NOT NULL;
    END IF;
    IF has_channels THEN
        UPDATE event_log AS l
           SET payload = NULL
          FROM (
               SELECT unnest(e.retracts_channels) AS channel_id, e.pos
                 FROM event_log AS e
                WHERE e.pos > base AND e.retracts_channels IS NOT NULL
               ) AS d
         WHERE l.channel_id = d.channel_id AND l.subject IS NOT NULL AND l.pos < d.pos
           AND l.payload IS NOT NULL;
    END IF;
    RETURN QUERY
        SELECT e.pos, e.outbox_id, e.type, e.users, e.guild_id, e.channel_id,
               e.subject, e.retracts, e.retracts_channels, e.revises, e.payload, e.created_at,
               e.parent_id, e.reshapes
          FROM event_log AS e
         WHERE e.pos > base
         ORDER BY e.pos;
END $$;
