-- What is asked for when somebody asks why.

ALTER TABLE jobs
    -- When the end of the job was asked for (`desired` above 0), and by whom: `user:<id>`.
    ADD COLUMN desired_at timestamptz,
    ADD COLUMN desired_by text;

ALTER TABLE outbox
    -- How long an effect has been owed: `not_before` moves with each try.
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
