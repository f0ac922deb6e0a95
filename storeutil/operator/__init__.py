"""What the store commands use."""
