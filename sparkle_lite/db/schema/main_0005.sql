-- What came in, by the hour, so that a chart can reach back further than the observations themselves are kept.
CREATE TABLE activity (
    -- Hours since the epoch.
    hour        INTEGER NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('snapshot', 'swarm', 'ban')),
    submissions INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    PRIMARY KEY (hour, kind)
) STRICT, WITHOUT ROWID;
