"""The local PostgreSQL: its files and programs, who uses it, and the user it runs as."""
