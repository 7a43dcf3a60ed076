-- Who asked for a job, by name: the user may be gone when the history is read.
ALTER TABLE job ADD COLUMN requester_name TEXT NOT NULL DEFAULT '';
