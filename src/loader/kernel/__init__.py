"""The compiled kernel: CSV bytes to binary COPY tuples."""
