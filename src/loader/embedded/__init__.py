"""The embedded PostgreSQL: its files and programs, the processes that use it, and the user it runs as."""
