"""One dump: untrusted bytes in, entries out."""
