-- Everything that the votes of the analyses need of a ban, so that counting them never reads the wide rows.
CREATE INDEX ban_evidence ON ban (peer_ip, userapp, module, torrent, submission, received_at, ban_at)
    WHERE btn_ban = 0;
