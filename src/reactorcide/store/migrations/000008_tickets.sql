-- Tickets of an external queue, one for a job that is ready; and whose turn it is to do a common chore.

ALTER TABLE jobs
    -- The value that `attempt` had when a ticket of the job was last published (its uuid: corndogs_task_id).
    ADD COLUMN ticket_attempt integer,
    -- When a ticket is to be published or looked after next; null: the rows of jobs were the queue.
    ADD COLUMN ticket_due_at  timestamptz;
CREATE INDEX jobs_ticket_due ON jobs (ticket_due_at)
    WHERE ticket_due_at IS NOT NULL AND status IN ('submitted', 'queued') AND lease_id IS NULL AND desired = 0;

-- Who moves `next_at` on has the turn: of several coordinators one does what need not be done by all.
CREATE TABLE chores (
    name    text PRIMARY KEY,
    next_at timestamptz NOT NULL DEFAULT now()
);
