-- Whose word counts from the start, and what everybody else's is worth by what they reported.

-- When an administrator vouched for this person; NULL: nobody does. Administrators need nobody to.
ALTER TABLE user ADD COLUMN vouched_at INTEGER;
-- Those whom an administrator added had a vote at once.
UPDATE user SET vouched_at = registered_at WHERE registered_by = 'admin';

-- What was measured of people's words last, by user. People whom nobody vouches for alone have a row.
CREATE TABLE word (
    user      INTEGER PRIMARY KEY REFERENCES user (id) ON DELETE CASCADE,
    -- 0..1; below a half it is silent.
    value     REAL NOT NULL,
    -- Sums of what agreed and disagreed with what vouched people saw, faded; canaries are among what disagreed.
    agreed    REAL NOT NULL,
    disagreed REAL NOT NULL,
    -- Who stands for all who keep reporting the same (a user, itself where it is alone).
    voice     INTEGER NOT NULL,
    -- JSON: how many addresses of each kind, and the newest of them.
    addresses TEXT NOT NULL
) STRICT;

-- Who decided an entry, as a JSON list of users: those without any one of whom it would not be listed. Shown to nobody.
ALTER TABLE decision ADD COLUMN decisive TEXT NOT NULL DEFAULT '[]';
-- Since when words count (ms): what would go for want of them alone waits a while.
INSERT INTO setting SELECT 'words_began', CAST(strftime('%s', 'now') AS INTEGER) * 1000
    WHERE EXISTS (SELECT 1 FROM decision WHERE origin NOT IN ('admin', 'config') AND origin NOT LIKE 'import:%');

-- When a listed peer was turned away last is read for the end of its listing.
DROP INDEX ban_caused;
CREATE INDEX ban_caused ON ban (peer_ip, userapp, module, torrent, received_at) WHERE btn_ban = 1;
-- What stands behind a vote is read with it.
DROP INDEX ban_evidence;
CREATE INDEX ban_evidence ON ban
    (peer_ip, userapp, module, torrent, submission, received_at, ban_at, to_peer_traffic, from_peer_traffic)
    WHERE btn_ban = 0;
