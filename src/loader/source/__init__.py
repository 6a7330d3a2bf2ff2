"""The file's bytes in order, from a URL, a path or stdin, compressed or not."""
