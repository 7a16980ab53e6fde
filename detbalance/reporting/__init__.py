"""Turn a report into something to look at: a console table, files, pictures.

Every module imports its own library when it is used: `console` needs rich, `figures` matplotlib.
"""
