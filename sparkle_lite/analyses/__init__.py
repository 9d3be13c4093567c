"""What the stored reports say about peers: each analysis is one query, and some numbers."""
