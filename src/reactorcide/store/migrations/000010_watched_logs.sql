-- Until when somebody follows the log of an attempt; who does renews it. Null: nobody ever did.

ALTER TABLE attempts
    ADD COLUMN log_watched_until timestamptz;
