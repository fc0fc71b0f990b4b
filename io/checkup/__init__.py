"""Looks at an installation, part by part, and says of each how it is and what to do. No Beam at import."""
