"""Measurements of the whole server; not collected by pytest."""
