-- What was decided about whom, by whom, why and for how long. A row never changes but that it ends, once: whatever
-- becomes different ends one decision and begins another, so that the state at any past moment can be told.
CREATE TABLE decision (
    id         INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('ip', 'port', 'peer_id', 'client_name', 'script')),
    -- ip: the network. Everything else: the port, the matcher in its canonical JSON, the script.
    address    BLOB,
    prefix     INTEGER,
    text       TEXT,
    action     TEXT NOT NULL CHECK (action IN ('deny', 'allow')),
    -- active: served; held: waits for review; shadow: shown, not served.
    state      TEXT NOT NULL CHECK (state IN ('active', 'held', 'shadow')),
    -- 'config', 'admin', the name of an analysis, or 'import:<name of a list>'.
    origin     TEXT NOT NULL,
    category   TEXT NOT NULL,
    -- The reason: what kind, and JSON with the numbers that its sentence says.
    code       TEXT NOT NULL,
    numbers    TEXT NOT NULL,
    -- JSON: how many people, version of the formula, first and last seen.
    evidence   TEXT NOT NULL,
    -- Why it waits for review.
    held_for   TEXT,
    -- What an administrator wrote about it.
    note       TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    ended_at   INTEGER,
    end_reason TEXT,
    -- When it is over or will be; the largest number stands for never.
    ends_at    INTEGER NOT NULL GENERATED ALWAYS AS (coalesce(ended_at, expires_at, 9223372036854775807)) VIRTUAL,
    CHECK ((kind = 'ip') = (address IS NOT NULL AND prefix IS NOT NULL)),
    CHECK ((kind = 'ip') = (text IS NULL)),
    CHECK ((state = 'held') = (held_for IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) STRICT;
CREATE INDEX decision_ends ON decision (ends_at);
CREATE INDEX decision_created ON decision (created_at);
CREATE INDEX decision_origin ON decision (origin, ends_at);
CREATE INDEX decision_address ON decision (address, prefix);
CREATE INDEX decision_text ON decision (ends_at) WHERE text IS NOT NULL;

-- Counts the changes, so that a process notices cheaply that another one has made some.
CREATE TABLE decision_revision (
    number INTEGER NOT NULL
) STRICT;
INSERT INTO decision_revision VALUES (0);
