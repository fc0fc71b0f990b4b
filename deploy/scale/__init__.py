"""How far it goes: what was measured, and arithmetic from there to larger loads."""
