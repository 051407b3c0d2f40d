"""What a trained network is handed on as: files for other programs, a bundle for this one, and how they compare."""
