"""The samplers in other codebases, where that takes more than passing one to a loader.

Nothing is imported here: each file needs the framework that it is named after.
"""
