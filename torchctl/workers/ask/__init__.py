"""Send a question to one worker or thousands, and collect the outcomes."""
