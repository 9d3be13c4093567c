"""Stored rows for those who ask: what may be asked, how rows are presented, what is known of an address."""
