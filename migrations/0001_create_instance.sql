-- What there is one of for a whole installation, and the worker ids that make snowflakes unique.

CREATE TABLE instance (
    singleton        boolean     NOT NULL DEFAULT true,
    -- The audience of this installation's tokens: another installation's are refused.
    id               uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- Who redeemed the setup secret. Set once.
    administrator_id bigint,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT instance_pkey PRIMARY KEY (singleton),
    CONSTRAINT instance_only_one CHECK (singleton)
);
INSERT INTO instance DEFAULT VALUES;

CREATE TABLE snowflake_workers (
    id          smallint    NOT NULL,
    -- The newest millisecond that the holder is known to have used.
    last_ms     bigint      NOT NULL DEFAULT 0,
    -- The holder makes no id beyond this millisecond: the next holder starts after it.
    reserved_ms bigint      NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Who took the lease: one who slept through its end can't renew it any more.
    holder      uuid,
    CONSTRAINT snowflake_workers_pkey PRIMARY KEY (id),
    CONSTRAINT snowflake_workers_ten_bits CHECK (id BETWEEN 0 AND 1023)
);
INSERT INTO snowflake_workers (id) SELECT generate_series(0, 1023);
