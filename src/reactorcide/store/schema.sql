-- What the migrations make. Written by `python -m reactorcide.store.schema`; not edited by hand.

CREATE TABLE public.api_tokens (
    token_id uuid NOT NULL,
    user_id uuid NOT NULL,
    token_hash bytea NOT NULL,
    name text NOT NULL,
    kind text DEFAULT 'user'::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT api_tokens_kind_check CHECK ((kind = ANY (ARRAY['user'::text, 'worker'::text]))),
    CONSTRAINT api_tokens_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT api_tokens_token_hash_check CHECK ((octet_length(token_hash) = 32))
);

CREATE TABLE public.attempts (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    lease_id uuid NOT NULL,
    worker_id uuid NOT NULL,
    claimed_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    lease_expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    end_status text,
    exit_code integer,
    signal integer,
    reason text,
    isolation text,
    log_length bigint DEFAULT 0 NOT NULL,
    final_log_length bigint,
    final_log_sha256 bytea,
    log_sealed_at timestamp with time zone,
    artifacts integer DEFAULT 0 NOT NULL,
    image_digest text,
    limits jsonb,
    log_removed_at timestamp with time zone,
    log_removed_why text,
    artifact_bytes bigint,
    artifacts_removed_at timestamp with time zone,
    artifacts_removed_why text,
    log_watched_until timestamp with time zone,
    CONSTRAINT a_removed_log_was_sealed CHECK ((((log_removed_at IS NULL) = (log_removed_why IS NULL)) AND ((log_removed_at IS NULL) OR (log_sealed_at IS NOT NULL)))),
    CONSTRAINT attempts_artifact_bytes_check CHECK ((artifact_bytes >= 0)),
    CONSTRAINT attempts_artifacts_check CHECK ((artifacts >= 0)),
    CONSTRAINT attempts_artifacts_removed_why_check CHECK ((artifacts_removed_why = ANY (ARRAY['age'::text, 'bytes'::text, 'lost'::text]))),
    CONSTRAINT attempts_attempt_check CHECK ((attempt >= 1)),
    CONSTRAINT attempts_final_log_sha256_check CHECK ((octet_length(final_log_sha256) = 32)),
    CONSTRAINT attempts_log_length_check CHECK ((log_length >= 0)),
    CONSTRAINT attempts_log_removed_why_check CHECK ((log_removed_why = ANY (ARRAY['age'::text, 'bytes'::text, 'lost'::text]))),
    CONSTRAINT removed_artifacts_have_a_reason CHECK (((artifacts_removed_at IS NULL) = (artifacts_removed_why IS NULL)))
)
WITH (fillfactor='70');

CREATE TABLE public.chores (
    name text NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.idempotency (
    owner text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    job_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT idempotency_fingerprint_check CHECK ((octet_length(fingerprint) = 32)),
    CONSTRAINT idempotency_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);

CREATE TABLE public.job_events (
    job_id uuid NOT NULL,
    seq integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    from_status text,
    to_status text NOT NULL,
    attempt integer NOT NULL,
    actor text NOT NULL,
    reason text,
    CONSTRAINT job_events_seq_check CHECK ((seq >= 1))
);

CREATE TABLE public.jobs (
    job_id uuid NOT NULL,
    user_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    source_type text NOT NULL,
    git_url text,
    git_ref text,
    source_path text,
    code_dir text NOT NULL,
    job_dir text NOT NULL,
    job_command text NOT NULL,
    runner_image text NOT NULL,
    job_env_vars jsonb DEFAULT '{}'::jsonb NOT NULL,
    job_secret_names text[] DEFAULT '{}'::text[] NOT NULL,
    job_secrets bytea,
    job_env_file text,
    timeout_seconds integer NOT NULL,
    queue_timeout_seconds integer NOT NULL,
    silence_timeout_seconds integer,
    priority smallint DEFAULT 0 NOT NULL,
    queue_name text NOT NULL,
    retry_on_lost smallint DEFAULT 0 NOT NULL,
    artifacts jsonb DEFAULT '["**"]'::jsonb NOT NULL,
    resources jsonb DEFAULT '{}'::jsonb NOT NULL,
    network text DEFAULT 'default'::text NOT NULL,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    retry_of uuid,
    status text DEFAULT 'submitted'::text NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    desired smallint DEFAULT 0 NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    runs integer DEFAULT 0 NOT NULL,
    max_runs integer DEFAULT 1 NOT NULL,
    lease_id uuid,
    lease_worker uuid,
    not_before timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    queued_at timestamp with time zone,
    queue_deadline_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    deadline_at timestamp with time zone,
    completed_at timestamp with time zone,
    worker_name text,
    exit_code integer,
    signal integer,
    reason text,
    fault text,
    message text,
    resolved_sha text,
    corndogs_task_id text,
    logs_object_key text,
    artifacts_object_key text,
    desired_at timestamp with time zone,
    desired_by text,
    source_tree text,
    source_commit text,
    source_changes integer,
    ticket_attempt integer,
    ticket_due_at timestamp with time zone,
    CONSTRAINT a_lease_has_a_worker CHECK (((lease_id IS NULL) = (lease_worker IS NULL))),
    CONSTRAINT a_tree_fits_its_type CHECK ((((source_type = 'tree'::text) = (source_tree IS NOT NULL)) AND ((source_type = 'tree'::text) OR ((source_commit IS NULL) AND (source_changes IS NULL))))),
    CONSTRAINT an_end_holds_no_lease CHECK (((status = ANY (ARRAY['submitted'::text, 'queued'::text, 'running'::text])) OR (lease_id IS NULL))),
    CONSTRAINT an_end_is_whole CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text, 'timeout'::text])) = ((completed_at IS NOT NULL) AND (reason IS NOT NULL) AND (fault IS NOT NULL)))),
    CONSTRAINT completed_means_exit_0 CHECK (((status <> 'completed'::text) OR ((exit_code = 0) AND (reason = 'ok'::text)))),
    CONSTRAINT jobs_attempt_check CHECK (((attempt >= 0) AND (attempt <= 50))),
    CONSTRAINT jobs_desired_check CHECK (((desired >= 0) AND (desired <= 2))),
    CONSTRAINT jobs_fault_check CHECK ((fault = ANY (ARRAY['none'::text, 'user'::text, 'infra'::text, 'policy'::text]))),
    CONSTRAINT jobs_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT jobs_network_check CHECK ((network = ANY (ARRAY['default'::text, 'none'::text]))),
    CONSTRAINT jobs_priority_check CHECK (((priority >= '-1000'::integer) AND (priority <= 1000))),
    CONSTRAINT jobs_queue_timeout_seconds_check CHECK (((queue_timeout_seconds >= 1) AND (queue_timeout_seconds <= 2592000))),
    CONSTRAINT jobs_retry_on_lost_check CHECK (((retry_on_lost >= 0) AND (retry_on_lost <= 10))),
    CONSTRAINT jobs_silence_timeout_seconds_check CHECK (((silence_timeout_seconds >= 1) AND (silence_timeout_seconds <= 604800))),
    CONSTRAINT jobs_source_changes_check CHECK ((source_changes >= 0)),
    CONSTRAINT jobs_source_commit_check CHECK ((source_commit ~ '^([0-9a-f]{40}|[0-9a-f]{64})$'::text)),
    CONSTRAINT jobs_source_type_check CHECK ((source_type = ANY (ARRAY['git'::text, 'copy'::text, 'none'::text, 'tree'::text]))),
    CONSTRAINT jobs_status_check CHECK ((status = ANY (ARRAY['submitted'::text, 'queued'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'timeout'::text]))),
    CONSTRAINT jobs_timeout_seconds_check CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 604800))),
    CONSTRAINT running_is_leased_and_timed CHECK (((status <> 'running'::text) OR ((lease_id IS NOT NULL) AND (started_at IS NOT NULL) AND (deadline_at IS NOT NULL)))),
    CONSTRAINT runs_never_pass_max_runs CHECK (((runs <= max_runs) AND (runs <= attempt))),
    CONSTRAINT source_fits_its_type CHECK ((((source_type = 'git'::text) = (git_url IS NOT NULL)) AND ((source_type = 'copy'::text) = (source_path IS NOT NULL)) AND ((git_ref IS NULL) OR (source_type = 'git'::text))))
);

CREATE TABLE public.object_store_mark (
    only_one boolean DEFAULT true NOT NULL,
    mark_id uuid DEFAULT gen_random_uuid() NOT NULL,
    made_at timestamp with time zone,
    CONSTRAINT object_store_mark_only_one_check CHECK (only_one)
);

CREATE TABLE public.orphan_suspects (
    object_key text NOT NULL,
    first_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    kind text NOT NULL,
    dedupe text NOT NULL,
    payload jsonb NOT NULL,
    not_before timestamp with time zone DEFAULT now() NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    done_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.removal_rounds (
    round_id bigint NOT NULL,
    kind text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone DEFAULT now() NOT NULL,
    is_dry_run boolean NOT NULL,
    removed jsonb NOT NULL,
    CONSTRAINT removal_rounds_kind_check CHECK ((kind = ANY (ARRAY['retention'::text, 'orphans'::text])))
);

ALTER TABLE public.removal_rounds ALTER COLUMN round_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.removal_rounds_round_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.removals (
    removal_id bigint NOT NULL,
    removed_at timestamp with time zone DEFAULT now() NOT NULL,
    what text NOT NULL,
    why text NOT NULL,
    actor text NOT NULL,
    job_id uuid,
    attempt integer,
    job_name text,
    user_id uuid,
    size_bytes bigint NOT NULL,
    objects integer,
    object_key text,
    CONSTRAINT removals_size_bytes_check CHECK ((size_bytes >= 0)),
    CONSTRAINT removals_what_check CHECK ((what = ANY (ARRAY['job'::text, 'log'::text, 'artifacts'::text, 'objects'::text]))),
    CONSTRAINT removals_why_check CHECK ((why = ANY (ARRAY['asked'::text, 'age'::text, 'bytes'::text, 'orphan'::text, 'lost'::text])))
);

ALTER TABLE public.removals ALTER COLUMN removal_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.removals_removal_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.schema_migrations (
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT schema_migrations_sha256_check CHECK ((octet_length(sha256) = 32))
);

CREATE TABLE public.searches (
    place text NOT NULL,
    "position" text NOT NULL
);

CREATE TABLE public.tree_blobs (
    blob_id bigint NOT NULL,
    user_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    size_bytes bigint NOT NULL,
    is_stored boolean DEFAULT false NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT tree_blobs_sha256_check CHECK ((octet_length(sha256) = 32)),
    CONSTRAINT tree_blobs_size_bytes_check CHECK ((size_bytes >= 0))
);

ALTER TABLE public.tree_blobs ALTER COLUMN blob_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.tree_blobs_blob_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.tree_contents (
    tree_id bigint NOT NULL,
    blob_id bigint NOT NULL
);

CREATE TABLE public.trees (
    tree_id bigint NOT NULL,
    user_id uuid NOT NULL,
    sha256 text NOT NULL,
    entries integer NOT NULL,
    size_bytes bigint NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT trees_entries_check CHECK ((entries >= 0)),
    CONSTRAINT trees_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT trees_size_bytes_check CHECK ((size_bytes >= 0))
);

ALTER TABLE public.trees ALTER COLUMN tree_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.trees_tree_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.users (
    user_id uuid NOT NULL,
    username text NOT NULL,
    email text,
    roles text[] DEFAULT '{user}'::text[] NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT users_email_check CHECK ((length(email) <= 320)),
    CONSTRAINT users_roles_check CHECK ((roles <@ '{user,task_admin,system_admin,support,admin}'::text[])),
    CONSTRAINT users_username_check CHECK (((length(username) >= 1) AND (length(username) <= 255)))
);

CREATE SEQUENCE public.worker_turns
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE public.workers (
    worker_id uuid NOT NULL,
    name text NOT NULL,
    boot_id uuid NOT NULL,
    queues text[] NOT NULL,
    slots integer NOT NULL,
    version text NOT NULL,
    isolation text DEFAULT ''::text NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid,
    token_id uuid,
    disk_full boolean DEFAULT false NOT NULL,
    spooled integer DEFAULT 0 NOT NULL,
    spool_bytes bigint DEFAULT 0 NOT NULL,
    turn bigint DEFAULT 0 NOT NULL,
    CONSTRAINT workers_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT workers_slots_check CHECK ((slots >= 0)),
    CONSTRAINT workers_spool_bytes_check CHECK ((spool_bytes >= 0)),
    CONSTRAINT workers_spooled_check CHECK ((spooled >= 0))
);

ALTER TABLE ONLY public.api_tokens
    ADD CONSTRAINT api_tokens_pkey PRIMARY KEY (token_id);

ALTER TABLE ONLY public.api_tokens
    ADD CONSTRAINT api_tokens_token_hash_key UNIQUE (token_hash);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_lease_id_key UNIQUE (lease_id);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (job_id, attempt);

ALTER TABLE ONLY public.chores
    ADD CONSTRAINT chores_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (owner, key);

ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT job_events_pkey PRIMARY KEY (job_id, seq);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY public.object_store_mark
    ADD CONSTRAINT object_store_mark_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY public.orphan_suspects
    ADD CONSTRAINT orphan_suspects_pkey PRIMARY KEY (object_key);

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_dedupe_key UNIQUE (dedupe);

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.removal_rounds
    ADD CONSTRAINT removal_rounds_pkey PRIMARY KEY (round_id);

ALTER TABLE ONLY public.removals
    ADD CONSTRAINT removals_pkey PRIMARY KEY (removal_id);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.searches
    ADD CONSTRAINT searches_pkey PRIMARY KEY (place);

ALTER TABLE ONLY public.tree_blobs
    ADD CONSTRAINT tree_blobs_pkey PRIMARY KEY (blob_id);

ALTER TABLE ONLY public.tree_blobs
    ADD CONSTRAINT tree_blobs_user_id_sha256_key UNIQUE (user_id, sha256);

ALTER TABLE ONLY public.tree_contents
    ADD CONSTRAINT tree_contents_pkey PRIMARY KEY (tree_id, blob_id);

ALTER TABLE ONLY public.trees
    ADD CONSTRAINT trees_pkey PRIMARY KEY (tree_id);

ALTER TABLE ONLY public.trees
    ADD CONSTRAINT trees_user_id_sha256_key UNIQUE (user_id, sha256);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (user_id);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_username_key UNIQUE (username);

ALTER TABLE ONLY public.workers
    ADD CONSTRAINT workers_name_key UNIQUE (name);

ALTER TABLE ONLY public.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);

CREATE INDEX api_tokens_of_user ON public.api_tokens USING btree (user_id, created_at);

CREATE INDEX attempts_held ON public.attempts USING btree (worker_id) WHERE (ended_at IS NULL);

CREATE INDEX attempts_kept_artifacts ON public.attempts USING btree (ended_at, job_id, attempt) INCLUDE (artifact_bytes) WHERE ((artifacts > 0) AND (artifacts_removed_at IS NULL));

CREATE INDEX attempts_kept_logs ON public.attempts USING btree (ended_at, job_id, attempt) INCLUDE (final_log_length) WHERE ((log_sealed_at IS NOT NULL) AND (log_removed_at IS NULL));

CREATE INDEX attempts_unmeasured ON public.attempts USING btree (ended_at, job_id, attempt) WHERE ((artifacts > 0) AND (artifacts_removed_at IS NULL) AND (artifact_bytes IS NULL));

CREATE INDEX attempts_unsealed ON public.attempts USING btree (ended_at) WHERE ((ended_at IS NOT NULL) AND (log_sealed_at IS NULL));

CREATE INDEX idempotency_age ON public.idempotency USING btree (created_at);

CREATE UNIQUE INDEX job_events_one_end ON public.job_events USING btree (job_id) WHERE (to_status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text, 'timeout'::text]));

CREATE INDEX jobs_by_label ON public.jobs USING gin (labels jsonb_path_ops) WHERE (labels <> '{}'::jsonb);

CREATE INDEX jobs_ended ON public.jobs USING btree (completed_at, job_id) WHERE (completed_at IS NOT NULL);

CREATE INDEX jobs_leased ON public.jobs USING btree (lease_worker) WHERE (lease_id IS NOT NULL);

CREATE INDEX jobs_newest ON public.jobs USING btree (created_at DESC, job_id DESC);

CREATE INDEX jobs_newest_by_name ON public.jobs USING btree (name, created_at DESC, job_id DESC);

CREATE INDEX jobs_newest_by_queue ON public.jobs USING btree (queue_name, created_at DESC, job_id DESC);

CREATE INDEX jobs_newest_by_source ON public.jobs USING btree (source_type, created_at DESC, job_id DESC);

CREATE INDEX jobs_newest_by_status ON public.jobs USING btree (status, created_at DESC, job_id DESC);

CREATE INDEX jobs_newest_of_user ON public.jobs USING btree (user_id, created_at DESC, job_id DESC);

CREATE INDEX jobs_of_tree ON public.jobs USING btree (user_id, source_tree) WHERE (source_tree IS NOT NULL);

CREATE INDEX jobs_queue_deadline ON public.jobs USING btree (queue_deadline_at) WHERE ((status = ANY (ARRAY['submitted'::text, 'queued'::text])) AND (lease_id IS NULL));

CREATE INDEX jobs_ready ON public.jobs USING btree (queue_name, priority DESC, created_at, job_id) WHERE ((status = ANY (ARRAY['submitted'::text, 'queued'::text])) AND (lease_id IS NULL) AND (desired = 0));

CREATE INDEX jobs_ticket_due ON public.jobs USING btree (ticket_due_at) WHERE ((ticket_due_at IS NOT NULL) AND (status = ANY (ARRAY['submitted'::text, 'queued'::text])) AND (lease_id IS NULL) AND (desired = 0));

CREATE INDEX orphan_suspects_age ON public.orphan_suspects USING btree (seen_at);

CREATE INDEX outbox_due ON public.outbox USING btree (not_before) WHERE (done_at IS NULL);

CREATE INDEX removals_age ON public.removals USING btree (removed_at);

CREATE INDEX removals_of_job ON public.removals USING btree (job_id, removal_id DESC) WHERE (job_id IS NOT NULL);

CREATE INDEX tree_contents_of_blob ON public.tree_contents USING btree (blob_id);

ALTER TABLE ONLY public.api_tokens
    ADD CONSTRAINT api_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(user_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(job_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES public.workers(worker_id);

ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT job_events_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(job_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_lease_worker_fkey FOREIGN KEY (lease_worker) REFERENCES public.workers(worker_id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_source_tree FOREIGN KEY (user_id, source_tree) REFERENCES public.trees(user_id, sha256);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(user_id);

ALTER TABLE ONLY public.tree_blobs
    ADD CONSTRAINT tree_blobs_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(user_id);

ALTER TABLE ONLY public.tree_contents
    ADD CONSTRAINT tree_contents_blob_id_fkey FOREIGN KEY (blob_id) REFERENCES public.tree_blobs(blob_id);

ALTER TABLE ONLY public.tree_contents
    ADD CONSTRAINT tree_contents_tree_id_fkey FOREIGN KEY (tree_id) REFERENCES public.trees(tree_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trees
    ADD CONSTRAINT trees_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(user_id);

ALTER TABLE ONLY public.workers
    ADD CONSTRAINT workers_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(user_id);
