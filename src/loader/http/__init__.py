"""An HTTP client that dials allowed addresses only: URLs, connections, responses, retries."""
