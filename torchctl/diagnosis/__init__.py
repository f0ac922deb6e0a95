"""Turn the evidence from a job into findings: which rank is the cause, and which ranks only wait for it."""
