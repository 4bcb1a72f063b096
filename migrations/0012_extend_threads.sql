-- When threads are looked at to be archived, and threads as they are shown.

ALTER TABLE threads
    -- When it may have been idle for long enough. A send does not move it: whoever looks then finds
    -- out, and looks again later. So no index changes with each send.
    ADD COLUMN archive_check_at timestamptz NOT NULL DEFAULT now(),
    -- Its counters change with each send: room, so that a row stays on its page.
    SET (fillfactor = 70);
CREATE INDEX threads_check_idx ON threads (archive_check_at) WHERE NOT archived;
CREATE INDEX threads_guild_idx ON threads (guild_id);

CREATE VIEW thread_profiles AS
SELECT t.channel_id, t.guild_id, t.parent_id, c.type, c.owner_id, c.name,
       c.rate_limit_per_user, c.flags, t.archived, t.locked, t.invitable, t.auto_archive_duration,
       t.archive_timestamp, t.created_at, t.message_count, t.total_message_sent, t.member_count,
       t.applied_tags,
       (SELECT m.id FROM messages AS m WHERE m.channel_id = t.channel_id ORDER BY m.id DESC LIMIT 1)
       AS last_message_id
  FROM threads AS t
  JOIN channels AS c ON c.id = t.channel_id;
