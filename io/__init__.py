"""How data comes and goes: files, the lake, and one resolver of AWS settings for all of them."""
