"""The page at ``/``: a chart of bars as they are and as they grow. No build step, no other host."""
