-- What is kept no longer: logs and artifacts that went before their job, who or what removed what, the rounds
-- in which that happens, and searches through the object store.

ALTER TABLE attempts
    -- Set, the objects of the sealed log are gone or about to be; `lost`: nobody removed them.
    ADD COLUMN log_removed_at        timestamptz,
    ADD COLUMN log_removed_why       text CHECK (log_removed_why IN ('age', 'bytes', 'lost')),
    -- Of the contents that are stored, each once; null: not known yet.
    ADD COLUMN artifact_bytes        bigint CHECK (artifact_bytes >= 0),
    ADD COLUMN artifacts_removed_at  timestamptz,
    ADD COLUMN artifacts_removed_why text CHECK (artifacts_removed_why IN ('age', 'bytes', 'lost')),
    ADD CONSTRAINT a_removed_log_was_sealed CHECK (
        (log_removed_at IS NULL) = (log_removed_why IS NULL)
        AND (log_removed_at IS NULL OR log_sealed_at IS NOT NULL)),
    ADD CONSTRAINT removed_artifacts_have_a_reason CHECK (
        (artifacts_removed_at IS NULL) = (artifacts_removed_why IS NULL));
-- What may go, oldest first. None of these columns changes while an attempt runs.
CREATE INDEX attempts_kept_logs ON attempts (ended_at, job_id, attempt) INCLUDE (final_log_length)
    WHERE log_sealed_at IS NOT NULL AND log_removed_at IS NULL;
CREATE INDEX attempts_kept_artifacts ON attempts (ended_at, job_id, attempt) INCLUDE (artifact_bytes)
    WHERE artifacts > 0 AND artifacts_removed_at IS NULL;
CREATE INDEX attempts_unmeasured ON attempts (ended_at, job_id, attempt)
    WHERE artifacts > 0 AND artifacts_removed_at IS NULL AND artifact_bytes IS NULL;
CREATE INDEX jobs_ended ON jobs (completed_at, job_id) WHERE completed_at IS NOT NULL;

CREATE TABLE removals (
    removal_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    removed_at timestamptz NOT NULL DEFAULT now(),
    what       text NOT NULL CHECK (what IN ('job', 'log', 'artifacts', 'objects')),
    why        text NOT NULL CHECK (why IN ('asked', 'age', 'bytes', 'orphan', 'lost')),
    -- `user:<id>` or `system:<part>`.
    actor      text NOT NULL,
    -- No references: what is named here is gone, or may go.
    job_id     uuid,
    attempt    integer,
    job_name   text,
    user_id    uuid,
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    -- Of objects that no row named: how many, and the first of them.
    objects    integer,
    object_key text
);
CREATE INDEX removals_of_job ON removals (job_id, removal_id DESC) WHERE job_id IS NOT NULL;
CREATE INDEX removals_age ON removals (removed_at);

CREATE TABLE removal_rounds (
    round_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('retention', 'orphans')),
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL DEFAULT now(),
    is_dry_run boolean NOT NULL,
    -- A list of what each rule removed, or would have.
    removed    jsonb NOT NULL
);

-- How far a search through a part of the object store has come: behind this key it goes on.
CREATE TABLE searches (
    place    text PRIMARY KEY,
    position text NOT NULL
);

-- Objects without a row that were seen once; who is seen so again goes.
CREATE TABLE orphan_suspects (
    object_key    text PRIMARY KEY,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    seen_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orphan_suspects_age ON orphan_suspects (seen_at);

-- By this an object store is known to be the one that these rows speak of.
CREATE TABLE object_store_mark (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    mark_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    -- When the store was given it; null: not yet.
    made_at  timestamptz
);
