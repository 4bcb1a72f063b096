-- Finding members of a guild by how their names begin.

ALTER TABLE members
    -- Copies of the account's names in lower case, kept by the triggers below: an index on the
    -- accounts would find everybody of that name before it looks who is in the guild.
    ADD COLUMN username_key    text COLLATE "C",
    ADD COLUMN global_name_key text COLLATE "C";

UPDATE members AS m
   SET username_key = u.username, global_name_key = lower(u.global_name)
  FROM users AS u
 WHERE u.id = m.user_id;

CREATE INDEX members_username_idx ON members (guild_id, username_key);
CREATE INDEX members_global_name_idx ON members (guild_id, global_name_key)
    WHERE global_name_key IS NOT NULL;
CREATE INDEX members_nick_idx ON members (guild_id, (lower(nick) COLLATE "C"))
    WHERE nick IS NOT NULL;

-- It is asked at each act of administration: what was added lately must not be read through.
ALTER INDEX members_roles_idx SET (fastupdate = off);

CREATE FUNCTION copy_names_of_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT u.username, lower(u.global_name)
      INTO NEW.username_key, NEW.global_name_key
      FROM users AS u
     WHERE u.id = NEW.user_id;
    RETURN NEW;
END $$;
CREATE TRIGGER members_have_names
    BEFORE INSERT ON members
    FOR EACH ROW EXECUTE FUNCTION copy_names_of_account();

-- Who joins holds the row of the account, as does who renames it: neither misses the other.
CREATE FUNCTION copy_names_to_members() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE members
       SET username_key = NEW.username, global_name_key = lower(NEW.global_name)
     WHERE user_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER users_name_members
    AFTER UPDATE OF username, global_name ON users
    FOR EACH ROW
    WHEN (OLD.username IS DISTINCT FROM NEW.username
          OR OLD.global_name IS DISTINCT FROM NEW.global_name)
    EXECUTE FUNCTION copy_names_to_members();

-- When the account of a member was in use last, as far as it is known: it signed in, got new
-- tokens, or sent a message anywhere. NULL if none of that is known. Subqueries, so that each of
-- them is one look into an index: login_sessions_user_idx, login_networks_pkey,
-- messages_author_idx. The time of a message is in its id.
CREATE VIEW member_activity AS
SELECT m.guild_id, m.user_id, m.joined_at, m.roles,
       greatest(
           (SELECT max(s.last_used_at) FROM login_sessions AS s WHERE s.user_id = m.user_id),
           (SELECT max(n.last_used_at) FROM login_networks AS n WHERE n.user_id = m.user_id),
           (SELECT to_timestamp(((max(x.id) >> 22) + 1420070400000) / 1000.0)
              FROM messages AS x
             WHERE x.author_id = m.user_id)
       ) AS last_seen_at
  FROM members AS m;
