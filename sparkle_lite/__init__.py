"""Sparkle Lite: a BTN (BitTorrent Threat Network) server in one light process on SQLite."""

__version__ = "0.2.0"
