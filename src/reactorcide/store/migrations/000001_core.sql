-- Accounts, jobs, attempts, events, idempotency keys, the outbox and workers.
-- Stays within PostgreSQL 15. Times are timestamptz by the database's own clock.

CREATE TABLE users (
    user_id     uuid PRIMARY KEY,
    username    text NOT NULL UNIQUE CHECK (length(username) BETWEEN 1 AND 255),
    email       text CHECK (length(email) <= 320),
    roles       text[] NOT NULL DEFAULT '{user}'
                CHECK (roles <@ '{user,task_admin,system_admin,support,admin}'::text[]),
    enabled     boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_tokens (
    token_id     uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash   bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    kind         text NOT NULL DEFAULT 'user' CHECK (kind IN ('user', 'worker')),
    is_active    boolean NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_tokens_of_user ON api_tokens (user_id, created_at);

CREATE TABLE workers (
    worker_id     uuid PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 255),
    boot_id       uuid NOT NULL,
    queues        text[] NOT NULL,
    slots         integer NOT NULL CHECK (slots >= 0),
    version       text NOT NULL,
    isolation     text NOT NULL DEFAULT '',
    draining      boolean NOT NULL DEFAULT false,
    registered_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE jobs (
    job_id                  uuid PRIMARY KEY,
    user_id                 uuid NOT NULL REFERENCES users,
    -- What was asked for; frozen at submission.
    name                    text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    description             text NOT NULL DEFAULT '',
    source_type             text NOT NULL CHECK (source_type IN ('git', 'copy', 'none')),
    git_url                 text,
    git_ref                 text,
    source_path             text,
    code_dir                text NOT NULL,
    job_dir                 text NOT NULL,
    job_command             text NOT NULL,
    runner_image            text NOT NULL,
    job_env_vars            jsonb NOT NULL DEFAULT '{}',
    job_secret_names        text[] NOT NULL DEFAULT '{}',
    job_secrets             bytea,
    job_env_file            text,
    timeout_seconds         integer NOT NULL CHECK (timeout_seconds BETWEEN 1 AND 604800),
    queue_timeout_seconds   integer NOT NULL CHECK (queue_timeout_seconds BETWEEN 1 AND 2592000),
    silence_timeout_seconds integer CHECK (silence_timeout_seconds BETWEEN 1 AND 604800),
    priority                smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1000 AND 1000),
    queue_name              text NOT NULL,
    retry_on_lost           smallint NOT NULL DEFAULT 0 CHECK (retry_on_lost BETWEEN 0 AND 10),
    artifacts               jsonb NOT NULL DEFAULT '["**"]',
    resources               jsonb NOT NULL DEFAULT '{}',
    network                 text NOT NULL DEFAULT 'default' CHECK (network IN ('default', 'none')),
    labels                  jsonb NOT NULL DEFAULT '{}',
    retry_of                uuid,
    -- What has become of it.
    status                  text NOT NULL DEFAULT 'submitted' CHECK (status IN
                            ('submitted', 'queued', 'running', 'completed', 'failed', 'cancelled', 'timeout')),
    version                 integer NOT NULL DEFAULT 1,
    desired                 smallint NOT NULL DEFAULT 0 CHECK (desired BETWEEN 0 AND 2),
    attempt                 integer NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND 50),
    runs                    integer NOT NULL DEFAULT 0,
    max_runs                integer NOT NULL DEFAULT 1,
    lease_id                uuid,
    lease_worker            uuid REFERENCES workers,
    not_before              timestamptz NOT NULL DEFAULT now(),
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    queued_at               timestamptz,
    queue_deadline_at       timestamptz NOT NULL,
    started_at              timestamptz,
    deadline_at             timestamptz,
    completed_at            timestamptz,
    worker_name             text,
    exit_code               integer,
    signal                  integer,
    reason                  text,
    fault                   text CHECK (fault IN ('none', 'user', 'infra', 'policy')),
    message                 text,
    resolved_sha            text,
    corndogs_task_id        text,
    logs_object_key         text,
    artifacts_object_key    text,

    CONSTRAINT source_fits_its_type CHECK (
        (source_type = 'git') = (git_url IS NOT NULL) AND (source_type = 'copy') = (source_path IS NOT NULL)
        AND (git_ref IS NULL OR source_type = 'git')),
    CONSTRAINT runs_never_pass_max_runs CHECK (runs <= max_runs AND runs <= attempt),
    CONSTRAINT a_lease_has_a_worker CHECK ((lease_id IS NULL) = (lease_worker IS NULL)),
    CONSTRAINT running_is_leased_and_timed CHECK (
        status <> 'running' OR (lease_id IS NOT NULL AND started_at IS NOT NULL AND deadline_at IS NOT NULL)),
    CONSTRAINT an_end_is_whole CHECK (
        (status IN ('completed', 'failed', 'cancelled', 'timeout'))
        = (completed_at IS NOT NULL AND reason IS NOT NULL AND fault IS NOT NULL)),
    CONSTRAINT an_end_holds_no_lease CHECK (
        status IN ('submitted', 'queued', 'running') OR lease_id IS NULL),
    CONSTRAINT completed_means_exit_0 CHECK (status <> 'completed' OR (exit_code = 0 AND reason = 'ok'))
);
-- Ready to be claimed, in the order of claiming.
CREATE INDEX jobs_ready ON jobs (queue_name, priority DESC, created_at, job_id)
    WHERE status IN ('submitted', 'queued') AND lease_id IS NULL AND desired = 0;
CREATE INDEX jobs_queue_deadline ON jobs (queue_deadline_at)
    WHERE status IN ('submitted', 'queued') AND lease_id IS NULL;
CREATE INDEX jobs_leased ON jobs (lease_worker) WHERE lease_id IS NOT NULL;
-- The lists, newest first, one index an allowed filter.
CREATE INDEX jobs_newest ON jobs (created_at DESC, job_id DESC);
CREATE INDEX jobs_newest_of_user ON jobs (user_id, created_at DESC, job_id DESC);
CREATE INDEX jobs_newest_by_status ON jobs (status, created_at DESC, job_id DESC);
CREATE INDEX jobs_newest_by_queue ON jobs (queue_name, created_at DESC, job_id DESC);
CREATE INDEX jobs_newest_by_source ON jobs (source_type, created_at DESC, job_id DESC);
CREATE INDEX jobs_newest_by_name ON jobs (name, created_at DESC, job_id DESC);
CREATE INDEX jobs_by_label ON jobs USING gin (labels jsonb_path_ops) WHERE labels <> '{}';

-- The slim row of an attempt: what beats often lives here.
CREATE TABLE attempts (
    job_id           uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    attempt          integer NOT NULL CHECK (attempt >= 1),
    lease_id         uuid NOT NULL UNIQUE,
    worker_id        uuid NOT NULL REFERENCES workers,
    claimed_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    lease_expires_at timestamptz NOT NULL,
    ended_at         timestamptz,
    end_status       text,
    exit_code        integer,
    signal           integer,
    reason           text,
    isolation        text,
    log_length       bigint NOT NULL DEFAULT 0 CHECK (log_length >= 0),
    -- Promised by finish; the log is sealed when what is stored matches.
    final_log_length bigint,
    final_log_sha256 bytea CHECK (octet_length(final_log_sha256) = 32),
    log_sealed_at    timestamptz,
    PRIMARY KEY (job_id, attempt)
) WITH (fillfactor = 70);
CREATE INDEX attempts_held ON attempts (worker_id) WHERE ended_at IS NULL;
CREATE INDEX attempts_unsealed ON attempts (ended_at) WHERE ended_at IS NOT NULL AND log_sealed_at IS NULL;

CREATE TABLE job_events (
    job_id      uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    seq         integer NOT NULL CHECK (seq >= 1),
    at          timestamptz NOT NULL DEFAULT now(),
    from_status text,
    to_status   text NOT NULL,
    attempt     integer NOT NULL,
    actor       text NOT NULL,
    reason      text,
    PRIMARY KEY (job_id, seq)
);
CREATE UNIQUE INDEX job_events_one_end ON job_events (job_id)
    WHERE to_status IN ('completed', 'failed', 'cancelled', 'timeout');

CREATE TABLE idempotency (
    owner       text NOT NULL,
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    job_id      uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL,
    dedupe     text NOT NULL UNIQUE,
    payload    jsonb NOT NULL,
    not_before timestamptz NOT NULL DEFAULT now(),
    tries      integer NOT NULL DEFAULT 0,
    done_at    timestamptz
);
CREATE INDEX outbox_due ON outbox (not_before) WHERE done_at IS NULL;
