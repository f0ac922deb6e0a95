"""The worker side: a small debug server that runs inside every rank."""
