"""Reports that take more than one request to a worker."""
