"""The way of a body: from what a client sent to durable rows, and what its sender should hear of it."""
