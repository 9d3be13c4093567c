-- Explorer and REST API look bans up by torrent and by client.
CREATE INDEX ban_torrent ON ban (torrent);
CREATE INDEX ban_client ON ban (client);
