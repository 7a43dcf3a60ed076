-- What a revision of an overlay of type workshop was made of.
CREATE TABLE workshop (
    overlay  INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    build    TEXT NOT NULL CHECK (json_type(build) = 'object'),
    PRIMARY KEY (overlay, revision),
    FOREIGN KEY (overlay, revision) REFERENCES revision (overlay, id) ON DELETE CASCADE
) STRICT;
