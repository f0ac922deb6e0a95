"""Scenarios of real jobs, by theme: what each rank does until a fault, or what looks like one, is there."""
