-- Accounts, their login sessions, and invitations to register.

CREATE TABLE users (
    id            bigint      NOT NULL,
    -- Lower-case ASCII, so that no two names look alike.
    username      text        NOT NULL,
    global_name   text,
    bio           text        NOT NULL DEFAULT '',
    email         text        NOT NULL,
    password_hash text        NOT NULL,
    -- 0 none, 1 moderator, 2 administrator of the installation.
    instance_role smallint    NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_username_key UNIQUE (username),
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_instance_role_known CHECK (instance_role BETWEEN 0 AND 2)
);
CREATE INDEX users_admins_idx ON users (id) WHERE instance_role = 2;

ALTER TABLE instance ADD CONSTRAINT instance_administrator_fkey
    FOREIGN KEY (administrator_id) REFERENCES users (id) ON DELETE SET NULL;
CREATE INDEX instance_administrator_idx ON instance (administrator_id);

-- A login session ends by its row being deleted.
CREATE TABLE login_sessions (
    id           bigint      NOT NULL,
    user_id      bigint      NOT NULL,
    -- SHA-256 of the newest refresh token. Earlier generations are known by being derived.
    refresh_hash bytea       NOT NULL,
    generation   integer     NOT NULL DEFAULT 1,
    rotated_at   timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    address      text        NOT NULL,
    user_agent   text        NOT NULL,
    CONSTRAINT login_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT login_sessions_user_fkey
        FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX login_sessions_user_idx ON login_sessions (user_id, id);
CREATE INDEX login_sessions_expiry_idx ON login_sessions (expires_at);

-- Where accounts signed in lately, so that attempts of strangers don't lock their owners out. An
-- IPv6 address stands for its /64.
CREATE TABLE login_networks (
    user_id      bigint      NOT NULL,
    network      text        NOT NULL,
    last_used_at timestamptz NOT NULL,
    CONSTRAINT login_networks_pkey PRIMARY KEY (user_id, network),
    CONSTRAINT login_networks_user_fkey
        FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX login_networks_age_idx ON login_networks (last_used_at);

CREATE TABLE registration_invites (
    id         bigint      NOT NULL,
    -- SHA-256 of the code: whoever reads the table can't register.
    code_hash  bytea       NOT NULL,
    creator_id bigint      NOT NULL,
    uses_left  integer     NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT registration_invites_pkey PRIMARY KEY (id),
    CONSTRAINT registration_invites_code_key UNIQUE (code_hash),
    CONSTRAINT registration_invites_uses CHECK (uses_left >= 0),
    CONSTRAINT registration_invites_creator_fkey
        FOREIGN KEY (creator_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX registration_invites_creator_idx ON registration_invites (creator_id);
