"""What a recorder's entries say, for display."""
