"""What `python -m src.benchmark` is made of: engines, turns, the machine's floor, counts, memory, tables."""
