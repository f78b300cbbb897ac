"""Graders: is a submitted answer right?"""
