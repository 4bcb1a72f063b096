-- The channels that a guild shows, which are few, beside its threads, which may be many.

CREATE INDEX channels_shown_idx ON channels (guild_id, position, id)
    WHERE guild_id IS NOT NULL AND type NOT IN (10, 11, 12);
