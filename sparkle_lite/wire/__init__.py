"""BTN wire shapes: credentials, dialects, submissions, rule documents."""
