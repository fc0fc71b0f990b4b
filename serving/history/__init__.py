"""Bars of the lake as questions and answers."""
