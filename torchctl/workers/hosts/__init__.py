"""Workers of other hosts: one `torchctl relay` on each."""
