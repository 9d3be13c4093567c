"""People, their applications and their sessions: who may come in, and everything that an account can go through."""
