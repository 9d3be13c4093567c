-- A segment of cumulative rows (histories and swarms): every version that a client sent is appended, and the version of
-- a key with the latest evidence wins on reading.
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

CREATE TABLE swarm (
    id                          INTEGER PRIMARY KEY,
    submission                  INTEGER NOT NULL,
    -- 64 bits of a hash over the application and what identifies the row for its client.
    version_key                 INTEGER NOT NULL,
    -- 0: a history (legacy), 1: a swarm (protocol 20).
    origin                      INTEGER NOT NULL,
    peer_ip                     BLOB NOT NULL,
    peer_port                   INTEGER NOT NULL,
    client                      INTEGER NOT NULL,
    torrent                     INTEGER NOT NULL,
    downloader                  INTEGER,
    -- Totals as the reporter counts them, in bytes; the offsets as sent.
    from_peer_traffic           INTEGER NOT NULL,
    from_peer_traffic_offset    INTEGER NOT NULL,
    to_peer_traffic             INTEGER NOT NULL,
    to_peer_traffic_offset      INTEGER NOT NULL,
    from_peer_traffic_speed     INTEGER NOT NULL,
    from_peer_traffic_speed_max INTEGER NOT NULL,
    to_peer_traffic_speed       INTEGER NOT NULL,
    to_peer_traffic_speed_max   INTEGER NOT NULL,
    peer_progress               REAL,
    downloader_progress         REAL,
    first_time_seen             INTEGER,
    last_time_seen              INTEGER,
    flags                       INTEGER
) STRICT;
