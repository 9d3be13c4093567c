CREATE INDEX IF NOT EXISTS snapshot_peer_ip ON snapshot (peer_ip);
CREATE INDEX IF NOT EXISTS snapshot_client ON snapshot (client);
CREATE INDEX IF NOT EXISTS snapshot_torrent ON snapshot (torrent);
CREATE INDEX IF NOT EXISTS submission_received ON submission (received_at);
