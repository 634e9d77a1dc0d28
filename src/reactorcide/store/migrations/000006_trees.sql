-- Trees that users upload: contents by their SHA-256, trees that name them, and jobs that run on a tree.

CREATE TABLE tree_blobs (
    -- Part of the object's key, so that a content which comes again never meets the object of an earlier
    -- one that is being deleted.
    blob_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users,
    sha256       bytea NOT NULL CHECK (octet_length(sha256) = 32),
    size_bytes   bigint NOT NULL CHECK (size_bytes >= 0),
    -- Whether the object is there, or only on its way.
    is_stored    boolean NOT NULL DEFAULT false,
    last_used_at timestamptz NOT NULL DEFAULT now(),
    -- To know a digest gives nobody the content of another user.
    UNIQUE (user_id, sha256)
);

CREATE TABLE trees (
    tree_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users,
    sha256       text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    entries      integer NOT NULL CHECK (entries >= 0),
    size_bytes   bigint NOT NULL CHECK (size_bytes >= 0),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, sha256)
);

-- What a tree needs: its manifest, and every content that this names.
CREATE TABLE tree_contents (
    tree_id bigint NOT NULL REFERENCES trees ON DELETE CASCADE,
    blob_id bigint NOT NULL REFERENCES tree_blobs,
    PRIMARY KEY (tree_id, blob_id)
);
CREATE INDEX tree_contents_of_blob ON tree_contents (blob_id);

ALTER TABLE jobs
    ADD COLUMN source_tree text,
    -- What the tree was made from, as its sender says.
    ADD COLUMN source_commit text CHECK (source_commit ~ '^([0-9a-f]{40}|[0-9a-f]{64})$'),
    ADD COLUMN source_changes integer CHECK (source_changes >= 0),
    DROP CONSTRAINT jobs_source_type_check,
    ADD CONSTRAINT jobs_source_type_check CHECK (source_type IN ('git', 'copy', 'none', 'tree')),
    ADD CONSTRAINT a_tree_fits_its_type CHECK (
        (source_type = 'tree') = (source_tree IS NOT NULL)
        AND (source_type = 'tree' OR (source_commit IS NULL AND source_changes IS NULL))),
    ADD CONSTRAINT jobs_source_tree FOREIGN KEY (user_id, source_tree) REFERENCES trees (user_id, sha256);
CREATE INDEX jobs_of_tree ON jobs (user_id, source_tree) WHERE source_tree IS NOT NULL;
