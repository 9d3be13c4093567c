-- A ban is one row however often and in whatever shapes it is reported.

-- The `dedupe` that a ban has in the other of the two shapes in which PeerBanHelper reports it, once it came in both.
CREATE TABLE IF NOT EXISTS ban_also (
    dedupe INTEGER PRIMARY KEY,
    ban    INTEGER NOT NULL UNIQUE REFERENCES ban (id) ON DELETE CASCADE
) STRICT;
-- Bans that were reported again: the client's time in the last report, and when that was received. Not in the wide row:
-- a client that sends its whole list every quarter of an hour would have a page written for each of its bans.
CREATE TABLE IF NOT EXISTS ban_last_report (
    ban         INTEGER PRIMARY KEY REFERENCES ban (id) ON DELETE CASCADE,
    ban_at      INTEGER,
    received_at INTEGER NOT NULL
) STRICT;

-- What was stored many times becomes one row. Without indexes meanwhile: making them anew is quicker than the upkeep of
-- each for every row that changes or goes.
DROP INDEX ban_received;
DROP INDEX ban_peer_ip;
DROP INDEX ban_torrent;
DROP INDEX ban_client;
DROP INDEX ban_evidence;
DROP INDEX ban_dedupe;
DROP INDEX IF EXISTS ban_caused;
-- qBittorrent-ClientBlocker's time of a ban moves with the peer, so it is no part of what the ban is known by any more.
UPDATE ban SET dedupe = stable_number(
        ban.userapp, 'id_time', ban.ban_unique_id,
        iif(typeof(t.identifier) = 'blob', lower(hex(t.identifier)), t.identifier), l.text, ban.rule)
    FROM torrent t, label l
    WHERE t.id = ban.torrent AND l.id = ban.module AND ban.ban_unique_id <> ''
        AND l.text GLOB 'com.SimpleTracker.qBCB.*';
CREATE INDEX ban_dedupe ON ban (dedupe);
-- Reports that follow each other closely are of one ban: 24 hours after the last for those; twice as long for bans
-- without an id, of which one a day was stored at the most, however often they came.
CREATE TABLE chained AS
    WITH report AS (
        SELECT b.id, b.dedupe, b.ban_at, b.received_at, l.text GLOB 'com.SimpleTracker.qBCB.*' AS sighted
        FROM ban b JOIN label l ON l.id = b.module
        WHERE b.dedupe IN (SELECT dedupe FROM ban GROUP BY dedupe HAVING count(*) > 1)
    ), timed AS (
        SELECT *, iif(sighted, coalesce(ban_at, received_at), received_at) AS at FROM report
    ), marked AS (
        SELECT *, at - lag(at) OVER (PARTITION BY dedupe ORDER BY at, id) > 86400000 * (2 - sighted) AS is_next
        FROM timed
    ), counted AS (
        SELECT *, total(is_next) OVER (PARTITION BY dedupe ORDER BY at, id) AS chain FROM marked
    )
    SELECT id, ban_at, received_at, first_value(id) OVER (PARTITION BY dedupe, chain ORDER BY at, id) AS first
    FROM counted;
INSERT INTO ban_last_report
    SELECT first, max(ban_at), max(received_at) FROM chained GROUP BY first HAVING count(*) > 1;
DROP INDEX ban_dedupe;
DELETE FROM ban WHERE id IN (SELECT id FROM chained WHERE id <> first);
DROP TABLE chained;

CREATE INDEX ban_received ON ban (received_at);
CREATE INDEX ban_peer_ip ON ban (peer_ip);
CREATE INDEX ban_dedupe ON ban (dedupe);
CREATE INDEX ban_torrent ON ban (torrent);
CREATE INDEX ban_client ON ban (client);
CREATE INDEX ban_evidence ON ban (peer_ip, userapp, module, torrent, submission, received_at, ban_at)
    WHERE btn_ban = 0;
-- What ban_evidence is for all others: the bans of one application for one peer in one torrent.
CREATE INDEX ban_caused ON ban (peer_ip, userapp, module, torrent) WHERE btn_ban = 1;
