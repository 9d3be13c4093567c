-- Segments of the catalogue that can't be served now, as they stood in it: their rows cost nothing but themselves, and
-- come back when the file does.
CREATE TABLE segment_aside (
    id                INTEGER PRIMARY KEY,
    kind              TEXT NOT NULL,
    state             TEXT NOT NULL,
    first_row         INTEGER NOT NULL,
    rows              INTEGER NOT NULL,
    submissions       INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    first_received_at INTEGER,
    last_received_at  INTEGER,
    bytes             INTEGER NOT NULL,
    -- What was wrong, and in the words of the system where it has some.
    reason            TEXT NOT NULL,
    details           TEXT NOT NULL,
    -- Its name in the folder of what was set aside; empty where it stayed, or isn't there.
    file              TEXT NOT NULL,
    at                INTEGER NOT NULL
) STRICT;
