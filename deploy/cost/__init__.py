"""A month on AWS in dollars: the predecessor's, and ours for the same load."""
