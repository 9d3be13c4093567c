"""The rules: what the operator wrote, what was decided, what nobody may list, and the documents made of it."""
