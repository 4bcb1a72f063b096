-- What was done in administration: append-only, whoever asks.

CREATE TABLE audit_log (
    id          bigint   NOT NULL,
    guild_id    bigint   NOT NULL,
    -- NULL when the server itself did it.
    actor_id    bigint,
    -- The documented number of the kind of act.
    action_type smallint NOT NULL,
    target_id   bigint,
    -- As the wire has them: a list of {key, old_value, new_value}.
    changes     jsonb,
    options     jsonb,
    reason      text,
    CONSTRAINT audit_log_pkey PRIMARY KEY (guild_id, id),
    CONSTRAINT audit_log_guild_fkey
        FOREIGN KEY (guild_id) REFERENCES guilds (id) ON DELETE CASCADE
);
CREATE INDEX audit_log_actor_idx ON audit_log (guild_id, actor_id, id);
CREATE INDEX audit_log_action_idx ON audit_log (guild_id, action_type, id);
CREATE INDEX audit_log_target_idx ON audit_log (guild_id, target_id, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- What goes with its guild is no change of it.
    IF TG_OP = 'DELETE' AND pg_trigger_depth() > 1 THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER audit_log_is_append_only
    BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
