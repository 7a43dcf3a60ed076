-- What was lost when a backup took the place of a damaged database; a row goes when somebody has taken note of it.
CREATE TABLE loss (
    restored INTEGER PRIMARY KEY, -- when
    backup   INTEGER NOT NULL,    -- when the backup was made
    why      TEXT NOT NULL,
    aside    TEXT NOT NULL        -- where the damaged file lies, '' = there was none
) STRICT;
