"""``make bench-serving``: a lake of full size, a real server on it, and users, on the same two cores."""
