"""Kernel templates by family; each picks its tiles analytically from shapes and the machine."""
