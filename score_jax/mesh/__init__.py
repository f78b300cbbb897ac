"""Devices, and which part of every array each of them holds."""
