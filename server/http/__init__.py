"""Who may send requests, and how bytes become a request."""
