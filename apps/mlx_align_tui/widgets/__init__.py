"""Widgets that more than one screen may use."""
