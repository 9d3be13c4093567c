-- What people asked us to look at: "this address is mine, and it is listed". Whoever asks may be anybody.
CREATE TABLE review (
    id         INTEGER PRIMARY KEY,
    address    BLOB NOT NULL,
    asked_at   INTEGER NOT NULL,
    -- Whether the request came from that very address, and by whom if somebody was signed in.
    is_own     INTEGER NOT NULL,
    user       INTEGER,
    -- Whether the address was listed at that moment.
    listed     INTEGER NOT NULL,
    message    TEXT NOT NULL,
    contact    TEXT NOT NULL,
    closed_at  INTEGER,
    closed_by  INTEGER,
    note       TEXT,
    CHECK ((closed_at IS NULL) = (note IS NULL))
) STRICT;
CREATE INDEX review_open ON review (address) WHERE closed_at IS NULL;
CREATE INDEX review_closed ON review (closed_at);
