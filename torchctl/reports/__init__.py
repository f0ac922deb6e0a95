"""What takes more than one question."""
