"""What a row means: fields, rows, the header, blocks, and the encoder that uses the kernel."""
