"""The sentinel: a small process beside a worker that answers when the worker cannot.

`__main__` is run by its path, not imported; `guest.companion` is the worker's side.
"""
