"""What each thread of this process is calling: other threads' frames, variables and bytecode, read but not touched."""
