"""How a question reaches one worker or thousands, and what comes back."""
