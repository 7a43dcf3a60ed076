-- Overlays with revisions, blueprints, and instances that follow one.

CREATE TABLE overlay (
    id      INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id <= 4294967295), -- names a directory, so it is never given out again
    name    TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    type    TEXT NOT NULL,
    owner   INTEGER NOT NULL,
    created INTEGER NOT NULL,
    config  TEXT NOT NULL CHECK (json_type(config) = 'object')
) STRICT;

-- A row outlives its directory where it is the newest of its overlay: numbers are never given out again.
CREATE TABLE revision (
    overlay   INTEGER NOT NULL, -- 0 is the game
    id        INTEGER NOT NULL CHECK (id BETWEEN 1 AND 4294967295),
    job       INTEGER NOT NULL, -- that makes it, 0 = none
    created   INTEGER NOT NULL,
    published INTEGER NOT NULL DEFAULT 0, -- 0 until its directory is complete and in place
    removed   INTEGER NOT NULL DEFAULT 0,
    files     INTEGER NOT NULL DEFAULT 0,
    bytes     INTEGER NOT NULL DEFAULT 0,
    current   INTEGER NOT NULL DEFAULT 0 CHECK (current IN (0, 1) AND current <= (published != 0 AND removed = 0)),
    PRIMARY KEY (overlay, id)
) STRICT;
CREATE UNIQUE INDEX revision_current ON revision (overlay) WHERE current = 1;

INSERT INTO revision (overlay, id, job, created, published, current)
    SELECT 0, id, job, created, published, current FROM game_revision;
-- The number of the newest import that failed, if it was a later one.
INSERT INTO revision (overlay, id, job, created, removed)
    SELECT 0, seq, 0, 0, 1 FROM sqlite_sequence WHERE name = 'game_revision'
    AND seq > (SELECT coalesce(max(id), 0) FROM game_revision);
DROP TABLE game_revision;

CREATE TABLE blueprint (
    name      TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    owner     INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    arguments TEXT NOT NULL CHECK (json_type(arguments) = 'array'),
    config    TEXT NOT NULL CHECK (json_type(config) = 'array'),
    overlays  TEXT NOT NULL CHECK (json_type(overlays) = 'array'),
    limits    TEXT NOT NULL CHECK (json_type(limits) = 'object')
) STRICT;

-- What a job was asked for beyond its kind and target, as JSON.
ALTER TABLE job ADD COLUMN parameters TEXT NOT NULL DEFAULT '{}' CHECK (json_type(parameters) = 'object');

ALTER TABLE instance ADD COLUMN blueprint TEXT REFERENCES blueprint (name);
CREATE INDEX instance_blueprint ON instance (blueprint);
