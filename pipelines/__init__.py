"""Command lines and graph wiring. A pipeline file reads like its picture."""
