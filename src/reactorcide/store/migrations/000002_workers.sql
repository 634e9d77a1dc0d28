-- Whose token a remote worker came with, and what workers tell with a heartbeat.

ALTER TABLE workers
    -- Of the token's user, who alone may take over the name; null: a worker that shares our database.
    ADD COLUMN user_id     uuid REFERENCES users,
    -- No reference: a token may be deleted, and the worker then comes with another one.
    ADD COLUMN token_id    uuid,
    ADD COLUMN disk_full   boolean NOT NULL DEFAULT false,
    ADD COLUMN spooled     integer NOT NULL DEFAULT 0 CHECK (spooled >= 0),
    ADD COLUMN spool_bytes bigint NOT NULL DEFAULT 0 CHECK (spool_bytes >= 0);
