-- What an attempt ran in, told with its end: the digest of its image, and the limits that it really had.

ALTER TABLE attempts
    ADD COLUMN image_digest text,
    ADD COLUMN limits       jsonb;
