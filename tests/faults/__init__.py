"""What a run survives: real processes, real kills, full disks, damaged files."""
