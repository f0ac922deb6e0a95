"""Who may ask, and how bytes become a request."""
