"""What looks after an installation: its checks, and what is sent to somebody who shall help."""
