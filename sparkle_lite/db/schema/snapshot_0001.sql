-- A segment of snapshots: appended without secondary indexes, indexed once when it is closed.
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

CREATE TABLE snapshot (
    id                      INTEGER PRIMARY KEY,
    submission              INTEGER NOT NULL,
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
    flags                   INTEGER
) STRICT;
