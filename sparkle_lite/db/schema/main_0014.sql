-- Lists of others that are fetched by themselves, and keys that read the feeds.

-- Lists that were added on a page: JSON with the same keys as [[imports]] of the configuration, which wins.
CREATE TABLE import_source (
    name     TEXT PRIMARY KEY,
    settings TEXT NOT NULL,
    added_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What stands of each list, whoever named it: of the last run that was taken over.
CREATE TABLE import_state (
    name          TEXT PRIMARY KEY,
    -- 1: an administrator paused it.
    paused        INTEGER NOT NULL DEFAULT 0,
    -- 1: a command brought it, so nobody but a command or a button ends it.
    by_hand       INTEGER NOT NULL DEFAULT 0,
    -- From where, and what that server said of it for the next question.
    url           TEXT NOT NULL DEFAULT '',
    etag          TEXT NOT NULL DEFAULT '',
    last_modified TEXT NOT NULL DEFAULT '',
    -- SHA-256 of what was read and of the settings that it was read with; NULL: it must be read anew.
    digest        BLOB,
    entries       INTEGER NOT NULL DEFAULT 0,
    -- When it was last asked for, and last found good (ms).
    asked_at      INTEGER,
    good_at       INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE import_run (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    took    INTEGER NOT NULL,
    -- taken, unchanged, held (the last good state stays until somebody accepts this one), failed.
    outcome TEXT NOT NULL CHECK (outcome IN ('taken', 'unchanged', 'held', 'failed')),
    -- JSON: why it was held or failed, as a key of the texts with its values; NULL otherwise.
    why     TEXT,
    -- JSON: lines, entries, added, removed, refused by reason, too wide, bytes, and the first few lines of each trouble.
    numbers TEXT NOT NULL
) STRICT;
CREATE INDEX import_run_name ON import_run (name, id);

-- What lists say that only support what people here saw (weight or trust "support").
CREATE TABLE import_support (
    address BLOB NOT NULL,
    prefix  INTEGER NOT NULL,
    name    TEXT NOT NULL,
    PRIMARY KEY (address, prefix, name)
) STRICT, WITHOUT ROWID;

-- Read-only keys for the feeds.
CREATE TABLE feed_key (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    -- SHA-256 of the key; the key itself is shown once.
    hash       BLOB NOT NULL UNIQUE,
    -- Who made it; NULL: the command line.
    user       INTEGER REFERENCES user (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    used_at    INTEGER
) STRICT;
CREATE INDEX feed_key_user ON feed_key (user);

-- What other nodes know this one by, in the chains of decisions.
INSERT INTO setting VALUES ('node', lower(hex(randomblob(8))));
