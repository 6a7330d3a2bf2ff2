"""The loader over slow networks, emulated on this machine."""
