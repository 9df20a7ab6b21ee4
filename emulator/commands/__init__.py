"""The commands of the command line, each a thin call into the room that does it.

Nothing heavy is imported before a command needs it, so that ``smpbox boxes`` answers at once.
"""
