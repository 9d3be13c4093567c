CREATE INDEX IF NOT EXISTS swarm_version_key ON swarm (version_key);
CREATE INDEX IF NOT EXISTS swarm_peer_ip ON swarm (peer_ip);
CREATE INDEX IF NOT EXISTS swarm_client ON swarm (client);
CREATE INDEX IF NOT EXISTS swarm_torrent ON swarm (torrent);
CREATE INDEX IF NOT EXISTS submission_received ON submission (received_at);
