-- The order in which processes of one worker's name came up, which their boot ids do not tell.

CREATE SEQUENCE worker_turns;

ALTER TABLE workers
    ADD COLUMN turn bigint NOT NULL DEFAULT 0;
