"""What the daily run is made of: its steps, their order, and what it says that changed."""
