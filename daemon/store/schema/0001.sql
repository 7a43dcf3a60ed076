-- Definitions, jobs and game revisions. What systemd or the disk knows better (states, pids, drop-ins) is not here.

CREATE TABLE instance (
    name          TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    port          INTEGER NOT NULL UNIQUE CHECK (port BETWEEN 1024 AND 65535),
    owner         INTEGER NOT NULL,
    created       INTEGER NOT NULL, -- microseconds since the epoch, as all times here
    label         TEXT NOT NULL,
    hostname      TEXT NOT NULL,
    restart       TEXT NOT NULL CHECK (restart IN ('always', 'on-failure', 'no')),
    rcon_password TEXT NOT NULL,
    arguments     TEXT NOT NULL CHECK (json_type(arguments) = 'array'),
    config        TEXT NOT NULL CHECK (json_type(config) = 'array'),
    overlays      TEXT NOT NULL CHECK (json_type(overlays) = 'array'),
    limits        TEXT NOT NULL CHECK (json_type(limits) = 'object')
) STRICT;

-- AUTOINCREMENT: an id is never given out again, not even after the newest row was pruned.
CREATE TABLE job (
    id        INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id <= 4294967295),
    kind      TEXT NOT NULL,
    target    TEXT NOT NULL,
    instance  INTEGER NOT NULL, -- created of the instance that it is about, 0 = none: a name may be given again
    state     TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'canceled', 'timeout', 'skipped')),
    requester INTEGER NOT NULL,
    status    TEXT NOT NULL,
    cause     TEXT NOT NULL,
    timeout   INTEGER NOT NULL, -- microseconds
    created   INTEGER NOT NULL,
    started   INTEGER NOT NULL,
    finished  INTEGER NOT NULL
) STRICT;
CREATE INDEX job_target ON job (target, id);
CREATE INDEX job_unfinished ON job (id) WHERE finished = 0;

CREATE TABLE game_revision (
    id        INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id <= 4294967295),
    job       INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    published INTEGER NOT NULL DEFAULT 0, -- 0 until its directory is complete and in place
    current   INTEGER NOT NULL DEFAULT 0 CHECK (current IN (0, 1) AND current <= (published != 0))
) STRICT;
CREATE UNIQUE INDEX game_revision_current ON game_revision (current) WHERE current = 1;
