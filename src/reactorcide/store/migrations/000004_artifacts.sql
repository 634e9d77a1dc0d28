-- How many artifacts a worker has promised to bring, told with the end of the attempt.

ALTER TABLE attempts
    ADD COLUMN artifacts integer NOT NULL DEFAULT 0 CHECK (artifacts >= 0);
