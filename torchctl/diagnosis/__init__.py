"""Evidence of a job to findings: which rank is the cause, and who only waits for it."""
