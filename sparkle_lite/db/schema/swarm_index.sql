-- Earlier programs had an index on what is a table of its own now.
DROP INDEX IF EXISTS swarm_version_key;
-- What this segment has of each key: the row that counts, since when it is evidence (ms), and the smallest
-- first_time_seen of all versions.
CREATE TABLE IF NOT EXISTS version (
    version_key     INTEGER PRIMARY KEY,
    row             INTEGER NOT NULL,
    at              INTEGER NOT NULL,
    first_time_seen INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS swarm_peer_ip ON swarm (peer_ip);
CREATE INDEX IF NOT EXISTS swarm_client ON swarm (client);
CREATE INDEX IF NOT EXISTS swarm_torrent ON swarm (torrent);
CREATE INDEX IF NOT EXISTS submission_received ON submission (received_at);
