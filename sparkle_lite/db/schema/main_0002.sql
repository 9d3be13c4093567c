-- Signing in with GitHub, and what a page or a script asks of accounts.

-- What others see; NULL: the same as the name. Display only: it need not be unique.
ALTER TABLE user ADD COLUMN nickname TEXT;

-- Logins with GitHub that are under way. Both are SHA-256: of the state that went to GitHub, and of the verifier that
-- only the browser has. The second is PKCE's challenge, so the verifier itself stands nowhere on the server.
CREATE TABLE oauth_state (
    state_hash    BLOB PRIMARY KEY,
    verifier_hash BLOB NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX oauth_state_expires ON oauth_state (expires_at);
