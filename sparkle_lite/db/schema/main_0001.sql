-- The main database: accounts, dictionaries, bans and the catalogue of segments.
-- Instants are epoch milliseconds UTC. Addresses are 4 or 16 bytes.

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    -- The name without differences of case and width, so that nobody passes for somebody else.
    name_key      TEXT NOT NULL UNIQUE,
    role          TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    -- 'admin': an administrator made the account; 'self': its owner registered it.
    registered_by TEXT NOT NULL CHECK (registered_by IN ('admin', 'self')),
    github_id     INTEGER UNIQUE,
    github_login  TEXT,
    avatar        TEXT,
    email         TEXT,
    registered_at INTEGER NOT NULL,
    last_seen_at  INTEGER,
    banned_at     INTEGER,
    banned_reason TEXT
) STRICT;

CREATE TABLE userapp (
    id             INTEGER PRIMARY KEY,
    app_id         TEXT NOT NULL UNIQUE,
    -- SHA-256 of a 256-bit random secret: nothing slower is needed for what can't be guessed.
    secret_hash    BLOB NOT NULL,
    user           INTEGER NOT NULL REFERENCES user (id),
    comment        TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    last_access_at INTEGER,
    user_agent     TEXT,
    banned_at      INTEGER,
    banned_reason  TEXT,
    deleted_at     INTEGER
) STRICT;
CREATE INDEX userapp_user ON userapp (user);

-- Where an application's requests came from: rules never list a member's address.
CREATE TABLE userapp_address (
    userapp       INTEGER NOT NULL REFERENCES userapp (id),
    address       BLOB NOT NULL,
    first_seen_at INTEGER NOT NULL,
    last_seen_at  INTEGER NOT NULL,
    PRIMARY KEY (userapp, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX userapp_address_last_seen ON userapp_address (last_seen_at);

CREATE TABLE session (
    jti_hash   BLOB PRIMARY KEY,
    user       INTEGER NOT NULL REFERENCES user (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    origin     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_user ON session (user);
CREATE INDEX session_expires ON session (expires_at);

CREATE TABLE login_link (
    token_hash BLOB PRIMARY KEY,
    user       INTEGER NOT NULL REFERENCES user (id),
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    action     TEXT NOT NULL,
    success    INTEGER NOT NULL,
    user       INTEGER,
    address    TEXT,
    user_agent TEXT,
    details    TEXT NOT NULL
) STRICT;
CREATE INDEX audit_at ON audit (at);

-- identifier: 32 bytes where a client sent 64 hex digits, else the text as sent.
-- big_endian: made with the salt's bytes the other way round (qBittorrent-ClientBlocker), so that the same torrent has
-- another identifier there.
CREATE TABLE torrent (
    id         INTEGER PRIMARY KEY,
    identifier ANY NOT NULL,
    size       INTEGER NOT NULL,
    -- 1 private, 0 public, -1 unknown (NULL would escape the uniqueness).
    private    INTEGER NOT NULL,
    big_endian INTEGER NOT NULL,
    UNIQUE (identifier, size, private)
) STRICT;

-- Client discovery: who was seen, when and by whom first and last. Empty texts mean that the client said nothing.
CREATE TABLE client_identity (
    id           INTEGER PRIMARY KEY,
    peer_id      TEXT NOT NULL,
    client_name  TEXT NOT NULL,
    found_at     INTEGER NOT NULL,
    found_by     INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    last_seen_by INTEGER NOT NULL,
    UNIQUE (peer_id, client_name)
) STRICT;
CREATE INDEX client_identity_found ON client_identity (found_at);

-- Short texts that repeat: ban modules, downloader ids, peer flags.
CREATE TABLE label (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- One accepted body that held bans. digest: the first 16 bytes of the SHA-256 of the inflated body.
CREATE TABLE submission (
    id            INTEGER PRIMARY KEY,
    received_at   INTEGER NOT NULL,
    userapp       INTEGER NOT NULL,
    address       BLOB,
    populate_time INTEGER,
    digest        BLOB NOT NULL,
    rows          INTEGER NOT NULL,
    rejected      INTEGER NOT NULL
) STRICT;
CREATE INDEX submission_received ON submission (received_at);

CREATE TABLE ban (
    id                      INTEGER PRIMARY KEY,
    submission              INTEGER NOT NULL,
    received_at             INTEGER NOT NULL,
    userapp                 INTEGER NOT NULL,
    ban_at                  INTEGER,
    peer_ip                 BLOB NOT NULL,
    peer_port               INTEGER NOT NULL,
    client                  INTEGER NOT NULL,
    torrent                 INTEGER NOT NULL,
    from_peer_traffic       INTEGER NOT NULL,
    from_peer_traffic_speed INTEGER NOT NULL,
    to_peer_traffic         INTEGER NOT NULL,
    to_peer_traffic_speed   INTEGER NOT NULL,
    peer_progress           REAL,
    downloader_progress     REAL,
    flags                   INTEGER,
    btn_ban                 INTEGER NOT NULL,
    module                  INTEGER NOT NULL,
    rule                    TEXT,
    description             TEXT,
    ban_unique_id           TEXT,
    structured_data         TEXT,
    -- 64 bits of a hash over the application and the row's own key: the same ban sent again is stored once.
    dedupe                  INTEGER NOT NULL
) STRICT;
CREATE INDEX ban_received ON ban (received_at);
CREATE INDEX ban_peer_ip ON ban (peer_ip);
CREATE INDEX ban_dedupe ON ban (dedupe);

-- Every file of observations. Row ids in a segment begin at 1; the id that the world sees is first_row + rowid - 1.
CREATE TABLE segment (
    id                INTEGER PRIMARY KEY,
    kind              TEXT NOT NULL CHECK (kind IN ('snapshot', 'swarm')),
    -- hot: written to; closed: complete, not indexed yet; indexed: only read.
    state             TEXT NOT NULL CHECK (state IN ('hot', 'closed', 'indexed')),
    first_row         INTEGER NOT NULL,
    rows              INTEGER NOT NULL,
    submissions       INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    first_received_at INTEGER,
    last_received_at  INTEGER,
    bytes             INTEGER NOT NULL
) STRICT;
CREATE INDEX segment_kind ON segment (kind, id);
