"""What each thread of this process is calling: frames, variables and bytecode of other threads, read and left alone."""
