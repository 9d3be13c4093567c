"""The store: every SQL statement and every SQLite connection of the program."""
