-- Who asked for a job, by name: the user may be gone when the history is read.
ALTER TABLE job ADD COLUMN requester_name TEXT NOT NULL DEFAULT '';
-- Why it is to end, where somebody said so: a killed left4d must not go on with it.
ALTER TABLE job ADD COLUMN canceled TEXT NOT NULL DEFAULT '';
