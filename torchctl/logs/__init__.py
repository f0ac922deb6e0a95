"""What the logs of a job say: text in, facts out. No file is opened here."""
