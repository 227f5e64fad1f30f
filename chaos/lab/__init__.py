"""The laboratory of the chaos suite: places, processes, load, checks and reports. Standard library only."""
