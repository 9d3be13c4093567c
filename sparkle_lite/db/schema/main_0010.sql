-- What is wrong with what an application sends, so that the command line and the next start know it too.
CREATE TABLE userapp_trouble (
    userapp  INTEGER NOT NULL REFERENCES userapp (id),
    -- What it is about: one of the application's lists, its clock, its evidence, its requests.
    subject  TEXT NOT NULL,
    code     TEXT NOT NULL,
    -- JSON: what the sentence says beside the code.
    details  TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    -- Brought up to date once an hour.
    last_at  INTEGER NOT NULL,
    PRIMARY KEY (userapp, subject)
) STRICT, WITHOUT ROWID;
